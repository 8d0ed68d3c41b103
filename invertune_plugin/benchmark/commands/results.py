"""``invertune results``: list, filter, compare and export the claims of a store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from invertune_plugin.benchmark.bench.cells import bench_cells
from invertune_plugin.benchmark.bench.recipe import load_bench
from invertune_plugin.benchmark.grid.cells import in_order
from invertune_plugin.benchmark.grid.export import (
    header_and_cells,
    to_csv,
    to_latex,
    to_markdown,
)
from invertune_plugin.benchmark.grid.filters import matches, parse_filters
from invertune_plugin.benchmark.grid.rows import Row, current, differences, flat, rows_of
from invertune_plugin.benchmark.grid.store import Store
from invertune_plugin.benchmark.grid.summary import summary
from invertune_plugin.console import say, table
from invertune_plugin.errors import InputError
from invertune_plugin.files import refuse_existing, write_text


@dataclass(frozen=True)
class ResultsJob:
    """What to show of a store.

    Attributes:
        store: its folder.
        where: ``name=value`` words; rows that fit all names are taken.
        diff: folder of a store to compare with.
        summary: one row for all seeds, also in the files.
        csv: file for all fields.
        latex: file for a table with the rules of booktabs.
        markdown: file for a table.
        overwrite: replace these files.
        keys: take only cells of these keys, a grid's own; None takes all.
        grid: name or YAML file of a grid: results with its settings count more than newer ones.
    """

    store: Path
    where: tuple[str, ...] = ()
    diff: Path | None = None
    summary: bool = False
    csv: Path | None = None
    latex: Path | None = None
    markdown: Path | None = None
    overwrite: bool = False
    keys: frozenset[str] | None = None
    grid: str | None = None


def show_results(job: ResultsJob) -> None:
    """List the rows of a store, or what differs in another one, and write the tables asked for.

    Raises:
        InputError: store, filter or output cannot be used, or both a summary and differences are
            asked for.
    """
    if job.summary and job.diff is not None:
        raise InputError(
            "Expected either a summary or another store to compare with, got both. Leave out "
            "--summary or --diff."
        )
    outputs: list[tuple[Path | None, Callable[[Sequence[Row]], str]]] = [
        (job.csv, to_csv),
        (job.latex, to_latex),
        (job.markdown, to_markdown),
    ]
    for path, _ in outputs:
        if path is not None:
            refuse_existing(path, job.overwrite)
    every = rows_of(Store.open(job.store, create=False))
    if job.keys is not None:
        every = [row for row in every if row["key"] in job.keys]
    cells = [] if job.grid is None else in_order(bench_cells(load_bench(job.grid)))
    keys = {cell.key for cell in cells}
    rows = current(every, keys)
    older = len(every) - len(rows)
    other = [] if job.diff is None else current(rows_of(Store.open(job.diff, create=False)), keys)
    filters = parse_filters(job.where, [flat(row) for row in [*rows, *other]])
    rows, other = ([r for r in some if matches(filters, flat(r))] for some in (rows, other))
    if job.summary:
        rows = summary(rows)
    if job.diff is None:
        table(*header_and_cells(rows, short=True))
        over = "means over seeds, bootstrapped over them" if job.summary else "over images"
        say(f"{len(rows)} rows. Shares in %; all of them, with 95 % intervals {over}: --csv FILE.")
        if older:
            say(f"Left out: {older} other results of cells that were computed again.")
    else:
        _compare(rows, other)
    for path, written in outputs:
        if path is not None:
            write_text(path, written(rows), job.overwrite)
            say(f"written: {path}")


def _compare(rows: list[Row], other: list[Row]) -> None:
    found = differences(rows, other)
    header = ["cell", "field", "here", "there", "intervals"]
    cells = [
        [d.title, d.field, _told(d.before), _told(d.after), "apart" if d.apart else ""]
        for d in found
    ]
    if found:
        table(header, cells)
    say(f"{len(found)} differences, {sum(d.apart for d in found)} with intervals apart.")


def _told(value: object) -> str:
    return "" if value is None else str(value)
