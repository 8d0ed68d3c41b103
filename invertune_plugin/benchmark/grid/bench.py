"""A grid from its cells to its store: choose, plan, tell or run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from invertune_plugin.benchmark.grid.cells import Cell
from invertune_plugin.benchmark.grid.claims import IMPOSSIBLE
from invertune_plugin.benchmark.grid.engines import open_engine
from invertune_plugin.benchmark.grid.estimate import HEADER, duration, estimate, overview
from invertune_plugin.benchmark.grid.plan import Plan, choose, plan_cells
from invertune_plugin.benchmark.grid.run import Ran, mark_cells, run_plan
from invertune_plugin.benchmark.grid.store import Store
from invertune_plugin.console import item_progress, say, table
from invertune_plugin.errors import InputError
from invertune_plugin.outcome import Outcome


@dataclass(frozen=True)
class BenchOptions:
    """How to run a grid.

    Attributes:
        only: ``name=value`` words; cells that fit all names are run, with their parents.
        jobs: processes of this machine.
        scheduler: address of a Dask or Ray cluster to use instead.
        dry_run: only tell what would run.
        wait: for another run on the same store, instead of refusing.
        again: try cells that failed in an earlier run once more.
    """

    only: tuple[str, ...] = ()
    jobs: int = 1
    scheduler: str | None = None
    dry_run: bool = False
    wait: bool = False
    again: bool = False

    def __post_init__(self) -> None:
        """Refuse a run without processes."""
        if self.jobs < 1:
            raise InputError(f"Expected one or more jobs, got {self.jobs}.")


def run_bench(cells: Sequence[Cell], folder: Path, options: BenchOptions) -> Ran:
    """Run a grid, or go on with it.

    Args:
        cells: all cells of the grid that are wanted.
        folder: of the store; on a cluster, a folder that all its machines share.
        options: how.

    Returns:
        What was done; cells that failed in an earlier run and are not tried again, and those that
        need an impossible one, have failed.

    Raises:
        InputError: options or store cannot be used, another run uses the store, or the disk is
            full.
    """
    chosen = choose(cells, options.only)
    store = Store(folder)
    if not (options.dry_run and store.is_new):
        store = Store.open(folder)
    if options.dry_run:
        plan = plan_cells(chosen, store, options.again)
        _tell_hindrances(plan)
        _tell(plan, store, options)
        return Ran(0, 0)
    with store.locked(options.wait):
        plan = plan_cells(chosen, store, options.again)
        mark_cells(plan, store)
        hindered = _tell_hindrances(plan)
        waiting = [mark for mark in plan.marked.values() if mark.outcome == Outcome.FAILED.value]
        earlier = len(plan.failed) + len(waiting)
        if earlier:
            say(f"{earlier} cells failed earlier, or need one that did; --again tries them anew.")
        if not plan.missing:
            return Ran(0, earlier + hindered)
        _tell(plan, store, options)
        with (
            closing(open_engine(options.jobs, options.scheduler)) as engine,
            item_progress("cells") as advance,
        ):
            ran = run_plan(plan, store, engine, say, advance)
        return replace(ran, failed=ran.failed + earlier + hindered)


def _tell_hindrances(plan: Plan) -> int:
    """Print why cells cannot work that others need; the number of those others."""
    hindered = [m for m in plan.marked.values() if m.outcome == IMPOSSIBLE and m.blamed]
    reasons = dict.fromkeys(plan.marked[mark.blamed].reason for mark in hindered)
    if reasons:
        say(f"{len(hindered)} cells need what is impossible here: {' '.join(reasons)}")
    return len(hindered)


def _tell(plan: Plan, store: Store, options: BenchOptions) -> None:
    """Print what is to be run, and about how long it takes."""
    seconds = estimate(plan.missing, store.claims())
    table(HEADER, overview(plan, seconds))
    whole = sum(seconds.values())
    jobs = options.jobs
    shared = "" if options.scheduler else f", at best {duration(whole / jobs)} with --jobs {jobs}"
    say(f"{len(plan.missing)} of {len(plan.cells)} cells to run: about {duration(whole)}{shared}.")
