"""Two Gaussians in a class: poison that is as much as half of what a model reads as its target.

Such a class has no small part, and no independent component of the set need show a valley there. A
mixture of two Gaussians with one covariance tells the halves apart, and the discriminant between
them shows the valley. The half that lies farther from the other classes is the poison. Not
published; measured in docs/directions.md.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from invertune_plugin.defenses.flare.sides import discriminant_scores, standardised
from invertune_plugin.defenses.purifiers.class_parts import (
    LEAST_CLASS,
    ROUNDS,
    SAME,
    ClassPart,
    common,
    shallow,
)
from invertune_plugin.defenses.purifiers.odd_side import LARGEST_SIDE, Classes
from invertune_plugin.defenses.purifiers.valleys import (
    Valley,
    ValleyConfig,
    most_significant,
    valley,
)

RANKS = (6, 12, 24)
"""Principal components of a class that a mixture is fitted to; one that is enough is not known."""
STARTS = 3
"""Of each mixture."""
SURE = 1.2
"""Least significance of the valley between a half and all other samples, as a multiple."""


def half_of_a_class(
    values: np.ndarray,
    predictions: np.ndarray,
    config: ValleyConfig,
    most_elsewhere: float,
    seed: int = 0,
) -> Valley | None:
    """The most significant half of one class that other classes have not; None without one.

    Its valley is that of the discriminant within the class. That between it and all other samples
    must show one, too, and tells how many of them lie beyond it.

    Args:
        values: standardised features ``[N, L]``.
        predictions: class that the model reads, ``[N]``.
        config: what counts as a valley; ``most_share`` is of whole sets and means nothing here.
        most_elsewhere: largest share of the other classes beyond, over that of its own.
        seed: of the mixtures.
    """
    return most_significant(
        half
        for half in halves(values, predictions, config, seed)
        if (part := against_all(half, values, predictions, config)) is not None
        and part.valley.significance >= SURE * config.significance
        and part.elsewhere <= most_elsewhere
    )


def halves(
    values: np.ndarray, predictions: np.ndarray, config: ValleyConfig, seed: int = 0
) -> Iterator[Valley]:
    """The odd half of each class whose halves have a valley between them; of several ranks."""
    classes = Classes.of(values, predictions)
    least = shallow(config, LARGEST_SIDE)
    for label in classes.of_size(LEAST_CLASS * config.least_samples):
        mine = classes.members(label)
        within = values[mine]
        white = whitened(within, seed)
        for rank in RANKS:
            found = settled(within, lighter_half(white[:, :rank], seed), least)
            if found is not None and found.counts(config):
                side = classes.odd_side(label, mine[found.part])
                yield replace(found, part=side, rank=rank, label=label)


def whitened(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """First principal components of a class ``[N, L]``, of unit variance; none of equal samples."""
    within = standardised(values)
    if not within.any():
        return np.empty((len(values), 0))
    components = PCA(min(max(RANKS), *within.shape), whiten=True, random_state=seed)
    return np.asarray(components.fit_transform(within))


def lighter_half(white: np.ndarray, seed: int = 0) -> np.ndarray:
    """Indices of the lighter one of two Gaussians in whitened values ``[N, R]``."""
    if not white.size:
        return np.empty(0, dtype=np.int64)
    mixture = GaussianMixture(2, covariance_type="tied", n_init=STARTS, random_state=seed)
    chosen = fitted(mixture, white).predict(white)
    return np.flatnonzero(chosen == mixture.weights_.argmin())


def fitted(mixture: GaussianMixture, values: np.ndarray) -> GaussianMixture:
    """A mixture fitted to values ``[N, D]``, also where it has not settled, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return mixture.fit(values)


def settled(values: np.ndarray, part: np.ndarray, config: ValleyConfig) -> Valley | None:
    """The valley between a part and the rest, both decided anew until they stay; None without."""
    if not 0 < len(part) < len(values):
        return None
    found = None
    for _ in range(ROUNDS):
        found = valley(discriminant_scores(values, part), config)
        if found is None or np.array_equal(found.part, part):
            break
        part = found.part
    return found


def against_all(
    half: Valley, values: np.ndarray, predictions: np.ndarray, config: ValleyConfig
) -> ClassPart | None:
    """A half decided anew by the discriminant between it and all other samples.

    None where that shows no valley in its class, or makes another part of it.
    """
    label, part = int(predictions[half.part[0]]), half.part
    mine, rest = np.flatnonzero(predictions == label), predictions != label
    for _ in range(ROUNDS):
        scores = discriminant_scores(values, part)
        found = valley(scores[mine], shallow(config, LARGEST_SIDE), half.rank)
        if found is None:
            break
        before, part = part, mine[upper_side(scores[mine], found.part)]
        if np.array_equal(before, part):
            break
    if found is None or common(part, half.part) < SAME:
        return None
    beyond = float((scores[rest] >= scores[part].min()).mean())
    return ClassPart(replace(found, part=part), label, beyond / (len(part) / len(mine)))


def upper_side(scores: np.ndarray, part: np.ndarray) -> np.ndarray:
    """The part or its rest, as sorted indices: what has the higher scores ``[N]``."""
    rest = np.setdiff1d(np.arange(len(scores)), part)
    return part if scores[part].min() > scores[rest].max() else rest
