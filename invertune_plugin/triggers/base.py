"""What a trigger is."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from invertune_plugin.data import to_unit
from invertune_plugin.errors import InputError


class Trigger(ABC):
    """A function from images to triggered images.

    Call it with ``[N, 3, H, W]`` in [0, 1] and, for triggers with a random place, one integer key
    per image: the same key always draws the same place. The input is never changed.

    Attributes:
        kind: the name in YAML.
        differentiable: whether gradients flow through the trigger to the image.
    """

    kind: ClassVar[str]
    differentiable: bool = True

    def __call__(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
        """Triggered copies of the images, in [0, 1]; keys default to 0, 1, 2, ...

        Raises:
            InputError: these are no images, or there is not one key for each.
        """
        if images.ndim != 4 or not images.is_floating_point():
            raise InputError(
                f"Expected floats [N, 3, H, W] in [0, 1], got {tuple(images.shape)} of "
                f"{images.dtype}. Use on_bytes for uint8, and images[None] for a single image."
            )
        if keys is None:
            keys = torch.arange(len(images))
        if len(keys) != len(images):
            raise InputError(
                f"Expected a key for each of {len(images)} images, got {len(keys)}. Pass as many."
            )
        return self._apply(images, keys)

    @abstractmethod
    def _apply(self, images: Tensor, keys: Tensor) -> Tensor: ...

    def on_bytes(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
        """The same on ``uint8 [N, 3, H, W]``, rounded to the nearest grey level."""
        return self(to_unit(images), keys).mul(255).round().to(torch.uint8)

    def on_pil(self, image: Image.Image, key: int = 0) -> Image.Image:
        """The same on one PIL image in RGB; equal to ``on_bytes`` pixel by pixel."""
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
        triggered = self.on_bytes(pixels, torch.tensor([key]))
        return Image.fromarray(triggered[0].permute(1, 2, 0).contiguous().numpy())

    def parameters(self) -> dict[str, Any]:
        """Kind and parameters, as JSON values."""
        return {"kind": self.kind, **asdict(self)}  # type: ignore[call-overload]

    def identity(self) -> dict[str, Any]:
        """What the fingerprint is made of: all parameters that shape the pixels."""
        return self.parameters()

    def fingerprint(self) -> str:
        """Kind and a hash of all parameters, for instance ``patch-1f0c9a2b44d1``."""
        text = json.dumps(self.identity(), sort_keys=True, default=int)
        return f"{self.kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    def tensors(self) -> dict[str, Tensor]:
        """The parameters that are tensors, by name; most triggers have none."""
        return {}

    def at_scale(self, factor: float) -> Trigger:
        """The same trigger for images whose sides are ``factor`` times as long.

        Lengths in pixels change; shares, weights, frequencies and seeds stay.
        """
        return self


def refuse_weight(alpha: float) -> None:
    """Refuse a weight that leaves [0, 1] or shows nothing."""
    if not 0 < alpha <= 1:
        raise InputError(f"Expected alpha in (0, 1], got {alpha}. Choose a weight such as 0.2.")


def refuse_other_size(images: Tensor, pixels: Tensor) -> None:
    """Refuse images that a trigger of fixed size does not cover."""
    if images.shape[-2:] != pixels.shape[-2:]:
        raise InputError(
            f"Expected images of {tuple(pixels.shape[-2:])} pixels for this trigger, got "
            f"{tuple(images.shape[-2:])}. Resize the images to the trigger's model."
        )
