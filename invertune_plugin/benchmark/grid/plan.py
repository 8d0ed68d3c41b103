"""What a grid still has to do: cells that are missing, and those that cannot run, with reasons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from invertune_plugin.benchmark.grid.cells import Cell, in_order
from invertune_plugin.benchmark.grid.claims import IMPOSSIBLE, About, Claim
from invertune_plugin.benchmark.grid.filters import matches, parse_filters
from invertune_plugin.benchmark.grid.store import Store
from invertune_plugin.outcome import Outcome


@dataclass(frozen=True)
class Plan:
    """The cells of a grid by what is to be done about them.

    Attributes:
        cells: all that were asked for, with their parents, parents first.
        missing: to be computed, parents first.
        done: keys of cells with a claim.
        failed: cells that failed in an earlier run and are not tried again, with reasons.
        marked: claims, without numbers, of cells that cannot run.
    """

    cells: tuple[Cell, ...]
    missing: tuple[Cell, ...]
    done: frozenset[str]
    failed: Mapping[str, str]
    marked: Mapping[str, Claim]


def choose(cells: Sequence[Cell], only: Sequence[str]) -> list[Cell]:
    """The cells that ``name=value`` words choose; parents are not chosen, they come along.

    Raises:
        InputError: a word is no filter, or nothing has that name or value.
    """
    known = [cell.names | {"kind": cell.kind.name} for cell in cells]
    filters = parse_filters(only, known)
    return [cell for cell, names in zip(cells, known, strict=True) if matches(filters, names)]


def plan_cells(cells: Iterable[Cell], store: Store, again: bool = False) -> Plan:
    """Plan a grid.

    Args:
        cells: that are wanted. A parent is computed only where a wanted cell needs it.
        store: with earlier results.
        again: try cells that failed once more.
    """
    wanted = list(cells)
    every = in_order(wanted)
    done = store.keys()
    failed = {} if again else _failed(every, store, done)
    marked: dict[str, Claim] = {}
    for cell in every:
        if cell.key not in done and (mark := _mark(cell, marked, failed)):
            marked[cell.key] = mark
    out = done | set(failed) | set(marked)
    needed = {cell.key for cell in wanted if cell.key not in out}
    missing = []
    for cell in reversed(every):
        if cell.key in needed:
            missing.append(cell)
            needed |= {parent.key for parent in cell.parents if not store.usable(parent.key)}
    return Plan(
        cells=tuple(every),
        missing=tuple(reversed(missing)),
        done=frozenset(done & {cell.key for cell in every}),
        failed=failed,
        marked=marked,
    )


def blocked(cell: Cell, parent: Cell, outcome: str, reason: str) -> Claim:
    """The claim of a cell whose parent did not work."""
    return Claim(
        about=About.of(cell),
        outcome=outcome,
        reason=f"parent {outcome}: {parent.title}: {reason}",
        blamed=parent.key,
    )


def _mark(cell: Cell, marked: Mapping[str, Claim], failed: Mapping[str, str]) -> Claim | None:
    reason = cell.kind.impossible(cell) if cell.kind.impossible else None
    if reason:
        return Claim(about=About.of(cell), outcome=IMPOSSIBLE, reason=reason)
    for parent in cell.parents:
        if parent.key in marked:
            earlier = marked[parent.key]
            if earlier.blamed:
                return Claim(
                    about=About.of(cell),
                    outcome=earlier.outcome,
                    reason=earlier.reason,
                    blamed=earlier.blamed,
                )
            return blocked(cell, parent, earlier.outcome, earlier.reason)
        if parent.key in failed:
            return blocked(cell, parent, Outcome.FAILED.value, failed[parent.key])
    return None


def _failed(cells: Sequence[Cell], store: Store, done: set[str]) -> dict[str, str]:
    """Cells that failed by themselves; what was marked for other reasons is planned anew."""
    there = store.keys("failures") - done
    claims = [store.failure(cell.key) for cell in cells if cell.key in there]
    return {
        claim.about.key: claim.reason
        for claim in claims
        if claim.outcome == Outcome.FAILED.value and not claim.blamed
    }
