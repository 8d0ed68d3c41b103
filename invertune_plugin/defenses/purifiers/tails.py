"""Ends of components: the few samples farthest out, where a model reads most as one class.

Poison that is no part by itself, a shoulder of the clean samples without a valley before it, still
lies at the end of a component. Natural tails do, too: which is which, a transplant has to show.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from invertune_plugin.defenses.purifiers.valleys import Valley

SIZE = 30
"""Samples at the end of a component."""
PURE = 0.6
"""Least share of them that is read as one class."""
SAME = 0.3
"""Share of two tails in common that makes them one."""
MOST = 40
"""Tails that are looked at, the purest first."""


def pure_tails(
    components: Sequence[tuple[int, np.ndarray]], predictions: np.ndarray
) -> Iterator[Valley]:
    """Distinct ends of components that are read as one class, the purest and longest first.

    Args:
        components: ``[N]`` each with its rank.
        predictions: class that the model reads, ``[N]``.

    Yields:
        Parts without a valley: what is read as the class, with its label and rank.
    """
    if len(predictions) < 2 * SIZE:
        return
    tails = [
        (kurtosis(component), tail)
        for rank, component in components
        for end in (component, -component)
        if (tail := _tail(end, rank, predictions)) is not None
    ]
    kept: list[np.ndarray] = []
    for _, tail in sorted(tails, key=lambda one: (-len(one[1].part), -one[0])):
        if any(len(np.intersect1d(tail.part, other)) > SAME * len(tail.part) for other in kept):
            continue
        kept.append(tail.part)
        yield tail
        if len(kept) == MOST:
            return


def kurtosis(component: np.ndarray) -> float:
    """How long the tails of values ``[N]`` are, which are not all equal: 3 for Gaussian ones."""
    return float((((component - component.mean()) / component.std()) ** 4).mean())


def _tail(component: np.ndarray, rank: int, predictions: np.ndarray) -> Valley | None:
    end = np.sort(np.argpartition(-component, SIZE - 1)[:SIZE])
    counts = np.bincount(predictions[end])
    label = int(counts.argmax())
    if counts[label] < PURE * SIZE or not np.ptp(component):
        return None
    return Valley(end[predictions[end] == label], 1.0, 0.0, rank, label)
