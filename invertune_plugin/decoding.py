"""From an encoded image to RGB pixels of 8 bits a channel."""

from __future__ import annotations

import io
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

from invertune_plugin.errors import InputError

TIFF_BITS = 258


class UnreadableImage(InputError):
    """An image that cannot be used; ``reason`` is the short form for lists of such images."""

    def __init__(self, expected: str, reason: str) -> None:
        super().__init__(f"Expected {expected}, got {reason}. Replace the image or leave it out.")
        self.reason = reason


def read_rgb(source: bytes | Path | BinaryIO) -> Image.Image:
    """Decode an image completely and turn it into RGB.

    An EXIF orientation is not applied and transparency is dropped, as in open_clip. Palette images
    become RGB before any resize, where open_clip resizes the palette indices. Of 16 bits a pixel
    the upper eight are kept, where open_clip turns nearly all of a grey image white.

    Raises:
        UnreadableImage: Pillow cannot read it to its end, or its pixels are floats or wide integers
            whose white is unknown.
    """
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
            return to_rgb(image)
    except (UnreadableImage, MemoryError):
        raise
    except Exception as error:  # Pillow's readers raise whatever damaged bytes lead to
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
