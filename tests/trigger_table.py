"""One of every kind of trigger, and images to put it on."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from invertune_plugin.triggers import (
    Blend,
    BlendPicture,
    BlendStripes,
    Chain,
    ColourFilter,
    Jpeg,
    MaskedPattern,
    Patch,
    Pick,
    Reflection,
    Resize,
    Sinusoid,
    Square,
    Text,
    Triangles,
    Trigger,
    Universal,
    Warp,
    Watermark,
)

HEIGHT, WIDTH = 8, 10
_FOLDER = tempfile.TemporaryDirectory()


def unit_images(count: int, seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, height, width, generator=generator)


def byte_images(count: int, seed: int = 0, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = (count, 3, height, width)
    return torch.randint(256, size, generator=generator, dtype=torch.uint8)


def picture_file(name: str, seed: int) -> str:
    """A small PNG of random pixels."""
    path = Path(_FOLDER.name) / name
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return str(path)


PICTURE, OTHER_PICTURE = picture_file("a.png", 0), picture_file("b.png", 1)
MASK, PATTERN = unit_images(1, seed=1)[0, :1], unit_images(1, seed=2)[0]
DELTA = (unit_images(1, seed=3)[0] - 0.5) / 16
PLAIN: dict[str, Trigger] = {
    "checkerboard": Patch(),
    "noise": Patch(size=3, pattern="noise", place="centre", seed=4),
    "stripes": Patch(size=3, pattern="stripes", place="top-left", seed=4),
    "gaussian-random": Patch(size=3, pattern="gaussian", place="random", seed=4),
    "white-random": Patch(size=2, pattern="white", place="random"),
    "placed": Patch(size=2, place=(0, 7)),
    "blend": Blend(alpha=0.3, seed=5),
    "blend-stripes": BlendStripes(alpha=0.1, width=3),
    "blend-picture": BlendPicture(PICTURE),
    "triangles": Triangles(tile=5),
    "text": Text("PAR"),
    "watermark": Watermark(),
    "square": Square(size=3, alpha=0.9, place="centre"),
    "in-focus": Reflection(look="in-focus"),
    "out-of-focus": Reflection(look="out-of-focus", sigma=1.5),
    "ghost": Reflection(look="ghost", offset=2),
    "sinusoid": Sinusoid(),
    "warp": Warp(strength=2.0),
    "warp-rescaled": Warp(k=3, rescale=0.9, seed=1),
    "nashville": ColourFilter(),
    "kelvin": ColourFilter("kelvin", strength=0.5),
    "gotham": ColourFilter("gotham"),
    "jpeg": Jpeg(40),
    "resize": Resize(5),
    "resize-up": Resize(20),
    "chain": Chain((Patch(size=2, place="random"), Blend(), Sinusoid(frequency=1.5))),
    "chain-jpeg": Chain((Watermark(), Resize(6), Jpeg(70))),
    "pick": Pick((Patch(size=2, place="random"), Warp(strength=2.0), Jpeg(30)), (1, 2, 3), seed=1),
    "pick-chain": Pick((Chain((Blend(), Text("a"))), Square(size=2))),
    "nothing": Chain(),
}
STORED: dict[str, Trigger] = {
    "masked": MaskedPattern(MASK, PATTERN),
    "masked-colours": MaskedPattern(PATTERN, PATTERN.flip(0)),
    "universal": Universal(DELTA),
    "universal-l2": Universal(DELTA, "l2", 0.5),
    "chain-stored": Chain((Patch(), Chain((MaskedPattern(MASK, PATTERN), Universal(DELTA))))),
    "pick-stored": Pick((MaskedPattern(MASK, PATTERN), MaskedPattern(MASK, PATTERN.flip(1)))),
}
ALL = PLAIN | STORED
every = pytest.mark.parametrize("trigger", ALL.values(), ids=ALL.keys())
every_plain = pytest.mark.parametrize("trigger", PLAIN.values(), ids=PLAIN.keys())
CHANGES: dict[str, dict[str, Any]] = {
    "checkerboard": {"size": 5, "pattern": "noise", "place": "random", "margin": 2, "seed": 1},
    "blend": {"alpha": 0.25, "seed": 1},
    "blend-stripes": {"alpha": 0.2, "width": 2, "seed": 1},
    "blend-picture": {"alpha": 0.3},
    "triangles": {"alpha": 0.2, "tile": 4},
    "text": {"word": "b", "alpha": 0.4, "share": 0.5, "colour": (0.0, 0.0, 1.0)},
    "watermark": {"alpha": 0.4, "share": 0.5, "colour": (0.0, 0.0, 1.0)},
    "square": {"size": 4, "alpha": 0.5, "place": "bottom-right", "margin": 1, "seed": 1},
    "ghost": {
        "alpha": 0.5,
        "look": "out-of-focus",
        "sigma": 1.0,
        "offset": 1,
        "ghost_alpha": 0.5,
        "seed": 1,
    },
    "sinusoid": {"amplitude": 0.1, "frequency": 5.0},
    "warp": {"k": 3, "strength": 1.0, "rescale": 0.9, "seed": 1},
    "kelvin": {"name": "nashville", "strength": 0.4},
    "jpeg": {"quality": 90},
    "resize": {"size": 4},
    "chain": {"parts": (Blend(), Patch())},
    "pick": {"parts": (Blend(), Patch(), Warp()), "weights": (3, 2, 1), "seed": 2},
    "masked": {"mask": MASK * 0.5, "pattern": 1 - PATTERN},
    "universal": {"delta": -DELTA, "norm": "l2", "epsilon": 0.5},
}
"""For one trigger of each kind another value of every parameter."""
