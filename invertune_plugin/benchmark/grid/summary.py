"""Rows over seeds: means, with bootstrap intervals over the seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from invertune_plugin.benchmark.grid.rows import (
    BESIDE,
    BOUNDS,
    Row,
    identity,
    is_rate,
    is_share,
    newest,
    rates_in,
)
from invertune_plugin.metrics import Rate

RESAMPLES = 10_000
_TOLD_ONCE = ("kind", "about", "outcome", *BESIDE)
MIXED = "These seeds were run with different settings."


def summary(rows: Iterable[Row]) -> list[Row]:
    """One row for all seeds of what is the same otherwise.

    A number becomes its mean. That of a share has ``NAME_n``, the count of seeds that have it, and
    ``NAME_low`` and ``NAME_high``, the 95 % interval of ``bootstrap``, None for one seed. A bool
    becomes the share of seeds where it is true, with its Wilson interval. Texts stay where all
    seeds agree; ``outcome`` counts them where they do not. Of several rows about the same seed the
    newest one counts. Seeds of different settings are not reliable together.
    """
    groups: dict[tuple[tuple[str, str], ...], list[Row]] = {}
    for row in newest(rows).values():
        about = {name: v for name, v in row["about"].items() if not name.endswith("seed")}
        groups.setdefault(identity(row | {"about": about}), []).append(row)
    return [_merged(sorted(groups[key], key=_by_seed)) for key in sorted(groups)]


def bootstrap(values: Sequence[float]) -> tuple[float, float] | None:
    """Percentile bootstrap interval, 95 %, of the mean (Efron 1979); None of fewer than two values.

    The same values always give the same interval. It is never wider than the values themselves, so
    that of three seeds says little more than their range.
    """
    if len(values) < 2:
        return None
    means = np.sort(values)[_resamples(len(values))].mean(1)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


@lru_cache
def _resamples(count: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(count, size=(RESAMPLES, count))


def seed_order(seed: str) -> tuple[int, str]:
    """Sorts seeds that are text as numbers, 2 before 10."""
    return len(seed), seed


def _by_seed(row: Row) -> tuple[int, str]:
    return seed_order(str(row["about"].get("seed", "")))


def _merged(rows: Sequence[Row]) -> Row:
    first = rows[0]
    seeds = [str(row["about"]["seed"]) for row in rows if "seed" in row["about"]]
    about = {name: v for name, v in first["about"].items() if not name.endswith("seed")}
    mixed = len({row.get("settings") for row in rows if rates_in([row])}) > 1
    merged: Row = {
        "kind": first["kind"],
        "about": about | ({"seeds": " ".join(seeds)} if seeds else {}),
        "outcome": _counted(row["outcome"] for row in rows),
        "reliable": not mixed and all(row["reliable"] for row in rows),
        "reason": MIXED if mixed else _agreed([row["reason"] for row in rows]),
    }
    for name in dict.fromkeys(name for row in rows for name in row):
        if name not in _TOLD_ONCE and not _is_bound(name, rows):
            some = [row for row in rows if row.get(name) is not None]
            shares = any(is_share(row, name) for row in some)
            merged |= _over_seeds(name, [row[name] for row in some], shares)
    return merged


def _over_seeds(name: str, values: Sequence[bool | float | str], shares: bool) -> Row:
    if not values:
        return {}
    if all(isinstance(value, bool) for value in values):
        found = Rate(sum(map(bool, values)), len(values))
        low, high = found.interval
        return _with_bounds(name, found.value, found.n, (low, high))
    numbers = [float(value) for value in values if not isinstance(value, str)]
    if len(numbers) < len(values):
        return {name: agreed} if (agreed := _agreed(list(map(str, values)))) else {}
    mean = float(np.mean(numbers))
    if not shares:
        return {name: round(mean, 5)}
    return _with_bounds(name, mean, len(numbers), bootstrap(numbers))


def _with_bounds(name: str, mean: float, n: int, bounds: tuple[float, float] | None) -> Row:
    low, high = bounds or (None, None)
    ends = {f"{name}_low": low, f"{name}_high": high}
    rounded = {key: None if value is None else round(value, 5) for key, value in ends.items()}
    return {name: round(mean, 5), **rounded, f"{name}_n": n}


def _is_bound(name: str, rows: Sequence[Row]) -> bool:
    """Whether a field belongs to a share of one seed; that of images is not that of seeds."""
    ends = [end for end in BOUNDS if name.endswith(end)]
    return any(is_rate(row, name.removesuffix(end)) for end in ends for row in rows)


def _counted(outcomes: Iterable[str]) -> str:
    counts = Counter(outcomes)
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{outcome} {count}" for outcome, count in sorted(counts.items()))


def _agreed(texts: Sequence[str]) -> str:
    return texts[0] if len(set(texts)) == 1 else ""
