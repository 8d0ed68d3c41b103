"""Where the samples of a class come from: the other class that each is nearest to.

What a trigger brings to a class comes from all others, and before the last layer each sample still
leans towards its own. The samples of the class itself lean towards the few that resemble it. So of
two heaps of one class the poison is the one of many origins, whatever the trigger looks like. Not
published; measured in docs/directions.md.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from invertune_plugin.defenses.purifiers.odd_side import Classes, class_means
from invertune_plugin.defenses.purifiers.valleys import Valley

MIXED = 0.4
"""Nats by which the origins of one heap are more mixed than those of the other, where that is sure:
0.6 and 0.7 for warps, 0.3 for an emblem (CIFAR-10)."""


def by_origins(heap: Valley, classes: Classes, last: np.ndarray) -> Valley:
    """The heap of a class whose samples come from more classes, where that is sure; else the same.

    Args:
        heap: of one class.
        classes: by what the model reads.
        last: what the last layer takes in, ``[N, D]``.
    """
    if heap.label is None:
        return heap
    rest = np.setdiff1d(classes.members(heap.label), heap.part)
    mixed = more_mixed(heap.part, rest, last, classes.labels[classes.places])
    if mixed <= -MIXED:
        return replace(heap, part=rest, mixed=-mixed)
    return replace(heap, mixed=mixed)


def more_mixed(part: np.ndarray, rest: np.ndarray, last: np.ndarray, read: np.ndarray) -> float:
    """Nats by which the origins of a part of one class are more mixed than those of its rest.

    Args:
        part: indices of some samples of the class.
        rest: indices of its others, one or more.
        last: what the last layer takes in, ``[N, D]``.
        read: class that the model reads, ``[N]``, of two or more.
    """
    labels, places = np.unique(read, return_inverse=True)
    means = class_means(last, places)[labels != read[part[0]]]
    return spread(last[part], means) - spread(last[rest], means)


def spread(samples: np.ndarray, means: np.ndarray) -> float:
    """Entropy, in nats, of which of the means ``[K, D]`` samples ``[N, D]`` are nearest to."""
    distances = (means**2).sum(1) - 2 * samples.astype(np.float64) @ means.T
    shares = np.unique(distances.argmin(1), return_counts=True)[1] / len(samples)
    return float(-(shares * np.log(shares)).sum())
