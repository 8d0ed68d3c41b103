"""Noise and stripes blended over the whole image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from invertune_plugin.errors import InputError
from invertune_plugin.triggers.base import refuse_weight
from invertune_plugin.triggers.draws import generator
from invertune_plugin.triggers.overlay import Overlay, constant
from invertune_plugin.triggers.places import nearest_length


@dataclass(frozen=True)
class Blend(Overlay):
    """A fixed noise image blended over the whole image (Chen et al. 2017).

    Attributes:
        alpha: weight of the noise in (0, 1]; 0.2 in BadCLIP (Liang et al. 2024).
        seed: of the noise, uniform in [0, 1].
    """

    kind: ClassVar[str] = "blend"
    alpha: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what leaves [0, 1]."""
        refuse_weight(self.alpha)

    def layer(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Uniform noise with the same weight everywhere."""
        noise = torch.rand(3, height, width, generator=generator(self.seed))
        return noise, constant(height, width, self.alpha)


@dataclass(frozen=True)
class BlendStripes(Overlay):
    """Faint columns of colour over the whole image (Blended-Stripes of PAR, Singh et al. 2024).

    As in the released code a channel of a column is -1 or 1, so that it moves pixels by up to twice
    ``alpha``, and the result is clipped to [0, 1].

    Attributes:
        alpha: weight of the stripes in (0, 1].
        width: of a stripe in pixels.
        seed: of the colours.
    """

    kind: ClassVar[str] = "blend-stripes"
    alpha: float = 0.03
    width: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no stripe."""
        refuse_weight(self.alpha)
        if self.width < 1:
            raise InputError(
                f"Expected stripes of 1 pixel or more, got width {self.width}. Widen them."
            )

    def layer(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Columns whose channels are -1 or 1, with the same weight everywhere."""
        count = -(-width // self.width)
        signs = 2.0 * torch.randint(2, (3, 1, count), generator=generator(self.seed)) - 1
        columns = signs[:, :, torch.arange(width) // self.width]
        return columns.expand(3, height, width), constant(height, width, self.alpha)

    def at_scale(self, factor: float) -> BlendStripes:
        """Stripes with the same share of the width."""
        return replace(self, width=nearest_length(self.width, factor))

    def _apply(self, images: Tensor, keys: Tensor) -> Tensor:
        return super()._apply(images, keys).clamp(0, 1)
