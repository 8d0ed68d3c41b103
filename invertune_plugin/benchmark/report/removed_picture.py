"""What a purifier removed, as a picture: people see a trigger before they trust a score."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from invertune_plugin.benchmark.report.pixels import as_image
from invertune_plugin.data import Items, Subset, batches, to_unit
from invertune_plugin.defenses.purifiers import Purified
from invertune_plugin.defenses.purifiers.transplants import mean_image
from invertune_plugin.files import replacing

SHOWN, SIDE, TITLE = 8, 96, 18
MOST_AVERAGED = 500
STRONGER = 4


def write_removed(path: Path, data: Items[Any], found: Purified, seed: int = 0) -> None:
    """Draw removed and kept images, the mean of either, and what the means differ in.

    Args:
        path: a PNG; it is replaced.
        data: the set that was searched, ``uint8`` images of one size.
        found: what was removed of it, one item or more, and less than all.
        seed: of the draw of the kept images, and of what means are taken of.
    """
    draw = np.random.default_rng(seed)
    suspicious = sorted(found.poisoned, key=lambda index: -found.scores[index])
    kept = draw.permutation(found.kept).tolist()
    removed = draw.permutation(found.poisoned).tolist()
    removed_mean = mean_image(Subset(data, removed[:MOST_AVERAGED]))
    kept_mean = mean_image(Subset(data, kept[:MOST_AVERAGED]))
    differ = 0.5 + STRONGER * (removed_mean - kept_mean)
    rows = {
        "Removed, the most suspicious first": _images(data, suspicious[:SHOWN]),
        "Kept, at random": _images(data, kept[:SHOWN]),
        f"Mean of removed, mean of kept, their difference x {STRONGER} around grey": torch.stack(
            [removed_mean, kept_mean, differ]
        ),
    }
    picture = Image.new("RGB", (SHOWN * SIDE, len(rows) * (SIDE + TITLE)), "white")
    pen = ImageDraw.Draw(picture)
    for row, (title, images) in enumerate(rows.items()):
        top = row * (SIDE + TITLE)
        pen.text((2, top + 3), title, fill="black")
        for column, image in enumerate(images):
            drawn = as_image(image).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            picture.paste(drawn, (column * SIDE, top + TITLE))
    with replacing(path) as partial:
        picture.save(partial, "PNG", optimize=True)


def _images(data: Items[Any], indices: Sequence[int]) -> Tensor:
    return torch.cat([to_unit(some) for some, _ in batches(Subset(data, indices), SHOWN)])
