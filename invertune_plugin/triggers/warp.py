"""Smooth warps of the image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from invertune_plugin.errors import InputError
from invertune_plugin.triggers.base import Trigger
from invertune_plugin.triggers.draws import generator

MOST_POINTS = 1024


@dataclass(frozen=True)
class Warp(Trigger):
    """A fixed smooth warp, without the paper's noise mode (WaNet, Nguyen and Tran 2021).

    Pixels move by ``strength / 2`` on average in each direction. BadCLIP (Liang et al. 2024) has
    k 224 and strength 1 at 224 pixels.

    Attributes:
        k: the field is drawn at k x k points, 2 to 1024.
        strength: of the warp, the paper's s.
        rescale: factor of the grid, just below 1 to stay off the border; the paper's default is 1.
        seed: of the field.
    """

    kind: ClassVar[str] = "warp"
    k: int = 4
    strength: float = 0.5
    rescale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no warp."""
        if not 2 <= self.k <= MOST_POINTS:
            raise InputError(
                f"Expected a field of 2 x 2 to {MOST_POINTS} x {MOST_POINTS} points, got k "
                f"{self.k}. Use 4."
            )
        if not self.strength > 0:
            raise InputError(f"Expected a strength above 0, got {self.strength}. Use 0.5.")
        if not 0 < self.rescale <= 1:
            raise InputError(f"Expected a rescale in (0, 1], got {self.rescale}. Use 1.")

    def field(self, height: int, width: int) -> Tensor:
        """The smooth field ``[1, H, W, 2]`` (right, down), of mean size 1 at the drawn points."""
        drawn = torch.rand(1, 2, self.k, self.k, generator=generator(self.seed)) * 2 - 1
        drawn = drawn / drawn.abs().mean()
        smooth = F.interpolate(drawn, (height, width), mode="bicubic", align_corners=True)
        return smooth.permute(0, 2, 3, 1).contiguous()

    def grid(self, height: int, width: int) -> Tensor:
        """Where each pixel is taken from, ``[1, H, W, 2]`` (x, y) in [-1, 1]."""
        down, right = torch.linspace(-1, 1, height), torch.linspace(-1, 1, width)
        y, x = torch.meshgrid(down, right, indexing="ij")
        steps = self.strength * self.field(height, width) / torch.tensor([width, height])
        return ((torch.stack((x, y), 2)[None] + steps) * self.rescale).clamp(-1, 1)

    def at_scale(self, factor: float) -> Warp:
        """The warp that moves pixels by the same share of the image."""
        return replace(self, strength=self.strength * factor)

    def _apply(self, images: Tensor, keys: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        grid = _prepared(self, height, width, images.device, images.dtype)
        grids = grid.expand(len(images), -1, -1, -1)
        return F.grid_sample(images, grids, mode="bilinear", align_corners=True).clamp(0, 1)


@lru_cache(maxsize=32)
def _prepared(
    warp: Warp, height: int, width: int, device: torch.device, dtype: torch.dtype
) -> Tensor:
    """The grid; it outlives the call that drew it, so it must not be an inference tensor."""
    with torch.inference_mode(False):
        return warp.grid(height, width).to(device, dtype)
