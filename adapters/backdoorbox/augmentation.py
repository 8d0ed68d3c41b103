"""A data set as it is without its random transforms: scores of samples must not be drawn."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torchvision import transforms

from invertune_plugin.adapters.backdoorbox.image_sets import to_bytes

LOOKED_AT = 8


def without_augmentation(dataset: Any) -> Any:
    """The data set itself where nothing of it is random; else a copy without its random steps.

    Steps of its ``Compose``, and of the one for poisoned images, that are called ``Random...``, and
    ``AutoAugment`` and its like, are left out of the copy, or of the data set it is a subset of;
    ``RandomCrop`` and ``RandomResizedCrop`` give way to the centre, so that images keep their size.
    What stays random (of some items that are read twice), or has another size without these steps,
    is scored as it comes. Both are warned of.

    Args:
        dataset: map-style, with items of an image and more.
    """
    plain = _plain(dataset)
    if plain is None and _steady(dataset):
        return dataset
    if plain is not None and _steady(plain) and _shapes(plain) == _shapes(dataset):
        warnings.warn(
            "The data set's transform augments at random; samples are scored without these steps.",
            stacklevel=3,
        )
        return plain
    warnings.warn(
        "The data set gives other images each time and has no random steps that can be left out "
        "(or images of other sizes come without them); "
        "samples are scored as they come. Give it without augmentation.",
        stacklevel=3,
    )
    return dataset


def _steady(dataset: Any) -> bool:
    pairs = zip(_some(dataset), _some(dataset), strict=True)
    return all(torch.equal(one, two) for one, two in pairs)


def _shapes(dataset: Any) -> list[torch.Size]:
    return [image.shape for image in _some(dataset)]


def _some(dataset: Any) -> list[torch.Tensor]:
    return [to_bytes(dataset[i][0]) for i in range(min(LOOKED_AT, len(dataset)))]


def _plain(dataset: Any) -> Any:
    """A shallow copy with its random steps taken out, at any depth of subsets; None without any."""
    pipelines = _pipelines(dataset)
    if any(_is_random(step) for pipeline in pipelines.values() for step in pipeline.transforms):
        plain = copy.copy(dataset)
        for name, given in pipelines.items():
            pipeline = copy.copy(given)
            pipeline.transforms = [_instead(step) for step in given.transforms]
            setattr(plain, name, pipeline)
        return plain
    inner = getattr(dataset, "dataset", None)
    part = None if inner is None else _plain(inner)
    if part is None:
        return None
    plain = copy.copy(dataset)
    plain.dataset = part
    return plain


def _pipelines(dataset: Any) -> dict[str, Any]:
    """The ``transform`` of a set, and the ``poisoned_transform`` that the toolbox's sets have.

    Were only one of them stripped, augmentation would tell poisoned images from clean ones.
    """
    names = ("transform", "poisoned_transform")
    found = {name: getattr(dataset, name, None) for name in names}
    return {name: each for name, each in found.items() if hasattr(each, "transforms")}


def _instead(step: Any) -> Any:
    """The step itself, the centre in place of a random crop, or a step that does nothing.

    One for one: some of the toolbox's sets put a trigger in at the index of a step.
    """
    if not _is_random(step):
        return step
    name, size = type(step).__name__, getattr(step, "size", None)
    if size is None or name not in ("RandomCrop", "RandomResizedCrop"):
        return transforms.Compose([])
    height, width = (size, size) if isinstance(size, int) else size
    if name == "RandomResizedCrop" and height != width:
        return transforms.Resize((height, width))
    centre = transforms.CenterCrop((height, width))
    if name == "RandomResizedCrop":
        return transforms.Compose([transforms.Resize(height), centre])
    if getattr(step, "padding", None) is None:
        return centre
    return transforms.Compose([transforms.Pad(step.padding, step.fill, step.padding_mode), centre])


def _is_random(step: object) -> bool:
    name = type(step).__name__
    return name.startswith("Random") or "Aug" in name or name == "ColorJitter"
