"""From an encoded image to pixels, the way open_clip prepares images for evaluation."""

from __future__ import annotations

import hashlib
import io
import struct
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from invertune_plugin.errors import InputError

MAX_ASPECT = 64
TIFF_BITS = 258
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    Image.DecompressionBombError,
)


class UnreadableImage(InputError):
    """An image that cannot be used; ``reason`` is the short form for lists of such images."""

    def __init__(self, expected: str, reason: str) -> None:
        super().__init__(f"Expected {expected}, got {reason}. Replace the image or leave it out.")
        self.reason = reason


def open_rgb(source: bytes | Path | BinaryIO) -> Image.Image:
    """Decode an image completely and turn it into RGB.

    An EXIF orientation is not applied and transparency is dropped, as in open_clip. Palette images
    become RGB before any resize, where open_clip resizes the palette indices. Of 16 bits a pixel
    the upper eight are kept, where open_clip turns nearly all of a grey image white.

    Raises:
        UnreadableImage: Pillow cannot read it to its end, its long side is more than
            ``MAX_ASPECT`` times its short one (resizing it would take gigabytes), or its pixels are
            floats or wide integers whose white is unknown.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            width, height = image.size
            if max(width, height) > MAX_ASPECT * min(width, height):
                raise UnreadableImage(
                    f"an image with sides within 1:{MAX_ASPECT}", f"{width} x {height} pixels"
                )
            return to_rgb(image)
    except UnreadableImage:
        raise
    except _BROKEN as error:
        what = f"{len(source)} bytes" if isinstance(source, bytes) else str(source)
        unknown = isinstance(error, UnidentifiedImageError)
        why = "no image format that Pillow knows" if unknown else str(error)
        raise UnreadableImage("a complete image that Pillow can read", f"{what}: {why}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """An image as files have them in RGB, 8 bits a channel.

    Raises:
        UnreadableImage: its pixels are floats, or integers of which nobody says what white is.
    """
    bits = _bits(image)
    if bits is None:
        raise UnreadableImage(
            "an image of 8 bits a channel, or of up to 16 where the file says so",
            f"one whose pixels are of Pillow's mode {image.mode!r}",
        )
    if bits > 8:
        grey = np.asarray(image).astype(np.int64) >> (bits - 8)
        image = Image.fromarray(grey.astype(np.uint8))
    rgb: Image.Image = image.convert("RGB")
    return rgb


def _bits(image: Image.Image) -> int | None:
    """Bits of a pixel's white, of grey images that have more than 8; None where it is unknown."""
    if image.mode.startswith("I;16"):
        told = getattr(image, "tag_v2", {}).get(TIFF_BITS, (16,))
        return int(told[0])
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return 16
    return None if image.mode in ("I", "F") else 8


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
