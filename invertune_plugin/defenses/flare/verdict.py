"""What FLARE's clusters mean: which samples are poisoned, or that there is no poison to be seen."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from invertune_plugin.defenses.flare.clusters import (
    ClusterConfig,
    Split,
    condensed_tree,
    stable_split,
)
from invertune_plugin.defenses.flare.features import FeatureConfig, Features
from invertune_plugin.defenses.flare.projection import ProjectionConfig, projected, projection_kind
from invertune_plugin.defenses.flare.sides import (
    discriminant_scores,
    refined,
    share_of_classes,
    standardised,
    suspicion,
    told_apart,
)
from invertune_plugin.defenses.flare.subspace import SubspaceConfig, select_subspace
from invertune_plugin.defenses.purify import Found
from invertune_plugin.errors import InputError
from invertune_plugin.outcome import Outcome

SAME = 0.5
"""Least Jaccard index of what two projections split off."""


@dataclass(frozen=True)
class FlareConfig:
    """Settings of FLARE.

    Attributes:
        features: how the model is read.
        subspace: which layers count.
        projection: how they are projected.
        clusters: what counts as a split.
        most_of_classes: a cluster is one of classes and no poison where it holds more than this
            share of the classes that the model reads in it; 1 switches the check off, as published.
        confirmed: a split counts only where a projection from another seed splits off the same
            samples, by ``SAME``; UMAP tears a set now here, now there. Not published, and not asked
            of PCA, which is always the same.
        least_late: a split counts where the later half of all layers tells it from the rest with
            this AUROC or a larger one (``told_apart``), as a backdoor changes what the model reads,
            while what images have by nature fades; 0 asks nothing. Not published.
        refine: let a linear discriminant between the two sides, on all features, decide every
            sample anew (``refined``), as clusters leave out what lies between them, and give the
            scores; not published.
    """

    features: FeatureConfig = field(default_factory=FeatureConfig)
    subspace: SubspaceConfig = field(default_factory=SubspaceConfig)
    projection: ProjectionConfig = field(default_factory=ProjectionConfig)
    clusters: ClusterConfig = field(default_factory=ClusterConfig)
    most_of_classes: float = 0.9
    confirmed: bool = True
    least_late: float = 0.8
    refine: bool = False

    def __post_init__(self) -> None:
        """Refuse what is no share."""
        if not 0 < self.most_of_classes <= 1:
            raise InputError(
                f"Expected most_of_classes above 0 and at most 1, got {self.most_of_classes}."
            )
        if not 0 <= self.least_late <= 1:
            raise InputError(f"Expected least_late from 0 to 1, got {self.least_late}.")


def verdict(features: Features, config: FlareConfig, seed: int = 0) -> Found:
    """Split a set by its features, in the largest subspace that splits it stably.

    Args:
        features: of N samples and L layers.
        config: settings.
        seed: of the projection.

    Raises:
        InputError: two clusters need more samples, or a package is missing.
    """
    check_size(len(features.values), config)
    values = standardised(features.values)
    kind = projection_kind(config.projection.kind)
    late = values[:, values.shape[1] // 2 :]
    shares: list[float] = []
    torn: list[int] = []
    faded: list[int] = []
    late_aurocs: list[float] = []

    def odd_parts(part: np.ndarray, seed: int) -> Split | None:
        places = projected(part, config.projection, seed)
        tree = condensed_tree(places, config.clusters.min_cluster_size)
        if (split := stable_split(tree, config.clusters)) is None:
            return None
        found = [share_of_classes(features.predictions, cluster) for cluster in split.parts]
        shares.extend(found)
        within = [share <= config.most_of_classes for share in found]
        parts = tuple(some for some, small in zip(split.parts, within, strict=True) if small)
        return replace(split, parts=parts) if parts else None

    def split_of(kept: int) -> Split | None:
        part = features.values[:, :kept].astype(np.float32)
        if not np.ptp(part, axis=0).any() or (split := odd_parts(part, seed)) is None:
            return None
        late_aurocs.append(told_apart(late, split.poisoned))
        if late_aurocs[-1] < config.least_late:
            faded.append(len(split.poisoned))
            return None
        if config.confirmed and kind == "umap":
            again = odd_parts(part, seed + 1)
            if again is None or _jaccard(split.poisoned, again.poisoned) < SAME:
                torn.append(len(split.poisoned))
                return None
        return split

    found = select_subspace(len(features.layers), split_of, config.subspace)
    split, layers = found.split, len(features.layers)
    evidence: dict[str, Any] = {
        "layers": layers,
        "dropped": list(features.layers[found.kept :]),
        "subspaces": found.tried,
        "projection": kind,
        "share_of_classes": [round(share, 4) for share in shares],
        "faded": faded,
        "unconfirmed": torn,
    }
    if split is None:
        scores = suspicion(values[:, : found.kept], np.empty(0, dtype=np.int64))
        whole = sum(share > config.most_of_classes for share in shares)
        reason = (
            f"No part of more than {config.clusters.min_cluster_size} of the {len(values)} samples "
            f"stands apart in {found.tried} subspaces"
            + (f"; {whole} cluster(s) are whole classes" * bool(whole))
            + (f"; {len(faded)} split(s) fade in the later layers" * bool(faded))
            + (f"; {len(torn)} split(s) did not come again in another projection" * bool(torn))
            + "."
        )
        return Found(scores, (), reason, evidence, Outcome.REJECTED)
    poisoned, scores = split.poisoned, suspicion(values[:, : found.kept], split.poisoned)
    if config.refine:
        poisoned = refined(values, poisoned)
        scores = discriminant_scores(values, poisoned)
        evidence["refined"] = len(poisoned)
    evidence |= {
        "clusters": list(split.sizes),
        "noise": split.noise,
        "stability": split.stability,
        "persistence": None if np.isinf(split.persistence) else split.persistence,
        "depth": split.depth,
        "late_auroc": late_aurocs[-1],
    }
    reason = (
        f"{len(poisoned)} of {len(values)} samples stand apart in the first {found.kept} of "
        f"{layers} normalisation layers."
    )
    return Found(scores, poisoned.tolist(), reason, evidence)


def _jaccard(one: np.ndarray, other: np.ndarray) -> float:
    """Shared samples of two sets of indices, as a share of all of either."""
    return len(np.intersect1d(one, other)) / len(np.union1d(one, other))


def check_size(count: int, config: FlareConfig) -> None:
    """Refuse a set that cannot hold two clusters; call it before the model is run.

    Raises:
        InputError: there are too few samples.
    """
    least = 2 * (config.clusters.min_cluster_size + 1)
    if count < least:
        raise InputError(
            f"Expected {least} samples or more for two clusters of more than "
            f"{config.clusters.min_cluster_size}, got {count}. Lower min_cluster_size, or add "
            "samples."
        )
