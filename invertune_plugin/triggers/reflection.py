"""Reflections in a pane of glass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from invertune_plugin.errors import InputError
from invertune_plugin.triggers.base import refuse_weight
from invertune_plugin.triggers.draws import generator
from invertune_plugin.triggers.overlay import Overlay, constant
from invertune_plugin.triggers.places import nearest_length

LOOKS = ("in-focus", "out-of-focus", "ghost")
COARSE, LAMPS = 4, 3
LEAST_BLUR, MOST_BLUR = 0.001, 1e6


@dataclass(frozen=True)
class Reflection(Overlay):
    """A smooth drawn scene, mirrored in a pane before the image (Refool, Liu et al. 2020).

    The scene takes the place of the paper's photographs; ranges are those of BackdoorBox.

    Attributes:
        alpha: weight of the reflection in (0, 1]; 0.05 to 0.45.
        look: ``in-focus``, ``out-of-focus`` (blurred), or ``ghost`` (mirrored by both faces of a
            thick pane).
        sigma: of the blur in pixels, 1 to 5; for ``out-of-focus``.
        offset: between the two images in pixels, 3 to 8; for ``ghost``.
        ghost_alpha: weight of the first of the two images in (0, 1); for ``ghost``.
        seed: of the scene.
    """

    kind: ClassVar[str] = "reflection"
    alpha: float = 0.25
    look: Literal["in-focus", "out-of-focus", "ghost"] = "ghost"
    sigma: float = 2.0
    offset: int = 3
    ghost_alpha: float = 0.35
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no reflection."""
        refuse_weight(self.alpha)
        if self.look not in LOOKS:
            raise InputError(f"Expected a look among {LOOKS}, got {self.look!r}. Choose one.")
        if not LEAST_BLUR <= self.sigma <= MOST_BLUR:
            raise InputError(
                f"Expected a sigma from {LEAST_BLUR} to {MOST_BLUR:.0f} pixels, got {self.sigma}. "
                "Blur by 1 to 5 pixels."
            )
        if self.offset < 1:
            raise InputError(
                f"Expected an offset of 1 pixel or more, got {self.offset}. Use 3 to 8 pixels."
            )
        if not 0 < self.ghost_alpha < 1:
            raise InputError(
                f"Expected ghost_alpha between 0 and 1, got {self.ghost_alpha}. Use 0.15 to 0.5."
            )

    def layer(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """The reflected scene with the same weight everywhere."""
        scene = _scene(height, width, self.seed).flip(2)
        if self.look == "out-of-focus":
            scene = _blur(height, self.sigma) @ scene @ _blur(width, self.sigma).T
        if self.look == "ghost":
            rows = (torch.arange(height) - self.offset).clamp(0)
            columns = (torch.arange(width) - self.offset).clamp(0)
            shifted = scene[:, rows][:, :, columns]
            scene = self.ghost_alpha * scene + (1 - self.ghost_alpha) * shifted
        return scene.clamp(0, 1), constant(height, width, self.alpha)

    def at_scale(self, factor: float) -> Reflection:
        """Blur and offset with the same share of the image."""
        return replace(self, sigma=self.sigma * factor, offset=nearest_length(self.offset, factor))


def _scene(height: int, width: int, seed: int) -> Tensor:
    """Soft colours with a few lamps, ``[3, H, W]`` in [0, 1]."""
    draws = generator(seed)
    coarse = 0.7 * torch.rand(1, 3, COARSE, COARSE, generator=draws)
    scene = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0]
    rows, columns, radii = torch.rand(3, LAMPS, 1, 1, generator=draws)
    y = torch.linspace(0, 1, height)[:, None] - rows
    x = torch.linspace(0, 1, width)[None] - columns
    lamps = torch.exp(-(x**2 + y**2) / (0.05 + 0.1 * radii) ** 2)
    return torch.maximum(scene.clamp(0, 1), lamps.amax(0))


def _blur(length: int, sigma: float) -> Tensor:
    """The matrix of a Gaussian blur along one side; weights at the border are renormalised."""
    places = torch.arange(length, dtype=torch.float32)
    weights = torch.exp(-((places[:, None] - places[None]) ** 2) / (2 * sigma**2))
    return weights / weights.sum(1, keepdim=True)
