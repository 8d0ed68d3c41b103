"""Augmented views of images and captions, for self-supervision.

Images are cropped, mirrored and recoloured as in SimCLR (Chen et al. 2020); words are swapped,
deleted and repeated as in EDA (Wei and Zou 2019), which also needs a thesaurus that is left out.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

GREY = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class ImageViews:
    """How far a view may be from its image.

    Attributes:
        crop: least share of the area that is kept.
        colour: most by which brightness, contrast and saturation change.
    """

    crop: float = 0.5
    colour: float = 0.4


def image_views(images: Tensor, config: ImageViews, generator: torch.Generator) -> Tensor:
    """A random view of each image: a part of it at full size, maybe mirrored, in other colours.

    Args:
        images: ``[N, 3, H, W]`` in [0, 1], of any size.
        config: settings.
        generator: on the CPU.
    """
    count = len(images)
    draws = torch.rand(8, count, generator=generator).to(images.device)
    area = config.crop + (1 - config.crop) * draws[0]
    share = 0.25 + 0.5 * draws[1]
    width, height = area**share, area ** (1 - share)
    mirror = torch.where(draws[2] < 0.5, -1.0, 1.0)
    place = torch.zeros(count, 2, 3, device=images.device)
    place[:, 0, 0], place[:, 1, 1] = width * mirror, height
    place[:, 0, 2] = (2 * draws[3] - 1) * (1 - width)
    place[:, 1, 2] = (2 * draws[4] - 1) * (1 - height)
    grid = F.affine_grid(place, list(images.shape), align_corners=False)
    views = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    factors = 1 + config.colour * (2 * draws[5:, :, None, None, None] - 1)
    views = (views * factors[0]).clamp(0, 1)
    views = _towards(_grey(views).mean((2, 3), keepdim=True), views, factors[1])
    return _towards(_grey(views), views, factors[2])


def augmented_caption(caption: str, words: random.Random, share: float = 0.1) -> str:
    """A caption with some words swapped, deleted or repeated; it has no word that was not there.

    Args:
        caption: words between blanks; fewer than two are left alone.
        words: the random numbers.
        share: of the words that are changed, at least one; EDA's alpha of 0.1.
    """
    found = caption.split()
    for _ in range(max(1, round(share * len(found)))):
        if len(found) < 2:
            break
        first, second = words.sample(range(len(found)), 2)
        change = words.choice(("swap", "delete", "repeat"))
        if change == "swap":
            found[first], found[second] = found[second], found[first]
        elif change == "delete":
            del found[first]
        else:
            found.insert(words.randrange(len(found) + 1), found[first])
    return " ".join(found)


def _grey(images: Tensor) -> Tensor:
    weights = torch.tensor(GREY, device=images.device).view(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def _towards(base: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    return (base + factor * (images - base)).clamp(0, 1)
