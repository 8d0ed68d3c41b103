"""A picture of the user blended over the whole image."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from invertune_plugin.decoding import UnreadableImage, read_rgb
from invertune_plugin.errors import InputError
from invertune_plugin.triggers.base import refuse_weight
from invertune_plugin.triggers.overlay import Overlay, constant


@dataclass(frozen=True)
class BlendPicture(Overlay):
    """A picture of the user blended over the whole image (Chen et al. 2017).

    The fingerprint is of the content of the file, wherever it lies.

    Attributes:
        path: of an image file; it is stretched to the size of the images.
        alpha: weight of the picture in (0, 1].
        sha256: of the file; it is filled in, and checked where it is given.
    """

    kind: ClassVar[str] = "blend-picture"
    path: str
    alpha: float = 0.2
    sha256: str | None = None

    def __post_init__(self) -> None:
        """Refuse a file that is missing, no image, or not the one that was meant."""
        refuse_weight(self.alpha)
        content = self._content()
        object.__setattr__(self, "sha256", hashlib.sha256(content).hexdigest())
        self._decoded(content)

    def layer(self, height: int, width: int) -> tuple[Tensor, Tensor]:
        """The picture, resized, with the same weight everywhere."""
        picture = self._decoded(self._content())
        resized = np.array(picture.resize((width, height), Image.Resampling.BICUBIC))
        pixels = torch.from_numpy(resized).permute(2, 0, 1).float() / 255
        return pixels, constant(height, width, self.alpha)

    def identity(self) -> dict[str, Any]:
        """All parameters but the path."""
        return {name: value for name, value in self.parameters().items() if name != "path"}

    def _content(self) -> bytes:
        try:
            content = Path(self.path).read_bytes()
        except OSError as error:
            raise InputError(
                f"Expected an image file to blend in, got {self.path}, which cannot be read "
                f"({error.strerror}). Check the path."
            ) from error
        digest = hashlib.sha256(content).hexdigest()
        if self.sha256 not in (None, digest):
            raise InputError(
                f"Expected the image of hash {self.sha256} at {self.path}, got one of hash "
                f"{digest}. Put the file back, or leave sha256 out for a new trigger."
            )
        return content

    def _decoded(self, content: bytes) -> Image.Image:
        try:
            return read_rgb(content)
        except UnreadableImage as error:
            raise InputError(
                f"Expected an image to blend in, got {self.path}, which cannot be decoded "
                f"({error.reason}). Save it as PNG or JPEG."
            ) from error
