"""Triggers at other image sizes."""

from __future__ import annotations

from invertune_plugin.errors import InputError
from invertune_plugin.triggers.base import Trigger

PUBLISHED_SIZE = 224
"""The image size for which papers on CLIP give their triggers."""


def scaled(trigger: Trigger, from_size: int, to_size: int) -> Trigger:
    """The trigger with the same share of the image at another image size.

    A patch keeps its share of the area: 16 x 16 at 224 pixels becomes 2 x 2 at 32. Distances,
    offsets, blurs, stripes, tiles and warps keep their share of the side, and tensors are resized.
    Weights, frequencies over the width, words, colours and seeds stay.

    Args:
        trigger: as published, for instance for ``PUBLISHED_SIZE``.
        from_size: side of the images that it was made for, in pixels.
        to_size: side of the images that it is for.

    Raises:
        InputError: a size is below one pixel, or a tensor of the trigger is of another size.
    """
    if min(from_size, to_size) < 1:
        raise InputError(
            f"Expected image sizes of 1 pixel or more, got {from_size} and {to_size}. "
            "Give the sides in pixels."
        )
    for name, tensor in trigger.tensors().items():
        if from_size not in tensor.shape[-2:]:
            raise InputError(
                f"Expected a trigger for images of {from_size} pixels, got {name} of "
                f"{tuple(tensor.shape[-2:])}. Give the size that it was made for."
            )
    return trigger.at_scale(to_size / from_size)
