"""What a plan will take, told from earlier cells of the same kind."""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean

from invertune_plugin.benchmark.grid.cells import Cell
from invertune_plugin.benchmark.grid.claims import IMPOSSIBLE, Claim
from invertune_plugin.benchmark.grid.plan import Plan

HEADER = ["kind", "cells", "done", "to run", "failed", "impossible", "seconds to run"]


def estimate(cells: Iterable[Cell], claims: Iterable[Claim]) -> dict[str, float]:
    """Seconds per cell key.

    The mean of stored cells of the same kind on the same tower counts, else that of the kind, else
    the guess of the kind.
    """
    known: dict[tuple[str, str], list[float]] = {}
    for claim in claims:
        if claim.cost is not None:
            tower = str(claim.about.names.get("tower", ""))
            for place in {tower, ""}:
                known.setdefault((claim.about.kind, place), []).append(claim.cost.seconds)
    found = {}
    for cell in cells:
        name, tower = cell.kind.name, str(cell.names.get("tower", ""))
        times = known.get((name, tower)) or known.get((name, ""))
        found[cell.key] = fmean(times) if times else cell.kind.seconds
    return found


def overview(plan: Plan, seconds: dict[str, float]) -> list[list[str]]:
    """One row of ``HEADER`` per kind of cell, in the order in which they run."""
    missing = {cell.key for cell in plan.missing}
    rows = []
    for kind in dict.fromkeys(cell.kind.name for cell in plan.cells):
        keys = [cell.key for cell in plan.cells if cell.kind.name == kind]
        impossible = sum(
            key in plan.marked and plan.marked[key].outcome == IMPOSSIBLE for key in keys
        )
        failed = sum(key in plan.failed or key in plan.marked for key in keys) - impossible
        run = [key for key in keys if key in missing]
        counts = [len(keys), len(plan.done & set(keys) - missing), len(run), failed, impossible]
        rows.append([kind, *map(str, counts), f"{sum(seconds[key] for key in run):.0f}"])
    return rows


def duration(seconds: float) -> str:
    """A time as people say it."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
