"""Fixed pictures laid over the image."""

from __future__ import annotations

from abc import abstractmethod
from functools import lru_cache

import torch
from torch import Tensor

from invertune_plugin.triggers.base import Trigger


class Overlay(Trigger):
    """``image + weight * (picture - image)``, with a picture and a weight per pixel.

    Subclasses are frozen dataclasses and give ``layer``; it is drawn once per image size.
    """

    @abstractmethod
    def layer(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """What is laid over images of this size.

        Returns:
            Picture ``[3, H, W]`` in [0, 1], and weight ``[1, H, W]`` in [0, 1], in float64: 0
            leaves a pixel unchanged, exactly.
        """

    def _apply(self, images: Tensor, keys: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        kept, added = _prepared(self, height, width, images.device, images.dtype)
        return kept * images + added


def constant(height: int, width: int, alpha: float) -> Tensor:
    """The weight ``[1, H, W]`` of an overlay that is the same everywhere."""
    return torch.full((1, height, width), alpha, dtype=torch.float64)


@lru_cache(maxsize=32)
def _prepared(
    overlay: Overlay, height: int, width: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """``1 - weight`` and ``weight * picture``, each rounded once.

    They outlive the call that drew them, so they must not be inference tensors.
    """
    with torch.inference_mode(False), torch.no_grad():
        picture, weight = overlay.layer(height, width)
        kept = (1 - weight).to(device, dtype)
        return kept, weight.to(device, dtype) * picture.to(device, dtype)
