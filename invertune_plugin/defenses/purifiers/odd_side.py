"""Which side of a class is odd: what lies farther from the other classes.

Poison that is as much as half of what a model reads as a class cannot be told by its size. The
layers show a trigger by values that no class has, so that its side lies farther off. Not published;
measured in docs/directions.md.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.covariance import LedoitWolf

LARGEST_SIDE = 0.65
"""Largest share of its class that a side may be before it is asked which one is odd."""


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes that a model reads, and where they lie.

    Attributes:
        values: standardised features ``[N, L]``.
        labels: the K classes, sorted.
        places: of each sample's class among them, ``[N]``.
        means: of the classes, ``[K, L]``.
        precision: inverse of the covariance within classes, ``[L, L]``.
    """

    values: np.ndarray
    labels: np.ndarray
    places: np.ndarray
    means: np.ndarray
    precision: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, predictions: np.ndarray) -> Classes:
        """Those of features ``[N, L]`` by the class that the model reads, ``[N]``."""
        labels, places = np.unique(predictions, return_inverse=True)
        means = class_means(values, places)
        precision = LedoitWolf().fit(values - means[places]).precision_
        return cls(values, labels, places, means, precision)

    def of_size(self, least: int) -> list[int]:
        """The classes of so many samples or more; none where all samples are of one."""
        counts = np.bincount(self.places)
        enough = self.labels[counts >= least] if len(counts) > 1 else ()
        return [int(label) for label in enough]

    def members(self, label: int) -> np.ndarray:
        """Indices of the samples of a class, sorted."""
        return np.flatnonzero(self.labels[self.places] == label)

    def odd_side(self, label: int, part: np.ndarray) -> np.ndarray:
        """A part of a class or its rest: that whose mean is farther from those of the others.

        Args:
            label: the class.
            part: indices of some of its samples.

        Returns:
            Indices, sorted.
        """
        others = self.means[self.labels != label].mean(0)
        sides = part, np.setdiff1d(self.members(label), part)
        away = [self.values[side].mean(0) - others for side in sides]
        apart = [float(one @ self.precision @ one) for one in away]
        return sides[int(np.argmax(apart))]


def class_means(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Means ``[K, D]``, float64, of values ``[N, D]`` by the place of their class, ``[N]``."""
    count = int(places.max()) + 1
    return np.stack([values[places == place].mean(0, dtype=np.float64) for place in range(count)])
