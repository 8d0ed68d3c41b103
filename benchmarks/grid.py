"""The claims of grids as one committed file.

    invertune bench quick --out runs/quick --jobs 2
    python benchmarks/grid.py runs/quick

writes ``benchmarks/results/grid.json``: a row per claim and per cell that failed or is impossible.
Of several rows about the same cell the newest stays, one that tells that the cell is impossible
only where there is no other, and rows of other grids stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from invertune_plugin.benchmark.grid.rows import flat, newest, row_rank, rows_of
from invertune_plugin.benchmark.grid.store import Store
from invertune_plugin.benchmark.record import Rows, merge_rows

RESULTS = Path(__file__).parent / "results" / "grid.json"
NAMES = ("kind", "base", "tower", "attack", "defense", "seed", "rebound")


def main(
    store: Annotated[list[Path], typer.Argument(help="Folders of grids.")],
    out: Annotated[Path, typer.Option(help="Result file.")] = RESULTS,
) -> None:
    """Gather the claims of stores."""
    every = [
        {"measure": "grid", **flat(row)}
        for folder in store
        for row in newest(rows_of(Store.open(folder, create=False))).values()
    ]
    merge_rows(out, list(by_cell(every).values()), experiment, command_of, row_rank)


def by_cell(rows: Iterable[dict[str, Any]]) -> dict[tuple[str, ...], dict[str, Any]]:
    """The row that counts about each cell; older code had other names for them."""
    return {experiment(row): row for row in sorted(rows, key=row_rank)}


def experiment(row: dict[str, Any]) -> tuple[str, ...]:
    """The cell that a row is about."""
    return tuple(str(row.get(name)) for name in NAMES)


def command_of(rows: Rows) -> str:
    """The command that gives these rows."""
    return "invertune bench GRID --out runs/GRID && python benchmarks/grid.py runs/GRID"


if __name__ == "__main__":
    typer.run(main)
