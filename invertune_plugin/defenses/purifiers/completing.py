"""What belongs to a part of one class and was left out: the class as two Gaussians along a line.

All-to-one poison is a small part of a set, but a large one of the class that it is read as. So the
threshold between the two is looked for within the class, where neither side is rare, along the
linear discriminant between the part and the rest of the set, which all samples have shaped.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from sklearn.mixture import GaussianMixture

from invertune_plugin.defenses.flare.sides import discriminant_scores
from invertune_plugin.defenses.purifiers.transplants import LEAST_REST
from invertune_plugin.defenses.purifiers.valleys import Valley

OF_ONE_CLASS = 0.9
"""Least share of a part that is read as one class."""
ROUNDS = 10


def completed(found: Valley, values: np.ndarray, predictions: np.ndarray) -> Valley:
    """A part and all that is of its kind; as it was where it is not one of a single class.

    Args:
        found: any part.
        values: standardised features ``[N, L]``.
        predictions: class that the model reads, ``[N]``.
    """
    label = int(np.bincount(predictions[found.part]).argmax())
    inside = found.part[predictions[found.part] == label]
    if len(inside) < OF_ONE_CLASS * len(found.part):
        return found
    kind = of_its_kind(inside, values, np.flatnonzero(predictions == label))
    return replace(found, part=np.union1d(found.part, kind))


def of_its_kind(part: np.ndarray, values: np.ndarray, members: np.ndarray) -> np.ndarray:
    """The upper one of two Gaussians of a class, of which a part is known; decided until it stays.

    Args:
        part: indices of some members of the class.
        values: standardised features ``[N, L]``.
        members: indices of the class.

    Returns:
        Indices, sorted; those given where the part loses half of its samples or leaves fewer
        than ``LEAST_REST`` of the class, with which to compare what it carries.
    """
    found = part
    for _ in range(ROUNDS):
        scores, inside = discriminant_scores(values, found)[members], np.isin(members, found)
        if inside.all():
            return part
        means = [[scores[~inside].mean()], [scores[inside].mean()]]
        weights = [1 - inside.mean(), inside.mean()]
        halves = GaussianMixture(2, covariance_type="tied", means_init=means, weights_init=weights)
        upper = halves.fit_predict(scores[:, None]) == halves.means_.argmax()
        if not len(part) / 2 < upper.sum() <= len(members) - LEAST_REST:
            return part
        if np.array_equal(upper, inside):
            break
        found = members[upper]
    return found
