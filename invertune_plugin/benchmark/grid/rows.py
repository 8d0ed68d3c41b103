"""A store as flat rows, and what differs between two of them."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from invertune_plugin.benchmark.grid.claims import IMPOSSIBLE, Claim
from invertune_plugin.benchmark.grid.lineage import lineage
from invertune_plugin.benchmark.grid.store import Store

Row = dict[str, Any]
COSTS = ("seconds", "bare_seconds", "peak_mb", "peak_gpu_mb")
BOUNDS = ("_low", "_high", "_n")
PLAIN = ("auroc", "ca_lost", "false_alarm")
"""Shares that a row of one seed has without an interval."""
BESIDE = ("reason", "reliable", "commit", "created", "key", "settings")


def rows_of(store: Store) -> list[Row]:
    """One row per claim and per mark without a claim, of older code too; sorted by names.

    A row has kind, names, outcome, record and costs; ``settings`` is its ``lineage``.
    """
    claims = store.standing()
    by_key = {claim.about.key: claim for claim in claims}
    rows = (_row(claim, lineage(claim, by_key)) for claim in claims)
    return sorted(rows, key=lambda row: str(identity(row)))


def identity(row: Row) -> tuple[tuple[str, str], ...]:
    """Kind and names of a row: what it is about, whichever code or settings it comes from."""
    about: Mapping[str, Any] = row["about"]
    return (("kind", row["kind"]), *sorted((name, str(v)) for name, v in about.items()))


def flat(row: Row) -> Row:
    """A row as it is exported."""
    rest = {name: value for name, value in row.items() if name not in ("about", "kind")}
    return {"kind": row["kind"], **row["about"], **rest}


def is_rate(row: Row, name: str) -> bool:
    """Whether a field is a share with an interval."""
    return is_number(row.get(name)) and all(f"{name}{bound}" in row for bound in BOUNDS)


def is_number(value: object) -> bool:
    """Whether a value of a record is a finite number, and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_share(row: Row, name: str) -> bool:
    """Whether a field is a share, with an interval or without."""
    return is_rate(row, name) or (name in PLAIN and row.get(name) is not None)


def rates_in(rows: Sequence[Row]) -> list[str]:
    """Names of all shares, in the order in which they come."""
    names = dict.fromkeys(name for row in rows for name in row)
    return [name for name in names if any(is_share(row, name) for row in rows)]


def names_in(rows: Sequence[Row]) -> list[str]:
    """Names that tell rows apart, in the order in which they come."""
    found = dict.fromkeys(name for row in rows for name in row["about"])
    if len(rows) == 1:
        return list(found)
    return [name for name in found if len({str(row["about"].get(name)) for row in rows}) > 1]


@dataclass(frozen=True)
class Difference:
    """A number or text that two stores disagree on.

    Attributes:
        title: kind and names.
        field: name of what differs; ``cell`` where only one store has it.
        before: in the first store.
        after: in the second one.
        apart: whether both are shares and their intervals do not touch.
    """

    title: str
    field: str
    before: Any
    after: Any
    apart: bool = False


def differences(before: Sequence[Row], after: Sequence[Row]) -> list[Difference]:
    """What differs between rows about the same, costs and places aside.

    Of several rows about the same the newest one counts.
    """
    old, new = newest(before), newest(after)
    found = []
    for key in sorted(old.keys() | new.keys()):
        title = " ".join(value if name == "kind" else f"{name}={value}" for name, value in key)
        if key not in old or key not in new:
            there = {True: "there", False: "absent"}
            found.append(Difference(title, "cell", there[key in old], there[key in new]))
            continue
        one, other = old[key], new[key]
        for name in dict.fromkeys([*one, *other]):
            if one.get(name) != other.get(name) and not _aside(name, one | other):
                apart = _apart(one, other, name)
                found.append(Difference(title, name, one.get(name), other.get(name), apart))
    return found


def _row(claim: Claim, settings: str) -> Row:
    cost = claim.cost
    row: Row = {"kind": claim.about.kind, "about": dict(claim.about.names)}
    row["outcome"] = claim.outcome
    row |= {name: value for name, value in claim.record.items() if name not in row}
    if cost is not None:
        row |= {"seconds": cost.seconds, "peak_mb": cost.peak_mb}
        row |= {} if cost.peak_gpu_mb is None else {"peak_gpu_mb": cost.peak_gpu_mb}
    beside = (
        claim.reason,
        not claim.doubts,
        claim.origin.get("commit"),
        str(claim.origin.get("created", "")),
        claim.about.key,
        settings,
    )
    return row | dict(zip(BESIDE, beside, strict=True))


def newest(
    rows: Iterable[Row], keys: Container[str] = ()
) -> dict[tuple[tuple[str, str], ...], Row]:
    """Rows by ``identity``; of several about the same, from other code, the one that counts.

    That is one of ``keys``, else the newest. That a cell cannot work is told only where nothing
    else is: it depends on what is installed.
    """
    return {identity(row): row for row in sorted(rows, key=lambda row: row_rank(row, keys))}


def row_rank(row: Row, keys: Container[str] = ()) -> tuple[bool, bool, str]:
    """``rank`` of a row."""
    return rank(row["outcome"], row.get("key") in keys, row["created"])


def rank(outcome: str, wanted: bool, created: object) -> tuple[bool, bool, str]:
    """Of several results about the same the one of the highest rank counts.

    Args:
        outcome: how the cell ended.
        wanted: whether it has the settings that are asked for.
        created: when.
    """
    return outcome != IMPOSSIBLE, wanted, str(created)


def current(rows: Iterable[Row], keys: Container[str] = ()) -> list[Row]:
    """The newest row about each cell, sorted by names.

    Args:
        rows: of a store.
        keys: of cells whose rows count more than newer ones of other settings or code.
    """
    kept = newest(rows, keys)
    return [kept[about] for about in sorted(kept)]


def _aside(name: str, row: Row) -> bool:
    """Whether a field is no result: a cost, a place, or a bound of a share that is compared."""
    if name in BESIDE or name.startswith(COSTS) or name == "about":
        return True
    return any(name.endswith(bound) and is_rate(row, name[: -len(bound)]) for bound in BOUNDS)


def _apart(one: Row, other: Row, name: str) -> bool:
    if not (is_rate(one, name) and is_rate(other, name)):
        return False
    low, high = f"{name}_low", f"{name}_high"
    return bool(one[low] > other[high] or other[low] > one[high])
