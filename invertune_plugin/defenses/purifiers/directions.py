"""Directions: independent components of FLARE's features, along which a small part stands apart.

Poison is a small part of a set that differs from the rest in the same way, in few layers or faintly
in many. Such a direction is what independent component analysis looks for (FastICA, Hyvarinen and
Oja 2000); UMAP, which keeps the nearest neighbours of each sample, often loses it. A component
splits the set where its density has a valley that is deep and that chance does not explain. What it
splits off is taken away, and the rest is searched again, until nothing stands apart. Not published;
measured beside FLARE in docs/flare.md.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.decomposition import PCA, FastICA
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from invertune_plugin.data import Items, texts_of
from invertune_plugin.defenses.flare.features import FeatureConfig, Features, abnormal_features
from invertune_plugin.defenses.flare.norms import LARGEST
from invertune_plugin.defenses.flare.sides import (
    check_fit,
    discriminant_scores,
    refined,
    share_of_classes,
    standardised,
    suspicion,
)
from invertune_plugin.defenses.purify import (
    Found,
    Purified,
    Report,
    check_items,
    timed_search,
    told_progress,
)
from invertune_plugin.errors import InputError
from invertune_plugin.outcome import Outcome

LEAST_VARIANCE = 1e-3
"""Of a principal component; below it is what layers say twice."""
BINS = 12
"""Of the histogram, per bandwidth."""
FAR = 100.0
"""Robust deviations; what lies beyond counts as there."""
CONTRASTS = ("exp", "logcosh")
RANKS = (3, 4, 6, 8, 12, 16, 24, 32)
"""Principal components that are searched, beside all: among many, the analysis may miss a part."""
MOST_PARTS = 8
"""Taken away one after the other."""


@dataclass(frozen=True)
class Directions:
    """Settings.

    Attributes:
        features: how the model is read.
        depth: least ratio of the density of the small part's peak and that of the valley.
        significance: least difference of their counts, square roots of Poisson counts being about
            normal: so many standard deviations.
        bandwidth: of the density, in robust deviations of the component.
        least_samples: fewest in the small part.
        most_share: largest share of the small part.
        most_of_classes: a small part that holds more than this share of the classes that the model
            reads in it is one of classes, and no poison.
    """

    features: FeatureConfig = field(default_factory=lambda: FeatureConfig("mean-and-largest"))
    depth: float = 2.0
    significance: float = 3.0
    bandwidth: float = 0.25
    least_samples: int = 20
    most_share: float = 0.3
    most_of_classes: float = 0.9

    def __post_init__(self) -> None:
        """Refuse settings without a meaning."""
        if self.depth < 1 or self.significance < 0 or self.bandwidth <= 0 or self.least_samples < 2:
            raise InputError(
                "Expected depth >= 1, significance >= 0, bandwidth > 0 and least_samples >= 2, got "
                f"{self.depth}, {self.significance}, {self.bandwidth} and {self.least_samples}."
            )
        for name in ("most_share", "most_of_classes"):
            if not 0 < getattr(self, name) <= 1:
                raise InputError(f"Expected {name} in (0, 1], got {getattr(self, name)}.")


@dataclass(frozen=True, eq=False)
class Valley:
    """A component in two.

    Attributes:
        part: indices of the small part, sorted.
        depth: ratio of the density of its peak and that of the valley.
        significance: of their difference, in standard deviations.
        rank: principal components among which the component was found.
    """

    part: np.ndarray
    depth: float
    significance: float
    rank: int = 1


def directions(
    model: nn.Module,
    dataset: Items[Any],
    config: Directions | None = None,
    seed: int = 0,
    report: Report | None = None,
) -> Purified:
    """Find the poisoned samples of a set in one forward pass over it; as ``flare``.

    Raises:
        InputError: too few samples, no normalisation layers, or an untrained model.
    """
    settings = config or Directions()
    check_items("directions", dataset, ())
    if len(dataset) < 2 * settings.least_samples:
        raise InputError(
            f"Expected {2 * settings.least_samples} samples or more for parts of "
            f"{settings.least_samples}, got {len(dataset)}. Lower least_samples, or add samples."
        )

    def search(say: Report) -> Found:
        features = abnormal_features(
            model, dataset, settings.features, seed, told_progress("directions", say)
        )
        unfit = check_fit(features.predictions, texts_of(dataset))
        if unfit is not None:
            return Found(np.zeros(len(dataset)), (), unfit, outcome=Outcome.FAILED)
        return split(features, settings, seed)

    return timed_search("directions", model, seed, report, search)


def split(features: Features, config: Directions, seed: int = 0) -> Found:
    """The parts that stand apart, one after the other, each decided anew by a discriminant.

    Args:
        features: ``[N, L]``, with predictions.
        config: settings.
        seed: of the component analysis.
    """
    values, views = standardised(features.values), views_of(features.layers)
    rest, sides, valleys, shares = np.arange(len(values)), [], [], []
    for _ in range(MOST_PARTS):
        found = deepest_valley(values[rest], views, config, seed)
        if found is None:
            break
        valleys.append(found)
        shares.append(share_of_classes(features.predictions[rest], found.part))
        away = found.part
        if shares[-1] <= config.most_of_classes:
            side = refined(values[rest], away)
            sides.append(rest[side])
            away = np.union1d(away, side)
        rest = np.delete(rest, away)
    evidence: dict[str, Any] = {
        "features": len(features.layers),
        "depths": [round(one.depth, 2) for one in valleys],
        "significances": [round(one.significance, 2) for one in valleys],
        "components": [one.rank for one in valleys],
        "parts": [len(one.part) for one in valleys],
        "share_of_classes": [round(share, 4) for share in shares],
    }
    classes = len(valleys) - len(sides)
    if not sides:
        reason = f"No part of the {len(values)} samples stands apart in any direction" + (
            f"; {classes} of its parts are whole classes." if classes else "."
        )
        scores = suspicion(values, np.empty(0, dtype=np.int64))
        return Found(scores, (), reason, evidence, Outcome.REJECTED)
    chosen = np.sort(np.concatenate(sides))
    scores = np.max([discriminant_scores(values, side) for side in sides], axis=0)
    reason = f"{len(chosen)} of {len(values)} samples stand apart in {len(sides)} direction(s)."
    return Found(scores, tuple(chosen.tolist()), reason, evidence)


def views_of(features: tuple[str, ...]) -> list[list[int]]:
    """Columns that are searched together: all of them, and each of two statistics by itself."""
    largest = [i for i, name in enumerate(features) if name.endswith(LARGEST)]
    mean = [i for i in range(len(features)) if i not in largest]
    every = list(range(len(features)))
    return [every, mean, largest] if mean and largest else [every]


def deepest_valley(
    values: np.ndarray, views: Sequence[list[int]], config: Directions, seed: int = 0
) -> Valley | None:
    """The most significant valley of all independent components; None where there is none.

    Args:
        values: features ``[N, L]``.
        views: columns that are searched together.
        config: what counts as a valley.
        seed: of the component analysis.
    """
    if len(values) < 2 * config.least_samples:
        return None
    found = [
        valley(component, config, rank)
        for view in views
        for rank, components in component_sets(values[:, view], seed)
        for component in components.T
    ]
    return max(filter(None, found), key=lambda one: one.significance, default=None)


def component_sets(values: np.ndarray, seed: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """Independent components ``[N, R]`` among the first R principal ones, for several R."""
    if not np.ptp(values, axis=0).any():
        return
    whitening = PCA(whiten=True).fit(values)
    full = int((whitening.explained_variance_ > LEAST_VARIANCE).sum())
    white = whitening.transform(values)
    for rank in sorted({min(rank, full) for rank in (*RANKS, full)}):
        for contrast in CONTRASTS:
            yield rank, independent(white[:, :rank], contrast, seed)


def independent(white: np.ndarray, contrast: str, seed: int = 0) -> np.ndarray:
    """Independent components of whitened values, both ``[N, R]``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        analysis = FastICA(whiten=False, fun=contrast, random_state=seed)
        return np.asarray(analysis.fit_transform(white))


def valley(component: np.ndarray, config: Directions, rank: int = 1) -> Valley | None:
    """The most significant valley on the side of the longer tail; None where there is none.

    Args:
        component: ``[N]``, of any scale and sign.
        config: what counts as a valley.
        rank: told in the result.
    """
    low, middle, high = np.percentile(component, [25, 50, 75])
    if high == low:
        return None
    centred = np.clip((component - middle) / (high - low) * 1.349, -FAR, FAR)
    if ((centred - centred.mean()) ** 3).mean() < 0:
        centred = -centred
    step = config.bandwidth / BINS
    edges = np.arange(centred.min() - 1, centred.max() + 1 + step, step)
    counts = np.histogram(centred, edges)[0]
    density = smoothed(counts)
    peak_beyond = np.maximum.accumulate(density[::-1])[::-1]
    beyond = counts[::-1].cumsum()[::-1]
    allowed = (np.arange(len(counts)) > density.argmax()) & (beyond >= config.least_samples)
    allowed &= beyond <= config.most_share * len(component)
    depth = peak_beyond / np.maximum(density, 0.5)
    apart = math.sqrt(2) * (np.sqrt(peak_beyond) - np.sqrt(density))
    allowed &= (depth >= config.depth) & (apart >= config.significance)
    if not allowed.any():
        return None
    place = int(np.where(allowed, apart, -1.0).argmax())
    part = np.flatnonzero(centred >= edges[place])
    return Valley(part, float(depth[place]), float(apart[place]), rank)


def smoothed(counts: np.ndarray) -> np.ndarray:
    """Counts of bins, Gaussian over a bandwidth, as the number that the density rests on.

    The mean under a Gaussian times ``2 sqrt(pi)`` bandwidths: as many equal weights would have its
    variance, so that what comes out scatters as a Poisson count does.
    """
    reach = np.arange(-5 * BINS, 5 * BINS + 1) / BINS
    kernel = np.exp(-(reach**2) / 2)
    weights = kernel / kernel.sum() * 2 * math.sqrt(math.pi) * BINS
    return np.convolve(counts, weights, mode="full")[5 * BINS : -5 * BINS]
