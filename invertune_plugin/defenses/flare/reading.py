"""A search by what the layers of a model say of a set: FLARE, and others that judge the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import nn

from invertune_plugin.data import Items, texts_of
from invertune_plugin.defenses.flare.features import FeatureConfig, Features, abnormal_features
from invertune_plugin.defenses.flare.sides import check_fit
from invertune_plugin.defenses.purify import (
    Found,
    Purified,
    Report,
    refuse_non_finite,
    timed_search,
    told_progress,
)
from invertune_plugin.outcome import Outcome


def read_and_judged(
    name: str,
    model: nn.Module,
    dataset: Items[Any],
    config: FeatureConfig,
    seed: int,
    report: Report | None,
    judge: Callable[[Features], Found],
    *,
    with_last: bool = False,
) -> Purified:
    """Read a set in one forward pass and judge it, unless the model has not learnt its labels.

    Args:
        name: of the purifier.
        model: trained on the set.
        dataset: the set.
        config: how the model is read.
        seed: of all that is random.
        report: called with sentences.
        judge: what the features mean.
        with_last: read what the last linear layer takes in, too, of a CLIP the image embeddings.

    Raises:
        InputError: no normalisation layers, an untrained model, or activations that are no numbers.
    """

    def search(say: Report) -> Found:
        progress = told_progress(name, say)
        features = abnormal_features(model, dataset, config, seed, progress, with_last=with_last)
        for values in (features.values, features.last, features.embeddings):
            if values is not None:
                refuse_non_finite(name, values)
        unfit = check_fit(features.predictions, texts_of(dataset))
        if unfit is not None:
            return Found(np.zeros(len(dataset)), (), unfit, outcome=Outcome.FAILED)
        return judge(features)

    return timed_search(name, model, seed, report, search)
