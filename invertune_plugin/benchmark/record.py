"""Result files: what was run, where, and flat rows of what came out (one per claim)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from filelock import FileLock

from invertune_plugin.benchmark.provenance import commit, machine, versions
from invertune_plugin.files import write_text
from invertune_plugin.metrics import DEFINITIONS, Rate
from invertune_plugin.retrieval import DEFINITIONS as OF_RETRIEVAL

Rows = list[dict[str, Any]]


def record(command: str, rows: Rows, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A result file: command, commit, machine, versions, definitions and rows; JSON values only.

    Args:
        command: that makes the rows.
        rows: what came out.
        settings: all of the method, where the rows have the same; defaults and those of a file too.
    """
    return {
        "command": command,
        **({} if settings is None else {"settings": dict(settings)}),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "definitions": DEFINITIONS | OF_RETRIEVAL,
        "rows": rows,
    }


def experiment(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row of a result file belongs to, where nothing else is said."""
    return row["measure"], row["recipe"], row.get("seed")


def created(row: dict[str, Any]) -> str:
    """When a row was made, where it says so."""
    return str(row.get("created", ""))


def merge_rows(
    out: Path,
    rows: Rows,
    experiment: Callable[[dict[str, Any]], Any],
    command: Callable[[Rows], str],
    rank: Callable[[dict[str, Any]], Any] = created,
) -> None:
    """Put rows into a result file in place of others of the same experiment.

    One of a higher rank in the file stays, as a newer one does of rows that say when they were
    ``created``. Several processes may do so at once: each waits for its turn.

    Args:
        out: the file; made where absent.
        rows: new ones; each gets the present commit, unless it names its own.
        experiment: what a row belongs to.
        command: the command that gives all rows.
        rank: of a row; of several of the same experiment the highest counts, and of equal ones the
            new one.
    """
    with FileLock(out.with_name(f".{out.name}.lock")):
        old: Rows = json.loads(out.read_text(encoding="utf-8"))["rows"] if out.exists() else []
        there = {experiment(row): rank(row) for row in old}
        mine = [
            {"commit": commit(), **row}
            for row in rows
            if experiment(row) not in there or rank(row) >= there[experiment(row)]
        ]
        new = {experiment(row) for row in mine}
        kept = [row for row in old if experiment(row) not in new]
        every = sorted(kept + mine, key=lambda row: str(experiment(row)))
        write_text(out, as_lines(record(command(every), every)), overwrite=True)


def as_lines(content: dict[str, Any]) -> str:
    """A result file as JSON text with a line per row, so that a changed row is a changed line."""
    head = json.dumps({**content, "rows": []}, indent=1)
    rows = ",\n".join(f"  {json.dumps(row)}" for row in content["rows"])
    return head.replace('"rows": []', f'"rows": [\n{rows}\n ]') + "\n"


def rate_fields(name: str, rate: Rate | None) -> dict[str, float]:
    """A rate as flat fields: ``name``, ``name_low``, ``name_high``, ``name_n``; none for None."""
    if rate is None:
        return {}
    low, high = rate.interval
    return {
        name: round(rate.value, 5),
        f"{name}_low": round(low, 5),
        f"{name}_high": round(high, 5),
        f"{name}_n": rate.n,
    }
