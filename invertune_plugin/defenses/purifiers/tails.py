"""Ends of components: the few samples farthest out, where a model reads most as one class.

Poison that is no part by itself, a shoulder of the clean samples without a valley before it, still
lies at the end of a component. Natural tails do, too: which is which, a transplant has to show.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

SIZE = 30
"""Samples at the end of a component."""
PURE = 0.6
"""Least share of them that is read as one class."""
SAME = 0.3
"""Share of two tails in common that makes them one."""
MOST = 40
"""Tails that are looked at, the purest first."""


@dataclass(frozen=True, eq=False)
class Tail:
    """The end of a component.

    Attributes:
        part: indices of what is read as the class, sorted.
        label: the class.
        rank: principal components among which the component was found.
        weight: kurtosis of the component; long tails are looked at first.
    """

    part: np.ndarray
    label: int
    rank: int
    weight: float


def pure_tails(
    components: Sequence[tuple[int, np.ndarray]], predictions: np.ndarray
) -> Iterator[Tail]:
    """Distinct ends of components that are read as one class, the purest and longest first.

    Args:
        components: ``[N]`` each with its rank.
        predictions: class that the model reads, ``[N]``.
    """
    enough = len(predictions) >= 2 * SIZE
    tails = [
        tail
        for rank, component in components
        for end in (component, -component)
        if enough and (tail := _tail(end, rank, predictions)) is not None
    ]
    kept: list[np.ndarray] = []
    for tail in sorted(tails, key=lambda one: (-len(one.part), -one.weight)):
        if any(len(np.intersect1d(tail.part, other)) > SAME * len(tail.part) for other in kept):
            continue
        kept.append(tail.part)
        yield tail
        if len(kept) == MOST:
            return


def _tail(component: np.ndarray, rank: int, predictions: np.ndarray) -> Tail | None:
    end = np.sort(np.argpartition(-component, SIZE - 1)[:SIZE])
    counts = np.bincount(predictions[end])
    label = int(counts.argmax())
    if counts[label] < PURE * SIZE or not np.ptp(component):
        return None
    part = end[predictions[end] == label]
    standard = (component - component.mean()) / component.std()
    return Tail(part, label, rank, float((standard**4).mean()))
