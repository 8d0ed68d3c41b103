"""``invertune bench``: attacks x defences in one resumable grid."""

from __future__ import annotations

from pathlib import Path

from invertune_plugin.benchmark.bench_cells import bench_cells
from invertune_plugin.benchmark.bench_recipe import load_bench
from invertune_plugin.benchmark.grid.bench import BenchOptions, run_bench
from invertune_plugin.benchmark.results_command import ResultsJob, show_results


def run_grid(name: str, folder: Path, options: BenchOptions) -> int:
    """Run a grid, or go on with it, and print its results.

    Args:
        name: of a shipped grid, or a YAML file.
        folder: of the store.
        options: how to run.

    Returns:
        The exit code: 1 where cells failed, else 0.

    Raises:
        InputError: grid, options or store cannot be used.
    """
    ran = run_bench(list(bench_cells(load_bench(name))), folder, options)
    if not options.dry_run:
        show_results(ResultsJob(folder, where=("kind=repair", *options.only)))
    return 1 if ran.failed else 0
