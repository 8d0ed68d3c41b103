"""What belongs to a part of one class and was left out: the class as two Gaussians along a line.

All-to-one poison is a small part of a set, but a large one of the class that it is read as. So the
threshold between the two is looked for within the class, where neither side is rare, along the
linear discriminant between the part and the rest of the set, which all samples have shaped. Of a
classifier the class alone is looked at once more, with what the last layer takes in, and of a CLIP
with the embeddings of its images: two Gaussians that begin at the part, and then a line between
them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture

from invertune_plugin.defenses.flare.sides import (
    commonest_class,
    discriminant_scores,
    standardised,
)
from invertune_plugin.defenses.purifiers.mixtures import fitted
from invertune_plugin.defenses.purifiers.transplants import LEAST_REST
from invertune_plugin.defenses.purifiers.valleys import Valley

OF_ONE_CLASS = 0.9
"""Least share of a part that is read as one class."""
RANK = 24
"""Principal components that two Gaussians are told apart in."""
PER_DIRECTION = 5
"""Samples of a class, and readings, for each of them."""
ROUNDS = 30


@dataclass(frozen=True, eq=False)
class Readings:
    """What a model says of N samples.

    Attributes:
        values: standardised features ``[N, L]``.
        predictions: class that the model reads, ``[N]``.
        last: what the last layer takes in, ``[N, D]``; None where it was not read.
        embeddings: of a CLIP, of its images, ``[N, D]``; None where they were not read.
    """

    values: np.ndarray
    predictions: np.ndarray
    last: np.ndarray | None = None
    embeddings: np.ndarray | None = None

    @property
    def at_head(self) -> np.ndarray | None:
        """What gives the logits: of a classifier that of the last layer, of a CLIP embeddings."""
        return self.embeddings if self.last is None else self.last

    def members(self, label: int) -> np.ndarray:
        """Indices of what is read as a class, sorted."""
        return np.flatnonzero(self.predictions == label)

    def within(self, chosen: np.ndarray) -> Readings:
        """The same of some samples alone."""
        others = (None if some is None else some[chosen] for some in (self.last, self.embeddings))
        return Readings(self.values[chosen], self.predictions[chosen], *others)


def completed(found: Valley, readings: Readings) -> Valley:
    """A part and all that is of its kind; as it was where it is not one of a single class.

    Args:
        found: any part.
        readings: of all samples.
    """
    predictions = readings.predictions
    label = commonest_class(predictions, found.part)
    inside = found.part[predictions[found.part] == label]
    if len(inside) < OF_ONE_CLASS * len(found.part):
        return found
    members = readings.members(label)
    kind = of_its_kind(inside, readings.values, members)
    if (at_head := readings.at_head) is not None:
        both = np.hstack([readings.values[members], standardised(at_head[members])])
        within = side_by_mixture(np.flatnonzero(np.isin(members, kind)), both)
        kind = members[of_its_kind(within, both, np.arange(len(members)))]
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
        halves = two_gaussians(scores[:, None], inside)
        upper = halves.predict(scores[:, None]) == halves.means_.argmax()
        new = members[upper]
        if not allowed(new, part, len(members)):
            return part
        if np.array_equal(upper, inside):
            break
        found = new
    return found


def side_by_mixture(part: np.ndarray, within: np.ndarray) -> np.ndarray:
    """Of two Gaussians in a class the one that a part of it begins; fitted with the other.

    Unlike a line that is drawn anew it weighs every sample, so that a fifth of a side brings it.

    Args:
        part: indices of some samples, one or more.
        within: readings of the class ``[N, D]``.

    Returns:
        Indices, sorted; those given where ``allowed`` refuses, the class is too small, or they are
        all of it.
    """
    rank = min(RANK, *(size // PER_DIRECTION for size in within.shape))
    inside = np.isin(np.arange(len(within)), part)
    if rank < 1 or inside.all():
        return part
    places = PCA(rank, svd_solver="full").fit_transform(within)
    found = np.flatnonzero(two_gaussians(places, inside).predict(places) == 1)
    return found if allowed(found, part, len(within)) else part


def two_gaussians(places: np.ndarray, side: np.ndarray) -> GaussianMixture:
    """Two Gaussians with one covariance, of which the second begins at a side.

    Args:
        places: ``[N, D]``.
        side: whether a sample is of the side, ``[N]``; some are.
    """
    means = [places[those].mean(0) for those in (~side, side)]
    weights = [1 - side.mean(), side.mean()]
    mixture = GaussianMixture(
        2, covariance_type="tied", means_init=means, weights_init=weights, random_state=0
    )
    return fitted(mixture, places)


def allowed(found: np.ndarray, part: np.ndarray, members: int) -> bool:
    """Whether what became of a part keeps half of its size and leaves enough of the class."""
    return len(part) / 2 < len(found) <= members - LEAST_REST
