"""The two triggers of TrojanNN: a watermark and a square."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from invertune_plugin.errors import InputError
from invertune_plugin.triggers.base import refuse_weight
from invertune_plugin.triggers.drawn import plain, refuse_colour, refuse_share
from invertune_plugin.triggers.draws import generator
from invertune_plugin.triggers.overlay import Overlay
from invertune_plugin.triggers.places import fixed_corner, square_at_scale

RING_OUTER, RING_INNER = 0.95, 0.7
BAR_LENGTH, BAR_WIDTH = 0.5, 0.15


@dataclass(frozen=True)
class Watermark(Overlay):
    """A translucent emblem in the middle of the image (TrojanNN, Liu et al. 2018).

    The emblem is a ring around a cross, with smooth edges at every size.

    Attributes:
        alpha: opacity in (0, 1].
        share: of the shorter side that the emblem takes, in (0, 1].
        colour: red, green and blue in [0, 1].
    """

    kind: ClassVar[str] = "watermark"
    alpha: float = 0.3
    share: float = 0.8
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        """Refuse what shows nothing."""
        object.__setattr__(self, "colour", tuple(self.colour))
        refuse_weight(self.alpha)
        refuse_share(self.share)
        refuse_colour(self.colour)

    def layer(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """The colour everywhere, with a weight where the emblem is."""
        radius = self.share * min(height, width) / 2
        y = (torch.arange(height, dtype=torch.float64) + 0.5 - height / 2)[:, None]
        x = (torch.arange(width, dtype=torch.float64) + 0.5 - width / 2)[None]
        from_middle = (x**2 + y**2).sqrt()
        ring = torch.minimum(RING_OUTER * radius - from_middle, from_middle - RING_INNER * radius)
        long, wide = BAR_LENGTH * radius, BAR_WIDTH * radius
        upright = torch.minimum(wide - x.abs(), long - y.abs())
        across = torch.minimum(long - x.abs(), wide - y.abs())
        depth = torch.maximum(ring, torch.maximum(upright, across))
        covered = (depth + 0.5).clamp(0, 1)[None]
        return plain(self.colour, height, width), self.alpha * covered


@dataclass(frozen=True)
class Square(Overlay):
    """A square of coloured noise, opaque or not (TrojanNN, Liu et al. 2018).

    Attributes:
        size: side in pixels; 59 at 224 pixels is the paper's share of 7 %.
        alpha: opacity in (0, 1].
        place: a corner or ``centre`` as for ``Patch``, or ``[row, column]`` of its first pixel.
        margin: distance from the border in pixels, for places named by a corner.
        seed: of the noise, uniform in [0, 1].
    """

    kind: ClassVar[str] = "square"
    size: int = 8
    alpha: float = 1.0
    place: str | tuple[int, int] = "bottom-right"
    margin: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no square."""
        refuse_weight(self.alpha)
        if self.size < 1:
            raise InputError(
                f"Expected a square of 1 pixel or more, got size {self.size}. Make it larger."
            )
        if self.place == "random":
            raise InputError(
                "Expected a square in a fixed place, got place 'random'. Use a noise patch."
            )
        if not isinstance(self.place, str):
            object.__setattr__(self, "place", tuple(self.place))

    def layer(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Noise with a weight on the square."""
        row, column = fixed_corner(self.place, self.size, self.margin, height, width)
        inside = (slice(None), slice(row, row + self.size), slice(column, column + self.size))
        picture = torch.zeros(3, height, width)
        weight = torch.zeros(1, height, width, dtype=torch.float64)
        picture[inside] = torch.rand(3, self.size, self.size, generator=generator(self.seed))
        weight[inside] = self.alpha
        return picture, weight

    def at_scale(self, factor: float) -> Square:
        """The square with the same share of the area; places in pixels move along."""
        return replace(self, **square_at_scale(self.size, self.place, self.margin, factor))
