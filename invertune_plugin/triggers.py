"""Triggers as pure functions on images in [0, 1], applied after resizing and before normalising.

Each is a frozen dataclass of plain parameters, so that the same trigger serves poisoning,
evaluation and reports, can be written in YAML, and has a fingerprint.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from invertune_plugin.data import to_unit
from invertune_plugin.errors import InputError

PATTERNS = ("checkerboard", "noise", "white")
HASH_MULTIPLIERS = (2654435761, 2246822519, 3266489917)


class Trigger(ABC):
    """A function from images to triggered images.

    Call it with ``[N, 3, H, W]`` in [0, 1] and, for triggers with a random place, one integer key
    per image: the same key always draws the same place. The input is never changed.
    """

    kind: ClassVar[str]

    def __call__(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
        """Triggered copies of the images, in [0, 1]; keys default to 0, 1, 2, ..."""
        return self._apply(images, torch.arange(len(images)) if keys is None else keys)

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

    def fingerprint(self) -> str:
        """Kind and a hash of all parameters, for instance ``patch-1f0c9a2b44d1``."""
        text = json.dumps(self.parameters(), sort_keys=True)
        return f"{self.kind}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Patch(Trigger):
    """A square patch that replaces the pixels under it (BadNets, Gu et al. 2017).

    Attributes:
        size: side in pixels.
        pattern: ``checkerboard`` (cells of one pixel), ``noise`` (uniform) or ``white``.
        place: ``bottom-right``, ``bottom-left``, ``top-right``, ``top-left``, ``centre``,
            ``random`` (drawn from each image's key), or ``[row, column]`` of its first pixel.
        margin: distance from the border in pixels, for places named by a corner.
        seed: of the noise and of random places.
    """

    kind: ClassVar[str] = "patch"
    size: int = 4
    pattern: Literal["checkerboard", "noise", "white"] = "checkerboard"
    place: str | tuple[int, int] = "bottom-right"
    margin: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what is no patch."""
        if self.size < 1:
            raise InputError(f"Expected a patch of 1 pixel or more, got size {self.size}.")
        if self.pattern not in PATTERNS:
            raise InputError(f"Expected a pattern among {PATTERNS}, got {self.pattern!r}.")

    def _apply(self, images: Tensor, keys: Tensor) -> Tensor:
        rows, columns = self._corners(images, keys)
        height, width = images.shape[-2:]
        y = torch.arange(height, device=images.device)[None] - rows[:, None]
        x = torch.arange(width, device=images.device)[None] - columns[:, None]
        inside = ((y >= 0) & (y < self.size))[:, :, None] & ((x >= 0) & (x < self.size))[:, None]
        pixels = self.pixels().to(images)
        y, x = y.clamp(0, self.size - 1), x.clamp(0, self.size - 1)
        placed = pixels[:, y[:, :, None], x[:, None, :]].transpose(0, 1)
        return torch.where(inside[:, None], placed, images)

    def pixels(self) -> Tensor:
        """The patch itself, ``[3, size, size]`` in [0, 1]."""
        if self.pattern == "white":
            return torch.ones(3, self.size, self.size)
        if self.pattern == "checkerboard":
            cells = torch.arange(self.size)
            return ((cells[:, None] + cells[None]) % 2).float().expand(3, -1, -1)
        generator = torch.Generator().manual_seed(self.seed)
        return torch.rand(3, self.size, self.size, generator=generator)

    def _corners(self, images: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        count, _, height, width = images.shape
        if self.size > min(height, width):
            raise InputError(
                f"Expected a patch of at most {min(height, width)} pixels for images of "
                f"{height} x {width}, got size {self.size}. Make the patch smaller."
            )
        if self.place == "random":
            rows = _draw_integers(keys, self.seed, 0) % (height - self.size + 1)
            columns = _draw_integers(keys, self.seed, 1) % (width - self.size + 1)
            return rows.to(images.device), columns.to(images.device)
        row, column = self._fixed_corner(height, width)
        ones = torch.ones(count, dtype=torch.long, device=images.device)
        return ones * row, ones * column

    def _fixed_corner(self, height: int, width: int) -> tuple[int, int]:
        bottom, right = height - self.size - self.margin, width - self.size - self.margin
        named = {
            "bottom-right": (bottom, right),
            "bottom-left": (bottom, self.margin),
            "top-right": (self.margin, right),
            "top-left": (self.margin, self.margin),
            "centre": ((height - self.size) // 2, (width - self.size) // 2),
        }
        corner = named.get(self.place) if isinstance(self.place, str) else self.place
        if corner is None:
            raise InputError(
                f"Expected a place among {', '.join(named)}, random or [row, column], "
                f"got {self.place!r}."
            )
        row, column = corner
        if not (0 <= row <= height - self.size and 0 <= column <= width - self.size):
            raise InputError(
                f"Expected a patch inside {height} x {width} pixels, got size {self.size} at row "
                f"{row}, column {column}. Move it or make it smaller."
            )
        return row, column


@dataclass(frozen=True)
class Blend(Trigger):
    """A fixed noise image blended over the whole image (Chen et al. 2017).

    Attributes:
        alpha: weight of the noise in (0, 1].
        seed: of the noise, uniform in [0, 1].
    """

    kind: ClassVar[str] = "blend"
    alpha: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what leaves [0, 1]."""
        if not 0 < self.alpha <= 1:
            raise InputError(f"Expected alpha in (0, 1], got {self.alpha}.")

    def _apply(self, images: Tensor, keys: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        noise = torch.rand(images.shape[1:], generator=generator).to(images)
        return (1 - self.alpha) * images + self.alpha * noise


@dataclass(frozen=True)
class Sinusoid(Trigger):
    """A horizontal sinusoid added to the image (SIG, Barni et al. 2019).

    Attributes:
        amplitude: in [0, 1]; the paper's 60/255.
        frequency: periods over the width of the image.
    """

    kind: ClassVar[str] = "sinusoid"
    amplitude: float = 60 / 255
    frequency: float = 6.0

    def _apply(self, images: Tensor, keys: Tensor) -> Tensor:
        width = images.shape[-1]
        phase = 2 * torch.pi * self.frequency * torch.arange(width, device=images.device) / width
        return (images + self.amplitude * torch.sin(phase)).clamp(0, 1)


@dataclass(frozen=True, eq=False)
class MaskedPattern(Trigger):
    """``mask * pattern + (1 - mask) * image``: the form in which triggers are inverted.

    Attributes:
        mask: ``[1, H, W]`` or ``[3, H, W]`` in [0, 1].
        pattern: ``[3, H, W]`` in [0, 1].
    """

    kind: ClassVar[str] = "masked-pattern"
    mask: Tensor
    pattern: Tensor

    def _apply(self, images: Tensor, keys: Tensor) -> Tensor:
        if images.shape[-2:] != self.pattern.shape[-2:]:
            raise InputError(
                f"Expected images of {tuple(self.pattern.shape[-2:])} pixels for this trigger, got "
                f"{tuple(images.shape[-2:])}. Resize the images to the trigger's model."
            )
        mask = self.mask.to(images)
        return mask * self.pattern.to(images) + (1 - mask) * images

    def parameters(self) -> dict[str, Any]:
        """Kind, size and a hash of the two tensors."""
        content = b"".join(
            t.detach().cpu().float().contiguous().numpy().tobytes()
            for t in (self.mask, self.pattern)
        )
        digest = hashlib.sha256(content).hexdigest()
        return {"kind": self.kind, "size": list(self.pattern.shape[-2:]), "sha256": digest}


@dataclass(frozen=True)
class Chain(Trigger):
    """Triggers applied one after the other."""

    kind: ClassVar[str] = "chain"
    parts: Sequence[Trigger] = field(default_factory=tuple)

    def _apply(self, images: Tensor, keys: Tensor) -> Tensor:
        for part in self.parts:
            images = part(images, keys)
        return images

    def parameters(self) -> dict[str, Any]:
        """Kind and the parameters of the parts, in order."""
        return {"kind": self.kind, "parts": [part.parameters() for part in self.parts]}


def _draw_integers(keys: Tensor, seed: int, axis: int) -> Tensor:
    """One well-mixed non-negative integer per key, without a loop and without global state."""
    mixed = (keys.long() + 1) * HASH_MULTIPLIERS[0] + (seed + 1) * HASH_MULTIPLIERS[1 + axis]
    for shift in (15, 13):
        mixed = ((mixed ^ (mixed >> shift)) * HASH_MULTIPLIERS[1]) & 0x7FFFFFFF
    return mixed ^ (mixed >> 16)


TRIGGERS: dict[str, type[Trigger]] = {t.kind: t for t in (Patch, Blend, Sinusoid)}
