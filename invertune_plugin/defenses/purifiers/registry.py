"""Every purifier by its name, called in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import nn

from invertune_plugin.config import named, parse
from invertune_plugin.data import Items
from invertune_plugin.defenses.flare import FlareConfig, flare
from invertune_plugin.defenses.flare.clusters import why_no_clusters
from invertune_plugin.defenses.purifiers.activation_clustering import (
    ActivationClustering,
    activation_clustering,
)
from invertune_plugin.defenses.purifiers.clip_score import clip_score
from invertune_plugin.defenses.purifiers.directions import directions
from invertune_plugin.defenses.purifiers.isolation_forest import IsolationForest, isolation_forest
from invertune_plugin.defenses.purifiers.local_outliers import (
    LocalOutliers,
    dao,
    k_distance,
    local_outliers,
    slof,
)
from invertune_plugin.defenses.purifiers.outliers import OutlierConfig
from invertune_plugin.defenses.purifiers.spectral_signatures import (
    SpectralSignatures,
    spectral_signatures,
)
from invertune_plugin.defenses.purifiers.splitting import Directions
from invertune_plugin.defenses.purify import Found, Need, Purified, Report, timed_search
from invertune_plugin.outcome import Outcome


@dataclass(frozen=True)
class NoSettings:
    """No settings."""


@dataclass(frozen=True)
class PurifierKind:
    """A purifier and what it takes.

    Attributes:
        config: dataclass of its settings.
        run: (model, dataset, config, seed, report) -> what it found.
        needs: what it needs beside images.
        why_not: why it cannot work here, in a sentence; None where it can.
    """

    config: type[Any]
    run: Callable[[Any, Any, Any, int, Report | None], Purified]
    needs: tuple[Need, ...] = ()
    why_not: Callable[[], str | None] = lambda: None


def keep_all(
    model: nn.Module,
    dataset: Items[Any],
    config: NoSettings | None = None,
    seed: int = 0,
    report: Report | None = None,
) -> Purified:
    """No purification: the row that others are held against."""

    def search(_: Report) -> Found:
        return Found(np.zeros(len(dataset)), (), "The set as it is.", outcome=Outcome.REJECTED)

    return timed_search("none", model, seed, report, search)


PURIFIERS: Mapping[str, PurifierKind] = MappingProxyType(
    {
        "none": PurifierKind(NoSettings, keep_all),
        "flare": PurifierKind(FlareConfig, flare, why_not=why_no_clusters),
        "directions": PurifierKind(Directions, directions),
        "spectral_signatures": PurifierKind(SpectralSignatures, spectral_signatures, ("labels",)),
        "activation_clustering": PurifierKind(
            ActivationClustering, activation_clustering, ("labels",)
        ),
        "clip_score": PurifierKind(OutlierConfig, clip_score, ("captions",)),
        "k_distance": PurifierKind(LocalOutliers, local_outliers("k_distance", k_distance)),
        "slof": PurifierKind(LocalOutliers, local_outliers("slof", slof)),
        "dao": PurifierKind(LocalOutliers, local_outliers("dao", dao)),
        "isolation_forest": PurifierKind(IsolationForest, isolation_forest),
    }
)


def run_purifier(
    name: str,
    model: nn.Module,
    dataset: Items[Any],
    options: Mapping[str, Any] = MappingProxyType({}),
    seed: int = 0,
    report: Report | None = None,
) -> Purified:
    """Find the poisoned items of a set; model and global random state come back as they were.

    Args:
        name: a key of ``PURIFIERS``.
        model: trained on the set: images ``[N, 3, H, W]`` in [0, 1] to logits ``[N, K]``.
        dataset: labelled images or image-caption pairs.
        options: settings by name, see the config class of the purifier.
        seed: of everything random.
        report: called with sentences.

    Raises:
        InputError: the name or an option is unknown, a value is wrong, or labels or captions are
            missing; before any work.
    """
    purifier = purifier_of(name)
    config = parse(purifier.config, options, name)
    return purifier.run(model, dataset, config, seed, report)


def purifier_of(name: str) -> PurifierKind:
    """A purifier by its name.

    Raises:
        InputError: there is none of that name; the nearest one is told.
    """
    return named("purifier", name, PURIFIERS)
