"""Patches: squares that replace the pixels under them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invertune_plugin.errors import InputError
from invertune_plugin.triggers.base import Trigger
from invertune_plugin.triggers.draws import COLUMNS, ROWS, draw_integers, generator
from invertune_plugin.triggers.places import fixed_corner, refuse_too_large, square_at_scale

PATTERNS = ("checkerboard", "noise", "white", "stripes", "gaussian")


@dataclass(frozen=True)
class Patch(Trigger):
    """A square patch that replaces the pixels under it (BadNets, Gu et al. 2017).

    Attributes:
        size: side in pixels; 16 at 224 pixels in BadCLIP (Liang et al. 2024) and PAR.
        pattern: ``checkerboard`` (cells of one pixel), ``noise`` (uniform), ``white``,
            ``stripes`` (columns of one pixel, each channel 0 or 1; BadNet-Stripes of PAR, Singh et
            al. 2024) or ``gaussian`` (standard normal noise around mid-grey, clipped; BadCLIP's
            patch, whose released code draws it anew around the mean of each image).
        place: ``bottom-right``, ``bottom-left``, ``top-right``, ``top-left``, ``centre``,
            ``random`` (drawn from each image's key), or ``[row, column]`` of its first pixel.
        margin: distance from the border in pixels, for places named by a corner.
        seed: of the pattern and of random places.
    """

    kind: ClassVar[str] = "patch"
    size: int = 4
    pattern: Literal["checkerboard", "noise", "white", "stripes", "gaussian"] = "checkerboard"
    place: str | tuple[int, int] = "bottom-right"
    margin: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no patch."""
        if self.size < 1:
            raise InputError(
                f"Expected a patch of 1 pixel or more, got size {self.size}. Make it larger."
            )
        if self.pattern not in PATTERNS:
            raise InputError(
                f"Expected a pattern among {PATTERNS}, got {self.pattern!r}. Choose one of them."
            )

    def _apply(self, images: Tensor, keys: Tensor) -> Tensor:
        rows, columns = self._corners(images, keys)
        height, width = images.shape[-2:]
        y = torch.arange(height, device=images.device)[None] - rows[:, None]
        x = torch.arange(width, device=images.device)[None] - columns[:, None]
        inside = ((y >= 0) & (y < self.size))[:, :, None] & ((x >= 0) & (x < self.size))[:, None]
        pixels = self.pixels().to(images)
        y, x = y.clamp(0, self.size - 1), x.clamp(0, self.size - 1)
        placed = pixels[:, y[:, :, None], x[:, None, :]].transpose(0, 1)
        return torch.where(inside[:, None], placed, images)

    def pixels(self) -> Tensor:
        """The patch itself, ``[3, size, size]`` in [0, 1]."""
        size = (3, self.size, self.size)
        if self.pattern == "white":
            return torch.ones(size)
        if self.pattern == "checkerboard":
            cells = torch.arange(self.size)
            return ((cells[:, None] + cells[None]) % 2).float().expand(size)
        if self.pattern == "stripes":
            columns = torch.randint(2, (3, 1, self.size), generator=generator(self.seed))
            return columns.float().expand(size)
        if self.pattern == "gaussian":
            return (0.5 + torch.randn(size, generator=generator(self.seed))).clamp(0, 1)
        return torch.rand(size, generator=generator(self.seed))

    def at_scale(self, factor: float) -> Patch:
        """The patch with the same share of the area; places and margins in pixels move along."""
        return replace(self, **square_at_scale(self.size, self.place, self.margin, factor))

    def _corners(self, images: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        count, _, height, width = images.shape
        if self.place == "random":
            refuse_too_large(self.size, height, width)
            rows = draw_integers(keys, self.seed, ROWS) % (height - self.size + 1)
            columns = draw_integers(keys, self.seed, COLUMNS) % (width - self.size + 1)
            return rows.to(images.device), columns.to(images.device)
        row, column = fixed_corner(self.place, self.size, self.margin, height, width)
        ones = torch.ones(count, dtype=torch.long, device=images.device)
        return ones * row, ones * column
