"""What happens to images on their way: stages for a ``Chain``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.io import decode_jpeg, encode_jpeg

from invertune_plugin.data import to_unit
from invertune_plugin.errors import InputError
from invertune_plugin.triggers.base import Trigger
from invertune_plugin.triggers.places import nearest_length

MOST_ENLARGED = 4


@dataclass(frozen=True)
class Jpeg(Trigger):
    """Images written as JPEG and read again.

    No gradient flows: the result is that of the codec. It is the one trigger that goes through
    images one by one, on the CPU.

    Attributes:
        quality: 1 to 100.
    """

    kind: ClassVar[str] = "jpeg"
    differentiable = False
    quality: int = 75

    def __post_init__(self) -> None:
        """Refuse what is no quality."""
        if not 1 <= self.quality <= 100:
            raise InputError(f"Expected a quality from 1 to 100, got {self.quality}. Use 75.")

    def _apply(self, images: Tensor, keys: Tensor) -> Tensor:
        grey_levels = images.detach().mul(255).round().to("cpu", torch.uint8)
        coded = [decode_jpeg(encode_jpeg(image, self.quality)) for image in grey_levels]
        return to_unit(torch.stack(coded)).to(images) if coded else images.detach().clone()


@dataclass(frozen=True)
class Resize(Trigger):
    """Images made smaller (or larger) and brought back to their size, smoothly.

    Attributes:
        size: of the shorter side between the two steps, in pixels; four times that of the images at
            most.
    """

    kind: ClassVar[str] = "resize"
    size: int = 24

    def __post_init__(self) -> None:
        """Refuse what is no size."""
        if self.size < 1:
            raise InputError(f"Expected a size of 1 pixel or more, got {self.size}. Use 24.")

    def at_scale(self, factor: float) -> Resize:
        """The same share of the side."""
        return replace(self, size=nearest_length(self.size, factor))

    def _apply(self, images: Tensor, keys: Tensor) -> Tensor:
        size = images.shape[-2:]
        if self.size > MOST_ENLARGED * min(size):
            raise InputError(
                f"Expected a size of at most {MOST_ENLARGED * min(size)} pixels for images of "
                f"{size[0]} x {size[1]}, got {self.size}. Make it smaller."
            )
        factor = self.size / min(size)
        between = (nearest_length(size[0], factor), nearest_length(size[1], factor))
        for step in (between, size):
            images = F.interpolate(images, step, mode="bilinear", antialias=True)
        return images.clamp(0, 1)
