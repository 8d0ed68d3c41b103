"""Independent components of FLARE's features (FastICA, Hyvarinen and Oja 2000)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
from sklearn.decomposition import PCA, FastICA
from sklearn.exceptions import ConvergenceWarning

from invertune_plugin.defenses.flare.norms import LARGEST

LEAST_VARIANCE = 1e-3
"""Of a principal component; below it is what layers say twice."""
CONTRASTS = ("exp", "logcosh")
RANKS = (3, 4, 6, 8, 12, 16, 24, 32)
"""Principal components that are searched, beside all: among many, the analysis may miss a part."""


def all_components(
    values: np.ndarray, views: Sequence[list[int]], seed: int = 0
) -> list[tuple[int, np.ndarray]]:
    """Every independent component ``[N]`` of some views, with the rank among which it was found.

    Args:
        values: features ``[N, L]``.
        views: columns that are searched together.
        seed: of the component analysis.
    """
    return [
        (rank, component)
        for view in views
        for rank, components in component_sets(values[:, view], seed)
        for component in components.T
    ]


def views_of(features: tuple[str, ...]) -> list[list[int]]:
    """Columns that are searched together: all of them, and each of two statistics by itself."""
    largest = [i for i, name in enumerate(features) if name.endswith(LARGEST)]
    mean = [i for i in range(len(features)) if i not in largest]
    every = list(range(len(features)))
    return [every, mean, largest] if mean and largest else [every]


def component_sets(values: np.ndarray, seed: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """Independent components ``[N, R]`` among the first R principal ones, for several R."""
    if not np.ptp(values, axis=0).any():
        return
    whitening = PCA(whiten=True).fit(values)
    full = int((whitening.explained_variance_ > LEAST_VARIANCE).sum())
    if full < 1:
        return
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
