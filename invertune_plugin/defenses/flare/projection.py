"""From features to two dimensions: UMAP as in the paper, or PCA where it is not installed."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

import numpy as np
from sklearn.decomposition import PCA

from invertune_plugin.errors import InputError
from invertune_plugin.modes import same_threads

Kind = Literal["auto", "umap", "pca"]
EXTRA = "In a clone of this package run pip install '.[flare]'"


@dataclass(frozen=True)
class ProjectionConfig:
    """How to project.

    Attributes:
        kind: ``umap``; ``pca``; or ``auto``, which is UMAP where umap-learn is installed.
        neighbours: of UMAP's graph; 40 in the paper.
        fitted: UMAP is fitted to at most so many samples, drawn at random; the others are put into
            its space afterwards, so many at a time.
    """

    kind: Kind = "auto"
    neighbours: int = 40
    fitted: int = 25_000

    def __post_init__(self) -> None:
        """Refuse settings that project nothing."""
        if self.neighbours < 2 or self.fitted <= self.neighbours:
            raise InputError(
                "Expected 2 neighbours or more and more fitted samples than that, got "
                f"{self.neighbours} and {self.fitted}."
            )


def projection_kind(kind: Kind) -> Literal["umap", "pca"]:
    """What a projection is made by here.

    Raises:
        InputError: UMAP is asked for and not installed.
    """
    here = find_spec("umap") is not None
    if kind == "umap" and not here:
        raise InputError(f"Expected umap-learn for projection umap, got none. {EXTRA}, or use pca.")
    return "umap" if here and kind != "pca" else "pca"


def projected(values: np.ndarray, config: ProjectionConfig, seed: int = 0) -> np.ndarray:
    """Samples in two dimensions, ``[N, 2]`` float32; in one where there is one feature and PCA.

    PCA is divided by its deviation, so that distances mean the same for features of any scale.

    Args:
        values: features ``[N, L]``.
        config: settings.
        seed: of UMAP and of the draw of the samples that it is fitted to.

    Raises:
        InputError: as ``projection_kind``.
    """
    if projection_kind(config.kind) == "pca":
        places = PCA(min(2, values.shape[1]), random_state=seed).fit_transform(values)
        return np.asarray(places / max(float(places.std()), np.finfo(np.float32).tiny))
    with warnings.catch_warnings(), same_threads():
        warnings.simplefilter("ignore")
        import umap  # noqa: PLC0415

        neighbours = min(config.neighbours, len(values) - 1)
        mapper = umap.UMAP(n_neighbors=neighbours, min_dist=0.0, random_state=seed)
        if len(values) <= config.fitted:
            return np.asarray(mapper.fit_transform(values))
        drawn = np.random.default_rng(seed).permutation(len(values))
        fitted, others = np.sort(drawn[: config.fitted]), np.sort(drawn[config.fitted :])
        places = np.empty((len(values), 2), dtype=np.float32)
        places[fitted] = mapper.fit_transform(values[fitted])
        for some in np.array_split(others, math.ceil(len(others) / config.fitted)):
            places[some] = mapper.transform(values[some])
    return places
