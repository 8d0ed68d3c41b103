"""A data set as it is without its random transforms: scores of samples must not be drawn."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch

from invertune_plugin.adapters.backdoorbox.image_sets import to_bytes

LOOKED_AT = 8


def without_augmentation(dataset: Any) -> Any:
    """The data set itself where nothing of it is random; else a copy without its random steps.

    Steps of a ``Compose`` that are called ``Random...``, and ``AutoAugment`` and its like, are left
    out of the copy's transform, or of that of the data set it is a subset of. What stays random (of
    some items that are read twice) is scored as it comes. Both are warned of.

    Args:
        dataset: map-style, with items of an image and more.
    """
    plain = _plain(dataset)
    if plain is None and _steady(dataset):
        return dataset
    if plain is not None and _steady(plain):
        warnings.warn(
            "The data set's transform augments at random; samples are scored without these steps.",
            stacklevel=3,
        )
        return plain
    warnings.warn(
        "The data set gives other images each time and has no random steps that can be left out; "
        "samples are scored as they come. Give it without augmentation.",
        stacklevel=3,
    )
    return dataset


def _steady(dataset: Any) -> bool:
    some = range(min(LOOKED_AT, len(dataset)))
    first, again = ([to_bytes(dataset[i][0]) for i in some] for _ in range(2))
    return all(torch.equal(one, two) for one, two in zip(first, again, strict=True))


def _plain(dataset: Any) -> Any:
    """A shallow copy with its random steps taken out, at any depth of subsets; None without any."""
    transform: Any = getattr(dataset, "transform", None)
    steps = getattr(transform, "transforms", None)
    if steps is not None and any(_is_random(step) for step in steps):
        plain, pipeline = copy.copy(dataset), copy.copy(transform)
        pipeline.transforms = [step for step in steps if not _is_random(step)]
        plain.transform = pipeline
        return plain
    inner = getattr(dataset, "dataset", None)
    part = None if inner is None else _plain(inner)
    if part is None:
        return None
    plain = copy.copy(dataset)
    plain.dataset = part
    return plain


def _is_random(step: object) -> bool:
    name = type(step).__name__
    return name.startswith("Random") or "Aug" in name or name == "ColorJitter"
