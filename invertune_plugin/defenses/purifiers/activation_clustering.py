"""Activation clustering: per label, a small and well separated cluster of embeddings.

Chen et al. 2018 (arXiv 1811.03728): ten independent components and 2-means for each label; here a
cluster is poisoned where it is small (the paper's relative size) and the silhouette says that there
are two.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from sklearn.cluster import KMeans
from sklearn.decomposition import FastICA
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import silhouette_score
from torch import nn

from invertune_plugin.data import ImageSet, texts_of
from invertune_plugin.defenses.purifiers.embeddings import image_embeddings
from invertune_plugin.defenses.purify import Found, Purified, Report, check_items, timed_search
from invertune_plugin.errors import InputError

ROUNDING = float(np.finfo(np.float32).eps)
SILHOUETTE_OF = 2000
"""Samples of a label at most: its cost grows with their square."""


@dataclass(frozen=True)
class ActivationClustering:
    """Settings.

    Attributes:
        components: independent components that are clustered.
        most: largest share of a label that a poisoned cluster holds.
        silhouette: least mean silhouette, on 2,000 samples, of two clusters.
        batch_size: images at a time.
    """

    components: int = 10
    most: float = 0.35
    silhouette: float = 0.1
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Refuse settings out of range."""
        if self.components < 1 or self.batch_size < 1 or not 0 < self.most < 0.5:
            raise InputError(
                "Expected components and batch_size of 1 or more and most between 0 and 0.5, got "
                f"{self.components}, {self.batch_size} and {self.most}."
            )


def activation_clustering(
    model: nn.Module,
    dataset: ImageSet,
    config: ActivationClustering | None = None,
    seed: int = 0,
    report: Report | None = None,
) -> Purified:
    """Remove the small cluster of each label that has one.

    Args:
        model: trained on the set; images in [0, 1] to logits.
        dataset: labelled images.
        config: settings.
        seed: of components and clusters.
        report: called with sentences.

    Raises:
        InputError: an image has no label, or the model no linear layer.
    """
    settings = config or ActivationClustering()
    check_items("activation_clustering", dataset, ("labels",))

    def search(say: Report) -> Found:
        found = image_embeddings(
            "activation_clustering", model, dataset, settings.batch_size, say
        ).numpy()
        labels = np.asarray(texts_of(dataset))
        scores = np.zeros(len(labels))
        poisoned: list[int] = []
        of_labels: dict[str, float] = {}
        for label in np.unique(labels):
            mine = np.flatnonzero(labels == label)
            scores[mine], small, silhouette = two_clusters(found[mine], settings, seed)
            if small.mean() <= settings.most and silhouette >= settings.silhouette:
                poisoned += mine[small].tolist()
                of_labels[str(label)] = round(float(small.mean()), 4)
        reason = (
            f"{len(poisoned)} of {len(labels)} samples are in the small clusters of "
            f"{len(of_labels)} labels."
        )
        return Found(scores, poisoned, reason, {"share_of_label": of_labels})

    return timed_search("activation_clustering", model, seed, report, search)


def two_clusters(
    embeddings: np.ndarray, config: ActivationClustering, seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Scores ``[N]``, members of the smaller cluster (bool ``[N]``), and the silhouette.

    A score is the distance from the larger cluster's centre less that from the smaller one's; all
    are 0 where there are too few samples or all are equal but for rounding.
    """
    count = len(embeddings)
    lengths = np.linalg.svd(embeddings - embeddings.mean(0), compute_uv=False)
    rank = int((lengths > ROUNDING * max(embeddings.shape) * np.linalg.norm(embeddings)).sum())
    components = min(config.components, rank, count - 1)
    if components < 1:
        return np.zeros(count), np.zeros(count, dtype=bool), 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        places = FastICA(components, whiten="unit-variance", random_state=seed).fit_transform(
            embeddings
        )
    fitted = KMeans(2, n_init=10, random_state=seed).fit(places)
    smaller = int(np.bincount(fitted.labels_, minlength=2).argmin())
    small = fitted.labels_ == smaller
    away = fitted.transform(places)
    scores = away[:, 1 - smaller] - away[:, smaller]
    if small.all() or not small.any() or count < 3:
        return scores, np.zeros(count, dtype=bool), 0.0
    some = _of_both(small, seed)
    return scores, small, float(silhouette_score(places[some], small[some]))


def _of_both(small: np.ndarray, seed: int) -> np.ndarray:
    """At most ``SILHOUETTE_OF`` indices at random, members of both clusters among them."""
    order = np.random.default_rng(seed).permutation(len(small))
    if len(small) <= SILHOUETTE_OF:
        return order
    few, many = order[small[order]], order[~small[order]]
    few = few[: max(1, round(SILHOUETTE_OF * small.mean()))]
    return np.concatenate([few, many[: SILHOUETTE_OF - len(few)]])
