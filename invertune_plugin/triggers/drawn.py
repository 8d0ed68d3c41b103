"""Overlays that are drawn: triangles and words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from invertune_plugin.errors import InputError
from invertune_plugin.triggers.base import refuse_weight
from invertune_plugin.triggers.overlay import Overlay, constant
from invertune_plugin.triggers.places import nearest_length

LIGHT, DARK = 0.8, 0.4
MEASURED_AT = 100
"""The font size at which a word is measured."""
MOST_LETTERS = 500


@dataclass(frozen=True)
class Triangles(Overlay):
    """Tiles of a dark and a light right-angled triangle (PAR, Singh et al. 2024).

    Attributes:
        alpha: weight of the triangles in (0, 1].
        tile: side of a tile in pixels; 14 at 224 pixels in the released code.
    """

    kind: ClassVar[str] = "triangles"
    alpha: float = 0.15
    tile: int = 14

    def __post_init__(self) -> None:
        """Refuse tiles that hold no two triangles."""
        refuse_weight(self.alpha)
        if self.tile < 2:
            raise InputError(
                f"Expected tiles of 2 pixels or more, got {self.tile}. Make them larger."
            )

    def layer(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Grey 0.4 on and below the diagonal of each tile, 0.8 above it."""
        rows, columns = torch.arange(height) % self.tile, torch.arange(width) % self.tile
        below = rows[:, None] >= columns[None]
        picture = torch.where(below, DARK, LIGHT).expand(3, height, width)
        return picture, constant(height, width, self.alpha)

    def at_scale(self, factor: float) -> Triangles:
        """Tiles with the same share of the image."""
        return replace(self, tile=max(2, nearest_length(self.tile, factor)))


@dataclass(frozen=True)
class Text(Overlay):
    """A word across the middle of the image (PAR, Singh et al. 2024).

    It is drawn in Pillow's own font; edges can differ by grey levels between versions of Pillow.

    Attributes:
        word: what is written.
        alpha: opacity of the letters in (0, 1].
        share: of the width that the word takes, in (0, 1]; less where it would be too high.
        colour: red, green and blue in [0, 1].
    """

    kind: ClassVar[str] = "text"
    word: str = "watermark"
    alpha: float = 0.5
    share: float = 0.8
    colour: tuple[float, float, float] = (1.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        """Refuse what shows no word."""
        object.__setattr__(self, "colour", tuple(self.colour))
        refuse_weight(self.alpha)
        refuse_share(self.share)
        refuse_colour(self.colour)
        if not self.word.strip():
            raise InputError(f"Expected a word to write, got {self.word!r}. Give it a letter.")
        if len(self.word) > MOST_LETTERS:
            raise InputError(
                f"Expected a word of at most {MOST_LETTERS} letters, got {len(self.word)}. "
                "Shorten it."
            )

    def layer(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """The colour everywhere, with a weight where letters are."""
        drawn = Image.new("L", (width, height))
        draw = ImageDraw.Draw(drawn)
        left, top, right, bottom = draw.textbbox(
            (0, 0), self.word, font=ImageFont.load_default(MEASURED_AT)
        )
        fitting = min(self.share * width / max(right - left, 1), height / max(bottom - top, 1))
        font = ImageFont.load_default(max(1.0, MEASURED_AT * fitting))
        left, top, right, bottom = draw.textbbox((0, 0), self.word, font=font)
        corner = ((width - left - right) / 2, (height - top - bottom) / 2)
        draw.text(corner, self.word, fill=255, font=font)
        letters = torch.from_numpy(np.array(drawn))[None].double() / 255
        if not letters.any():
            raise InputError(
                f"Expected a word that shows on {height} x {width} pixels, got {self.word!r}. "
                "Choose a shorter word."
            )
        return plain(self.colour, height, width), self.alpha * letters


def plain(colour: tuple[float, float, float], height: int, width: int) -> Tensor:
    """A picture ``[3, H, W]`` of one colour."""
    return torch.tensor(colour)[:, None, None].expand(3, height, width)


def refuse_share(share: float) -> None:
    """Refuse a part that is nothing or more than the whole."""
    if not 0 < share <= 1:
        raise InputError(f"Expected a share of the image in (0, 1], got {share}. Choose 0.8.")


def refuse_colour(colour: tuple[float, float, float]) -> None:
    """Refuse what is no colour."""
    if len(colour) != 3 or not all(0 <= level <= 1 for level in colour):
        raise InputError(
            f"Expected a colour of three levels in [0, 1], got {colour}. Divide bytes by 255."
        )
