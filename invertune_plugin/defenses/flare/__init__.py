"""FLARE: find the poisoned samples of a training set by a model trained on it (TIFS 2025)."""

from __future__ import annotations

from typing import Any

from torch import nn

from invertune_plugin.data import Items, Subset
from invertune_plugin.defenses.base import Purifier
from invertune_plugin.defenses.flare.clusters import check_packages
from invertune_plugin.defenses.flare.reading import read_and_judged
from invertune_plugin.defenses.flare.verdict import FlareConfig, check_size, verdict
from invertune_plugin.defenses.purify import Purified, Report, check_items, refuse_failed

__all__ = ["FLARE", "FlareConfig", "flare"]


def flare(
    model: nn.Module,
    dataset: Items[Any],
    config: FlareConfig | None = None,
    seed: int = 0,
    report: Report | None = None,
) -> Purified:
    """Find the poisoned samples of a set in one forward pass over it.

    Args:
        model: trained on the set: images ``[N, 3, H, W]`` in [0, 1] to logits ``[N, K]``, with
            normalisation layers; for pairs a ``ZeroShotClassifier``. It comes back as it was.
        dataset: the set; labels and captions are not needed.
        config: settings.
        seed: of all that is random.
        report: called with sentences.

    Raises:
        InputError: too few samples or a missing package, before the model is run; no normalisation
            layers, or an untrained model.
    """
    settings = config or FlareConfig()
    check_items("flare", dataset, ())
    check_size(len(dataset), settings)
    check_packages()
    return read_and_judged(
        "flare",
        model,
        dataset,
        settings.features,
        seed,
        report,
        lambda features: verdict(features, settings, seed),
    )


class FLARE(Purifier):
    """Finds the poisoned samples of the set that a model was trained on.

    Args:
        model: see ``flare``; it is not changed.
        seed: of all that is random.
        deterministic: ask torch for deterministic algorithms.
        config: settings.
        report: called with sentences.

    Attributes:
        found_: the ``Purified`` of the last set: scores, indices, outcome with its evidence.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        seed: int = 0,
        deterministic: bool = False,
        config: FlareConfig | None = None,
        report: Report | None = None,
    ) -> None:
        super().__init__(seed=seed, deterministic=deterministic)
        self.model = model
        self.config = config
        self.report = report

    def detect(self, dataset: Items[Any]) -> Purified:
        """Find the poisoned samples of a set; see ``flare``."""
        with self.seeded():
            self.found_ = flare(self.model, dataset, self.config, self.seed, self.report)
        return self.found_

    def filter(self, dataset: Items[Any]) -> tuple[Subset[Any], list[int]]:
        """The samples of a set that are not poisoned, and the indices of those that are.

        Raises:
            InputError: the search failed, for instance as the model has not learnt the labels.
        """
        found = refuse_failed(self.detect(dataset))
        return Subset(dataset, found.kept), list(found.poisoned)
