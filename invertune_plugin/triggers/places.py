"""Where a square goes."""

from __future__ import annotations

import math
from typing import Any

from invertune_plugin.errors import InputError

CORNERS = ("bottom-right", "bottom-left", "top-right", "top-left", "centre")


def refuse_too_large(size: int, height: int, width: int) -> None:
    """Refuse a square that the image cannot hold."""
    if size > min(height, width):
        raise InputError(
            f"Expected a patch of at most {min(height, width)} pixels for images of "
            f"{height} x {width}, got size {size}. Make the patch smaller."
        )


def fixed_corner(
    place: str | tuple[int, int], size: int, margin: int, height: int, width: int
) -> tuple[int, int]:
    """Row and column of the first pixel of a square that lies inside the image.

    Args:
        place: one of ``CORNERS``, or row and column themselves.
        size: side of the square in pixels.
        margin: distance from the border in pixels, for places named by a corner.
        height: of the image.
        width: of the image.

    Raises:
        InputError: the place is unknown, or the square does not lie inside the image.
    """
    refuse_too_large(size, height, width)
    bottom, right = height - size - margin, width - size - margin
    middle = ((height - size) // 2, (width - size) // 2)
    corners = ((bottom, right), (bottom, margin), (margin, right), (margin, margin), middle)
    named = dict(zip(CORNERS, corners, strict=True))
    corner = named.get(place) if isinstance(place, str) else place
    if corner is None:
        raise InputError(
            f"Expected a place among {', '.join(CORNERS)}, random or [row, column], got {place!r}."
        )
    row, column = corner
    if not (0 <= row <= height - size and 0 <= column <= width - size):
        raise InputError(
            f"Expected a patch inside {height} x {width} pixels, got size {size} at row "
            f"{row}, column {column}. Move it or make it smaller."
        )
    return row, column


def nearest_side(size: int, factor: float) -> int:
    """The side of the square whose share of the area is nearest to that of ``size``.

    Args:
        size: side in pixels.
        factor: how many times as long the sides of the image are now.
    """
    exact = size * factor
    sides = (math.floor(exact), math.ceil(exact))
    return max(1, min(sides, key=lambda side: abs(side**2 - exact**2)))


def square_at_scale(
    size: int, place: str | tuple[int, int], margin: int, factor: float
) -> dict[str, Any]:
    """The parameters of a square with the same share of the area; places in pixels move along.

    A square inside the image stays inside.

    Args:
        size: side in pixels.
        place: a name, or row and column of the first pixel.
        margin: distance from the border in pixels.
        factor: how many times as long the sides of the image are now.

    Returns:
        ``size``, ``place`` and ``margin``.
    """
    side, distance = nearest_side(size, factor), round(margin * factor)
    if not isinstance(place, str):
        row, column = (
            max(0, min(round(first * factor), round((first + size) * factor) - side))
            for first in place
        )
        place = (row, column)
    return {"size": side, "place": place, "margin": distance}


def nearest_length(pixels: int, factor: float) -> int:
    """A length in pixels at another image size, at least one pixel."""
    return max(1, round(pixels * factor))
