"""``invertune bench``: attacks x defences in one resumable grid."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from invertune_plugin.adapters.tracking import Tracker, opened
from invertune_plugin.benchmark.bench.cells import bench_cells
from invertune_plugin.benchmark.bench.recipe import load_bench
from invertune_plugin.benchmark.commands.results import ResultsJob, show_results
from invertune_plugin.benchmark.commands.tracking import log_row
from invertune_plugin.benchmark.grid.bench import BenchOptions, run_bench
from invertune_plugin.benchmark.grid.rows import current, flat, rates_in, rows_of
from invertune_plugin.benchmark.grid.store import Store
from invertune_plugin.console import say


def run_grid(name: str, folder: Path, options: BenchOptions, track: str | None = None) -> int:
    """Run a grid, or go on with it, and print its results.

    Args:
        name: of a shipped grid, or a YAML file.
        folder: of the store.
        options: how to run.
        track: where to log the rows of the grid's repairs: see ``adapters.tracking``.

    Returns:
        The exit code: 1 where cells failed, in this run or an earlier one, else 0.

    Raises:
        InputError: grid, options or store cannot be used.
    """
    bench = load_bench(name)
    cells = list(bench_cells(bench))
    with opened(
        None if options.dry_run else track, f"bench-{bench.name}", asdict(bench), say
    ) as tracker:
        ran = run_bench(cells, folder, options)
        if not options.dry_run:
            keys = frozenset(cell.key for cell in cells)
            _track(tracker, Store.open(folder), keys)
            show_results(ResultsJob(folder, where=("kind=repair", *options.only), keys=keys))
    return 1 if ran.failed else 0


def _track(tracker: Tracker, store: Store, keys: frozenset[str]) -> None:
    mine = [row for row in rows_of(store) if row["key"] in keys]
    for row in map(flat, current(mine)):
        name = "/".join(str(row[part]) for part in ("base", "tower", "attack", "defense"))
        rates = {field: row[field] for field in rates_in([row])}
        log_row(tracker, rates, name, step=row["seed"])
