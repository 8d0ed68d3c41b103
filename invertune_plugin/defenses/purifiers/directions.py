"""Directions: independent components of FLARE's features, along which a small part stands apart.

Poison is a small part of a set that differs from the rest in the same way, in few layers or faintly
in many. Such a direction is what independent component analysis looks for (FastICA, Hyvarinen and
Oja 2000); UMAP, which keeps the nearest neighbours of each sample, often loses it. A component
splits the set where its density has a valley that is deep and that chance does not explain. What
it splits off is taken away, and the rest is searched again, until nothing stands apart. Where the
whole set shows no valley, each class that the model reads is looked at by itself; whether a class
falls into halves is looked at in any case. Of a classifier, second heaps of its classes before the
last layer are looked for first. Where no valley is left, classes and the ends of the components are
put into other images: poison carries them to its class. Not published; measured beside FLARE in
docs/directions.md.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from invertune_plugin.data import Items
from invertune_plugin.defenses.flare.reading import read_and_judged
from invertune_plugin.defenses.purifiers.splitting import Directions, split
from invertune_plugin.defenses.purifiers.transplants import Transplants
from invertune_plugin.defenses.purify import Purified, Report, check_items
from invertune_plugin.errors import InputError


def directions(
    model: nn.Module,
    dataset: Items[Any],
    config: Directions | None = None,
    seed: int = 0,
    report: Report | None = None,
) -> Purified:
    """Find the poisoned samples of a set in one forward pass over it; as ``flare``.

    Where no valley is left, up to 40 classes and as many ends of components are put into 100 images
    each, those ends that carry three times more when completed, and a class that is cut 114 times:
    beyond that pass up to 32,000 forward passes over single images for each part that is taken
    away, and as many for none.

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

    return read_and_judged(
        "directions",
        model,
        dataset,
        settings.features,
        seed,
        report,
        lambda features: split(
            features, settings, seed, Transplants(model, dataset, features.predictions, seed=seed)
        ),
        with_last=settings.last_layer,
    )
