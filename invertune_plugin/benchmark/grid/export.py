"""Rows of a store as CSV (all fields), and as LaTeX and Markdown tables (shares with intervals)."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence

from invertune_plugin.benchmark.grid.rows import Row, flat, is_share, names_in, rates_in

_LATEX = {c: f"\\{c}" for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
}


SHORT = ("ca_after", "asr_after", "asr_rebound", "tpr", "fpr")
"""Shares that fit on a screen."""


def header_and_cells(rows: Sequence[Row], short: bool = False) -> tuple[list[str], list[list[str]]]:
    """The table for people: kind, names, outcome, shares in % with their intervals, seconds.

    Args:
        rows: of a store.
        short: only the main shares, where there are any, and no intervals.
    """
    names, rates = names_in(rows), rates_in(rows)
    if short:
        rates = [name for name in rates if name in SHORT] or rates
    header = ["kind", *names, "outcome", *rates, "seconds"]
    cells = [
        [
            row["kind"],
            *(str(row["about"].get(name, "")) for name in names),
            row["outcome"] + ("" if row["reliable"] else " (doubtful)"),
            *(share(row, name, bare=short) for name in rates),
            f"{row['seconds']:.1f}" if "seconds" in row else "",
        ]
        for row in rows
    ]
    return header, cells


def share(row: Row, name: str, bare: bool = False) -> str:
    """A share in % with its 95 % interval, where it has one; nothing where the row has no share.

    Args:
        row: that it is in.
        name: of its field.
        bare: leave the interval out.
    """
    if not is_share(row, name):
        return ""
    value, low, high = row[name], row.get(f"{name}_low"), row.get(f"{name}_high")
    if isinstance(value, bool):
        return "yes" if value else "no"
    told = f"{100 * value:.1f}"
    if bare or low is None or high is None:
        return told
    return f"{told} [{100 * low:.1f}, {100 * high:.1f}]"


def to_csv(rows: Sequence[Row]) -> str:
    """All fields of all rows."""
    every = [flat(row) for row in rows]
    out = io.StringIO()
    writer = csv.DictWriter(
        out, list(dict.fromkeys(name for row in every for name in row)), lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(every)
    return out.getvalue()


def to_markdown(rows: Sequence[Row]) -> str:
    """A table of Markdown; shares in %."""
    header, cells = header_and_cells(rows)
    lines = [header, ["---"] * len(header), *cells]
    return "".join(f"| {' | '.join(_one_line(c) for c in line)} |\n" for line in lines)


def to_latex(rows: Sequence[Row]) -> str:
    """A ``tabular`` with the rules of booktabs; shares in %."""
    header, cells = header_and_cells(rows)
    texts = len(names_in(rows)) + 2
    columns = "l" * texts + "r" * (len(header) - texts)
    lines = [f"\\begin{{tabular}}{{{columns}}}", r"\toprule", _latex_line(header), r"\midrule"]
    lines += [*map(_latex_line, cells), r"\bottomrule", r"\end{tabular}"]
    return "\n".join(lines) + "\n"


def _latex_line(cells: Sequence[str]) -> str:
    def escaped(text: str) -> str:
        return re.sub(r"[&%$#_{}\\~^]", lambda found: _LATEX[found.group()], text)

    # An empty group first: a line that begins with a bracket would be read as a length.
    return "{}" * cells[0].startswith("[") + " & ".join(map(escaped, cells)) + r" \\"


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
