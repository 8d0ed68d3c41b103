"""``invertune report``: a store of ``invertune bench`` as one HTML file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from invertune_plugin.benchmark.bench.cells import bench_cells
from invertune_plugin.benchmark.bench.recipe import load_bench
from invertune_plugin.benchmark.grid.cells import in_order
from invertune_plugin.benchmark.grid.store import Store
from invertune_plugin.benchmark.grid_report.contents import read_contents
from invertune_plugin.benchmark.grid_report.page import render_grid
from invertune_plugin.console import say
from invertune_plugin.files import refuse_existing, write_text


@dataclass(frozen=True)
class GridReportJob:
    """What to report.

    Attributes:
        store: folder of a grid.
        out: the HTML file.
        grid: name or YAML file of the whole grid, so that all its cells are shown, and results with
            its settings count more than others; without one, every attack that the store has meets
            every defence and seed that it has, and the newest results count.
        title: of the page; by default the name of the store's folder.
        overwrite: replace the file.
    """

    store: Path
    out: Path
    grid: str | None = None
    title: str | None = None
    overwrite: bool = False


def report_grid(job: GridReportJob) -> None:
    """Write the report of a store.

    Raises:
        InputError: store, grid or output cannot be used.
    """
    refuse_existing(job.out, job.overwrite)
    store = Store.open(job.store, create=False)
    cells = [] if job.grid is None else list(bench_cells(load_bench(job.grid)))
    contents = read_contents(store, {cell.key for cell in in_order(cells)})
    planned = [cell.names for cell in cells]
    page = render_grid(job.title or job.store.resolve().name, contents, planned)
    write_text(job.out, page.html, job.overwrite)
    size = len(page.html.encode()) / 2**20
    say(f"written: {job.out}, {page.cells} cells, {size:.1f} MB.")
    if page.pictures_left_out:
        say(f"{page.pictures_left_out} pictures were left out, as the file would be too large.")
