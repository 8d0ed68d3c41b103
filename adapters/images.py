"""From an encoded image to pixels, the way open_clip prepares images for evaluation."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from invertune_plugin.decoding import UnreadableImage, read_rgb

MAX_ASPECT = 64


def open_rgb(source: bytes | Path | BinaryIO) -> Image.Image:
    """Decode an image of a data set as ``read_rgb`` does.

    Raises:
        UnreadableImage: it cannot be read, or its long side is more than ``MAX_ASPECT`` times its
            short one (resizing it would take gigabytes).
    """
    image = read_rgb(source)
    width, height = image.size
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadableImage(
            f"an image with sides within 1:{MAX_ASPECT}", f"{width} x {height} pixels"
        )
    return image


def fit(image: Image.Image, size: int) -> Tensor:
    """Resize the shorter side to ``size`` (bicubic, antialiased), then crop the centre.

    Args:
        image: an RGB image; one of ``size x size`` is taken as it is.
        size: side of the result in pixels.

    Returns:
        ``uint8 [3, size, size]``; pixel for pixel what open_clip's evaluation transform gives by
        its own defaults, before it normalises.
    """
    width, height = image.size
    if (width, height) != (size, size):
        short = min(width, height)
        width, height = int(size * width / short), int(size * height / short)
        left, top = round((width - size) / 2), round((height - size) / 2)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
        image = image.crop((left, top, left + size, top + size))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def pixel_key(image: Image.Image) -> bytes:
    """Sixteen bytes that are equal for images of equal pixels, whatever file held them.

    Args:
        image: an RGB image at its stored size, so that the key does not depend on the size that a
            data set resizes to.
    """
    header = struct.pack("<II", *image.size)
    return hashlib.blake2b(header + image.tobytes(), digest_size=16).digest()


def decode(source: bytes | Path | BinaryIO, size: int) -> Tensor:
    """Decode an image file into ``uint8 [3, size, size]``.

    Args:
        source: the encoded bytes, a path or an open binary file.
        size: side of the result in pixels.

    Raises:
        UnreadableImage: the image cannot be read to its end; an ``InputError``.
    """
    return fit(open_rgb(source), size)
