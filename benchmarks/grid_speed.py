"""What grids cost beside their cells: scheduling, two processes against one, resuming, the page.

    python benchmarks/grid_speed.py

writes ``benchmarks/results/grid_speed.json`` in about four minutes, in most of which cells only
sleep. Measures that are not named by ``--measure`` keep their rows. Timings of busy cells mean
something on a quiet machine only, so each row has the load before it began.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer
from speed_cells import COUNT, DRAWN, SLEEP, cells

from invertune_plugin.benchmark.commands.report import GridReportJob, report_grid
from invertune_plugin.benchmark.grid.bench import BenchOptions, run_bench
from invertune_plugin.benchmark.grid.cells import Cell
from invertune_plugin.benchmark.grid.run import Ran
from invertune_plugin.benchmark.record import Rows, merge_rows

RESULTS = Path(__file__).parent / "results" / "grid_speed.json"
JOBS = 2


def overhead(seconds: float = 10.0, number: int = 20) -> dict[str, Any]:
    """Wall time of sleeping cells over the time that they sleep, with and without the start.

    The start of the processes is that of a grid whose cells take no time.
    """
    start = timed(cells(SLEEP, JOBS, seconds=0.0), JOBS)
    wall = timed(cells(SLEEP, number, seconds=seconds), JOBS)
    slept = seconds * number / JOBS
    row = {"cells": number, "cell_seconds": seconds, "jobs": JOBS, "seconds": round(wall, 2)}
    row |= {"seconds_start": round(start, 2), "overhead": round(wall / slept - 1, 4)}
    return row | {"overhead_started": round((wall - start) / slept - 1, 4)}


def speedup(additions: int = 60_000_000, number: int = 8) -> dict[str, Any]:
    """Wall time of busy single-thread cells in two processes over that in one."""
    busy = cells(COUNT, number, additions=additions)
    one, two = timed(busy, 1), timed(busy, JOBS)
    row = {"cells": number, "jobs": JOBS, "seconds_one": round(one, 2), "seconds": round(two, 2)}
    return row | {"ratio": round(two / one, 3)}


def resume(number: int = 1000) -> dict[str, Any]:
    """Seconds that ``run_bench`` takes for a grid of which every cell is done; imports aside."""
    made = cells(SLEEP, number, seconds=0.0)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        run_bench(made, store, BenchOptions(jobs=JOBS))
        again = cells(SLEEP, number, seconds=0.0)
        start = time.perf_counter()
        ran = run_bench(again, store, BenchOptions(jobs=JOBS))
        seconds = time.perf_counter() - start
    assert ran == Ran(0, 0)
    return {"cells": number, "seconds": round(seconds, 3)}


def report(attacks: int = 20, defenses: int = 25, seeds: int = 2) -> dict[str, Any]:
    """Seconds and size of the page about a grid whose cells have pictures, curves and logs."""
    axes = product(range(seeds), range(attacks), range(defenses))
    grid = [
        Cell(DRAWN, {"number": n, "seed": seed, "attack": f"a{attack}", "defense": f"d{defense}"})
        for n, (seed, attack, defense) in enumerate(axes)
    ]
    with tempfile.TemporaryDirectory() as folder:
        store, page = Path(folder) / "store", Path(folder) / "report.html"
        run_bench(grid, store, BenchOptions(jobs=JOBS))
        start = time.perf_counter()
        report_grid(GridReportJob(store, page))
        seconds = time.perf_counter() - start
        size = page.stat().st_size / 2**20
    return {"cells": len(grid), "seconds": round(seconds, 2), "megabytes": round(size, 2)}


MEASURES: Mapping[str, Callable[[], dict[str, Any]]] = {
    "overhead": overhead,
    "speedup": speedup,
    "resume": resume,
    "report": report,
}


def timed(grid: Sequence[Cell], jobs: int) -> float:
    """Seconds of a grid in a new store."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        ran = run_bench(grid, Path(folder) / "store", BenchOptions(jobs=jobs))
        seconds = time.perf_counter() - start
    assert ran == Ran(len(grid), 0)
    return seconds


def command_of(rows: Rows) -> str:
    """The command that gives these rows."""
    chosen = sorted(row["measure"] for row in rows)
    every = chosen == sorted(MEASURES)
    options = [] if every else [f"--measure {name}" for name in chosen]
    return " ".join(["python benchmarks/grid_speed.py", *options])


def main(
    measure: Annotated[list[str], typer.Option(help="May be repeated.")] = list(MEASURES),  # noqa: B006
    out: Annotated[Path, typer.Option(help="Result file.")] = RESULTS,
) -> None:
    """Measure and write the rows."""
    for name in measure:
        load = round(os.getloadavg()[0], 2)
        row = {"measure": name, "load_before": load, **MEASURES[name]()}
        print(row)
        merge_rows(out, [row], lambda row: row["measure"], command_of)


if __name__ == "__main__":
    typer.run(main)
