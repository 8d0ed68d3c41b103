"""Rows of committed results, and Markdown tables of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"

Row = dict[str, Any]
Rows = list[Row]


def read(result: str, **wanted: Any) -> Rows:
    """Rows of a result file that have these values."""
    rows: Rows = json.loads((RESULTS / f"{result}.json").read_text(encoding="utf-8"))["rows"]
    return only(rows, **wanted)


def only(rows: Rows, **wanted: Any) -> Rows:
    """Rows that have these values."""
    return [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]


def distinct(rows: Rows, key: str) -> list[str]:
    """Values of a key in the order in which they come up."""
    return list(dict.fromkeys(row[key] for row in rows))


def mean(rows: Rows, key: str) -> str:
    """Mean of a rate over rows, in percent."""
    return f"{100 * sum(row[key] for row in rows) / len(rows):.1f}"


def spread(rows: Rows, key: str) -> str:
    """Mean of a rate over rows and its least and largest value, in percent."""
    values = [row[key] for row in rows if key in row]
    if not values:
        return ""
    told = mean([row for row in rows if key in row], key)
    low, high = 100 * min(values), 100 * max(values)
    return told if high - low < 0.05 else f"{told} ({low:.1f}–{high:.1f})"


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    every = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(parts) + " |" for parts in every)


def crossed(
    rows: Rows,
    line: str,
    lines: Sequence[str],
    column: str,
    columns: Sequence[str],
    told: Callable[[Rows], str],
) -> list[list[str]]:
    """Lines of a table: a name, then what is told of its rows in each column."""
    return [
        [name, *(told(only(rows, **{line: name, column: other})) for other in columns)]
        for name in lines
    ]
