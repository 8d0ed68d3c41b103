"""Shares of a record, and their mean over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from invertune_plugin.benchmark.grid.rows import BOUNDS, is_number
from invertune_plugin.benchmark.grid.summary import bootstrap


@dataclass(frozen=True)
class Share:
    """A share of n images, with its 95 % interval; all three in [0, 1]."""

    value: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Attributes:
        value: mean of the seeds' shares, in [0, 1].
        low: lower end of its 95 % interval.
        high: upper end.
        ns: images of each seed.
    """

    value: float
    low: float
    high: float
    ns: tuple[int, ...]


def shares_in(record: Mapping[str, Any]) -> dict[str, Share]:
    """All shares of a record by name: numbers in [0, 1] that come with bounds and n."""
    found = {}
    for name in record:
        if f"{name}_n" not in record:
            continue
        numbers: list[Any] = [record.get(f"{name}{end}") for end in ("", *BOUNDS)]
        if all(is_number(number) for number in numbers) and all(0 <= n <= 1 for n in numbers[:3]):
            value, low, high, n = numbers
            found[name] = Share(value, low, high, int(n))
    return found


def mean_over_seeds(shares: Sequence[Share]) -> Mean:
    """The mean of one share per seed.

    One seed keeps its own interval. That of several is the ``bootstrap`` of their mean: it tells
    how seeds differ, not what a test set of n images leaves open.
    """
    ns = tuple(share.n for share in shares)
    if len(shares) == 1:
        (one,) = shares
        return Mean(one.value, one.low, one.high, ns)
    values = [share.value for share in shares]
    low, high = bootstrap(values) or (math.nan, math.nan)
    return Mean(sum(values) / len(values), low, high, ns)


def mean_shares(records: Iterable[Mapping[str, Share]]) -> dict[str, Mean]:
    """The mean over records, one per seed, of every share that any of them has."""
    found: dict[str, list[Share]] = {}
    for shares in records:
        for name, share in shares.items():
            found.setdefault(name, []).append(share)
    return {name: mean_over_seeds(of_seeds) for name, of_seeds in found.items()}
