"""Local outlier detectors of CLIP backdoors: poisoned samples have sparse neighbourhoods.

Huang et al. 2025 (ICLR, arXiv 2502.01385): k-distance, SLOF (simplified local outlier factor,
Schubert et al. 2014) and DAO (dimensionality-aware outlier, Anderberg et al. 2024) on image
embeddings, within random batches. A batch must hold fewer poisoned samples than k, or these are
each other's neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from invertune_plugin.data import Items
from invertune_plugin.defenses.purifiers.embeddings import image_embeddings
from invertune_plugin.defenses.purifiers.outliers import OutlierConfig, removed_outliers
from invertune_plugin.defenses.purify import Found, Purified, Report, check_items, timed_search
from invertune_plugin.errors import InputError

TINY = 1e-12
SAME = 1e-4
"""Embeddings that differ by less than this share of their usual length are copies."""
Score = Callable[["Neighbours"], Tensor]


@dataclass(frozen=True)
class LocalOutliers(OutlierConfig):
    """Settings: those of ``OutlierConfig``, and the neighbourhood.

    Attributes:
        k: neighbours; 16 as published.
        reference: samples of a random batch, which are each other's neighbours.
    """

    k: int = 16
    reference: int = 2048

    def __post_init__(self) -> None:
        """Refuse batches without k neighbours."""
        super().__post_init__()
        if not 1 <= self.k < self.reference:
            raise InputError(
                f"Expected k from 1 to below reference, got {self.k} and {self.reference}."
            )


@dataclass(frozen=True)
class Neighbours:
    """The k nearest neighbours of B samples, nearest first.

    Attributes:
        distances: ``[B, k]``, above 0.
        indices: ``[B, k]`` in the batch.
    """

    distances: Tensor
    indices: Tensor

    @property
    def radius(self) -> Tensor:
        """Distance of the k-th neighbour, ``[B]``."""
        return self.distances[:, -1]


def neighbours(embeddings: Tensor, k: int) -> Neighbours:
    """The k nearest others of each of ``[B, D]`` embeddings, B above k."""
    points = embeddings.double()
    apart = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
    distances, indices = apart.fill_diagonal_(torch.inf).topk(k, largest=False)
    return Neighbours(distances.clamp_min(TINY), indices)


def k_distance(near: Neighbours) -> Tensor:
    """Distance of the k-th neighbour, ``[B]``."""
    return near.radius


def slof(near: Neighbours) -> Tensor:
    """Mean ratio of a sample's k-distance and that of its neighbours, ``[B]``; about 1 inside."""
    return (near.radius[:, None] / near.radius[near.indices]).mean(1)


def dao(near: Neighbours) -> Tensor:
    """As SLOF, in logarithms and times the local intrinsic dimension of each neighbour, ``[B]``."""
    dimension = intrinsic_dimension(near)[near.indices]
    return (dimension * (near.radius[:, None] / near.radius[near.indices]).log()).mean(1)


def intrinsic_dimension(near: Neighbours) -> Tensor:
    """Maximum-likelihood estimate of the local dimension, ``[B]`` (Amsaleg et al. 2015)."""
    return -1 / (near.distances / near.radius[:, None]).log().mean(1).clamp_max(-TINY)


def local_outliers(name: str, score: Score) -> Callable[..., Purified]:
    """The purifier that removes the outliers by a score of neighbourhoods.

    Args:
        name: of the purifier.
        score: ``k_distance``, ``slof`` or ``dao``.
    """

    def purify(
        model: nn.Module,
        dataset: Items[Any],
        config: LocalOutliers | None = None,
        seed: int = 0,
        report: Report | None = None,
    ) -> Purified:
        """Remove samples with outlying neighbourhoods; only images are needed.

        Raises:
            InputError: there are k samples or fewer, or the model has no embeddings.
        """
        settings = config or LocalOutliers()
        check_items(name, dataset, ())
        if len(dataset) <= settings.k:
            raise InputError(
                f"Expected more than {settings.k} samples for {name}, got {len(dataset)}. Lower k."
            )

        def search(say: Report) -> Found:
            found = image_embeddings(name, model, dataset, settings.batch_size, say)
            return removed_outliers(batch_scores(found, score, settings, seed), settings)

        return timed_search(name, model, seed, report, search)

    return purify


def batch_scores(embeddings: Tensor, score: Score, config: LocalOutliers, seed: int) -> np.ndarray:
    """Scores ``[N]`` of embeddings ``[N, D]`` within random batches of equal size.

    Copies within a batch count once, or all that lies beside them would be far out of so dense a
    place.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(embeddings), generator=generator)
    scores = torch.empty(len(embeddings), dtype=torch.float64)
    for part in order.tensor_split(-(-len(order) // config.reference)):
        points, places = distinct(embeddings[part])
        if len(points) == 1:
            scores[part] = 0.0
        else:
            near = neighbours(points, min(config.k, len(points) - 1))
            scores[part] = score(near)[places]
    return scores.numpy()


def distinct(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Embeddings ``[N, D]`` without copies, ``[M, D]``, and where each is among them, ``[N]``."""
    usual = embeddings.norm(dim=1).median().clamp_min(TINY)
    steps = (embeddings / (SAME * usual)).round()
    _, places = steps.unique(dim=0, return_inverse=True)
    first = torch.full((int(places.max()) + 1,), len(places)).scatter_reduce(
        0, places, torch.arange(len(places)), "amin"
    )
    return embeddings[first], places
