"""Which side of each class is odd, where many classes have two: that which all differ by alike.

A trigger moves what it is put into in one direction, whatever the class; natural halves differ by
another attribute in each. So the sides of many classes are chosen together, and in some of them the
poison may be the larger one. Not published; measured in docs/directions.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from invertune_plugin.defenses.purifiers.odd_side import Classes
from invertune_plugin.defenses.purifiers.valleys import Valley

MANY = 5
"""Classes with two sides, fewer of which may be alike by chance."""
ALIKE = 5.0
"""Standard deviations by which the sides of a class must differ along the common direction: 6.8 and
more for poison, at most 3.6 for other sides (seven sets of CIFAR-10 and GTSRB)."""
TINY = 1e-12
"""Length of a difference that is none."""


def agreeing_sides(found: Sequence[Valley], classes: Classes) -> list[Valley]:
    """Of each class the side that differs from the other as those of the other classes do.

    The differences of the means of the sides, relative to the covariance within classes, are
    turned towards their main direction. Of the two ends of that the one with fewer samples is odd.
    A class whose sides differ in another way is left out.

    Args:
        found: one side of each class.
        classes: by what the model reads.
    """
    white = whitened(classes)
    sides = [(one.part, rest_of_class(one.part, classes)) for one in found]
    away = np.stack([white[part].mean(0) - white[rest].mean(0) for part, rest in sides])
    lengths = np.linalg.norm(away, axis=1, keepdims=True)
    alike = away @ main_direction(away / np.maximum(lengths, TINY))
    sizes = np.array([(len(part), len(rest)) for part, rest in sides])
    second = (alike < 0).astype(int)
    if 2 * sizes[np.arange(len(sizes)), second].sum() > sizes.sum():
        second = 1 - second
    deviations = np.abs(alike) / np.sqrt((1 / sizes).sum(1))
    return [
        replace(one, part=both[which])
        for one, both, which, sure in zip(found, sides, second, deviations >= ALIKE, strict=True)
        if sure
    ]


def whitened(classes: Classes) -> np.ndarray:
    """Features ``[N, L]`` whose covariance within classes is that of independent ones."""
    inverse_variances, axes = np.linalg.eigh(classes.precision)
    return np.asarray(classes.values @ axes * np.sqrt(np.maximum(inverse_variances, 0)))


def main_direction(rows: np.ndarray) -> np.ndarray:
    """The direction ``[D]`` of unit length that rows ``[K, D]`` have most of, of whatever sign."""
    _, _, directions = np.linalg.svd(rows, full_matrices=False)
    return np.asarray(directions[0])


def rest_of_class(part: np.ndarray, classes: Classes) -> np.ndarray:
    """The other samples of the class of a part, indices, sorted."""
    label = classes.labels[classes.places[part[0]]]
    return np.setdiff1d(classes.members(int(label)), part)
