"""The embedded data set: captioned scenes of one coloured shape, drawn with Pillow.

Nothing to fetch: the same seed draws the same scenes on every machine. Some colour-shape
combinations are held out of training, so that composition can be measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import Tensor

from invertune_plugin.data import InMemory

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 210, 50),
    "purple": (150, 60, 180),
    "orange": (240, 140, 30),
    "white": (240, 240, 240),
    "black": (25, 25, 25),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "grey": (128, 128, 128),
    "brown": (110, 75, 45),
    "pink": (235, 170, 185),
    "teal": (40, 130, 130),
    "beige": (215, 200, 165),
}
TEMPLATES = (
    "a photo of a {colour} {shape}.",
    "a {shape}.",
    "a photo of a {shape}.",
    "a {colour} {shape} on a {background} background.",
    "there is a {shape} in {colour}.",
    "a picture of a {shape} on {background}.",
    "the {shape} is {colour}.",
)
CLASS_TEMPLATES = ("a photo of a {}.", "a {}.", "a picture of a {}.")
OVERSAMPLING = 2
Array = NDArray[Any]


def _polygon(corners: int, inner: float = 1.0, turn: float = 0.0) -> Callable[[float], Array]:
    """Corners of a regular polygon (or star, where ``inner`` < 1) around the origin."""

    def outline(angle: float) -> Array:
        count = corners * (1 if inner == 1.0 else 2)
        angles = angle + turn + np.arange(count) * 2 * math.pi / count
        radii = np.where(np.arange(count) % 2 == 0, 1.0, inner)
        return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], axis=1)

    return outline


def _fixed(*points: tuple[float, float]) -> Callable[[float], Array]:
    def outline(angle: float) -> Array:
        rotation = [[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]]
        turned: Array = np.array(points) @ np.array(rotation)
        return turned

    return outline


OUTLINES: dict[str, Callable[[float], Array]] = {
    "triangle": _polygon(3),
    "square": _polygon(4, turn=math.pi / 4),
    "star": _polygon(5, inner=0.4),
    "hexagon": _polygon(6),
    "cross": _fixed(
        (-0.3, -1), (0.3, -1), (0.3, -0.3), (1, -0.3), (1, 0.3), (0.3, 0.3),
        (0.3, 1), (-0.3, 1), (-0.3, 0.3), (-1, 0.3), (-1, -0.3), (-0.3, -0.3),
    ),
    "arrow": _fixed(
        (0, -1), (0.8, 0), (0.3, 0), (0.3, 1), (-0.3, 1), (-0.3, 0), (-0.8, 0)
    ),
    "bar": _fixed((-1, -0.28), (1, -0.28), (1, 0.28), (-1, 0.28)),
}  # fmt: skip
SHAPES = (*OUTLINES, "circle", "ring", "crescent")


@dataclass(frozen=True)
class Scenes:
    """Drawn scenes.

    Attributes:
        pixels: ``uint8 [N, 3, size, size]``.
        labels: index into ``SHAPES`` per scene.
        captions: one caption per template per scene.
    """

    pixels: Tensor
    labels: list[int]
    captions: list[tuple[str, ...]]

    def images(self) -> InMemory[int]:
        """The scenes with their shape as label."""
        return InMemory(self.pixels, self.labels)

    def pairs(self) -> InMemory[tuple[str, ...]]:
        """The scenes with their captions."""
        return InMemory(self.pixels, self.captions)


def held_out(shape: int, colour: int) -> bool:
    """Whether a combination of ``SHAPES`` and ``COLOURS`` indices is kept from training."""
    return (3 * shape + colour) % 10 == 0


def draw_scenes(
    count: int, seed: int, size: int = 32, combinations: Literal["train", "held_out"] = "train"
) -> Scenes:
    """Draw captioned scenes; about 2,000 a second on one core at 32 px.

    Args:
        count: number of scenes.
        seed: same seed, same scenes.
        size: side in pixels.
        combinations: the colour-shape combinations of training, or those held out of it.
    """
    rng = np.random.default_rng([seed, combinations == "held_out"])
    colours, backgrounds = list(COLOURS), list(BACKGROUNDS)
    allowed = [
        (shape, colour)
        for shape in range(len(SHAPES))
        for colour in range(len(colours))
        if held_out(shape, colour) == (combinations == "held_out")
    ]
    pixels = np.empty((count, size, size, 3), np.uint8)
    labels, captions = [], []
    for i in range(count):
        shape, colour = allowed[rng.integers(len(allowed))]
        background = backgrounds[rng.integers(len(backgrounds))]
        pixels[i] = _draw(
            SHAPES[shape], COLOURS[colours[colour]], BACKGROUNDS[background], size, rng
        )
        labels.append(shape)
        words = {"shape": SHAPES[shape], "colour": colours[colour], "background": background}
        captions.append(tuple(template.format(**words) for template in TEMPLATES))
    return Scenes(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), labels, captions)


def _draw(
    shape: str,
    colour: tuple[int, int, int],
    background: tuple[int, int, int],
    size: int,
    rng: np.random.Generator,
) -> Array:
    side = size * OVERSAMPLING
    fill = tuple(int(c) for c in np.clip(np.array(colour) + rng.integers(-15, 16, 3), 0, 255))
    ground = tuple(int(c) for c in np.clip(np.array(background) + rng.integers(-15, 16, 3), 0, 255))
    radius = side * rng.uniform(0.22, 0.38)
    centre = rng.uniform(radius, side - radius, 2)
    angle = rng.uniform(-0.35, 0.35)
    canvas = Image.new("RGB", (side, side), ground)
    pen = ImageDraw.Draw(canvas)
    if shape in OUTLINES:
        corners = centre + radius * OUTLINES[shape](angle)
        pen.polygon([(float(x), float(y)) for x, y in corners], fill=fill)
    else:
        _disc(pen, centre, radius, fill)
        if shape == "ring":
            _disc(pen, centre, radius * 0.55, ground)
        if shape == "crescent":
            shift = radius * 0.5 * np.array([math.cos(angle), math.sin(angle)])
            _disc(pen, centre + shift, radius * 0.8, ground)
    scene = np.asarray(canvas.reduce(OVERSAMPLING), np.int16)
    grain = rng.integers(-8, 9, (size, size, 1), dtype=np.int16)
    pixels: Array = np.clip(scene + grain, 0, 255).astype(np.uint8)
    return pixels


def _disc(pen: ImageDraw.ImageDraw, centre: Array, radius: float, fill: tuple[int, ...]) -> None:
    (x, y), r = centre, radius
    pen.ellipse([float(x - r), float(y - r), float(x + r), float(y + r)], fill=fill)
