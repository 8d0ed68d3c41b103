"""What a plan will take, told from earlier cells of the same kind."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import fmean
from typing import Any

from invertune_plugin.benchmark.grid.cells import Cell
from invertune_plugin.benchmark.grid.claims import IMPOSSIBLE, Claim
from invertune_plugin.benchmark.grid.plan import Plan

Alike = tuple[str, str, str]
HEADER = ["kind", "cells", "done", "to run", "failed", "impossible", "seconds to run"]


def estimate(cells: Iterable[Cell], claims: Iterable[Claim]) -> dict[str, float]:
    """Seconds per cell key.

    The mean of stored cells of the same kind and defence on the same tower counts, else that of the
    defence, of the kind on the tower, of the kind, else the guess of the kind.
    """
    known: dict[Alike, list[float]] = {}
    for claim in claims:
        if claim.cost is not None:
            for alike in _alike(claim.about.kind, claim.about.names):
                known.setdefault(alike, []).append(claim.cost.seconds)
    found = {}
    for cell in cells:
        times = (known.get(alike) for alike in _alike(cell.kind.name, cell.names))
        found[cell.key] = next((fmean(some) for some in times if some), cell.kind.seconds)
    return found


def _alike(kind: str, names: Mapping[str, Any]) -> list[Alike]:
    """What cells may have in common, the most telling first."""
    defense, tower = str(names.get("defense", "")), str(names.get("tower", ""))
    told = [(kind, defense, tower), (kind, defense, ""), (kind, "", tower), (kind, "", "")]
    return list(dict.fromkeys(told))


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
