"""Triggers whose pixels are given as tensors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from invertune_plugin.errors import InputError
from invertune_plugin.triggers.base import Trigger, refuse_other_size

NORMS = ("linf", "l2")
TOLERANCE = 1e-5
"""How far above its budget, as a share, or out of [0, 1] values may be by rounding."""


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

    def __post_init__(self) -> None:
        """Refuse tensors that do not belong together."""
        size = self.pattern.shape[-2:]
        shapes = (self.mask.shape, self.pattern.shape)
        if shapes not in [((channels, *size), (3, *size)) for channels in (1, 3)]:
            raise InputError(
                "Expected a mask [1, H, W] or [3, H, W] and a pattern [3, H, W], got "
                f"{list(self.mask.shape)} and {list(self.pattern.shape)}. Make them of one size."
            )
        for name, values in (("mask", self.mask), ("pattern", self.pattern)):
            if values.requires_grad:
                continue  # it is being fitted, and a GPU would have to be waited for
            low, high = (float(value) for value in values.detach().aminmax())
            if not (low >= -TOLERANCE and high <= 1 + TOLERANCE):
                raise InputError(
                    f"Expected a {name} in [0, 1], got values from {low:.4g} to {high:.4g}. Divide "
                    "bytes by 255, or clamp it."
                )

    def _apply(self, images: Tensor, keys: Tensor) -> Tensor:
        refuse_other_size(images, self.pattern)
        mask = self.mask.to(images)
        return mask * self.pattern.to(images) + (1 - mask) * images

    def parameters(self) -> dict[str, Any]:
        """Kind, size and a hash of the two tensors."""
        return {"kind": self.kind, **_described(self.mask, self.pattern)}

    def tensors(self) -> dict[str, Tensor]:
        """Mask and pattern."""
        return {"mask": self.mask, "pattern": self.pattern}

    def at_scale(self, factor: float) -> MaskedPattern:
        """Mask and pattern, resized."""
        return MaskedPattern(_resized(self.mask, factor), _resized(self.pattern, factor))


@dataclass(frozen=True, eq=False)
class Universal(Trigger):
    """One small perturbation added to every image (Moosavi-Dezfooli et al. 2017).

    Attributes:
        delta: ``[3, H, W]``.
        norm: that bounds it, ``linf`` (largest entry) or ``l2`` (Euclidean, of all entries).
        epsilon: its budget in that norm, for images in [0, 1].
    """

    kind: ClassVar[str] = "universal"
    delta: Tensor
    norm: Literal["linf", "l2"] = "linf"
    epsilon: float = 8 / 255

    def __post_init__(self) -> None:
        """Refuse a perturbation that is none or above its budget."""
        if self.norm not in NORMS:
            raise InputError(f"Expected a norm among {NORMS}, got {self.norm!r}. Choose one.")
        if not self.epsilon > 0:
            raise InputError(f"Expected a budget above 0, got {self.epsilon}. Use 8 / 255.")
        if self.delta.ndim != 3 or len(self.delta) != 3:
            raise InputError(
                f"Expected a perturbation [3, H, W], got {list(self.delta.shape)}. "
                "Take one image out of the batch."
            )
        found = _length(self.delta, self.norm)
        if not found <= self.epsilon * (1 + TOLERANCE):
            raise InputError(
                f"Expected a perturbation of {self.norm} norm {self.epsilon:.4g} at most, got "
                f"{found:.4g}. Project it onto its budget, or raise epsilon."
            )

    def _apply(self, images: Tensor, keys: Tensor) -> Tensor:
        refuse_other_size(images, self.delta)
        return (images + self.delta.to(images)).clamp(0, 1)

    def parameters(self) -> dict[str, Any]:
        """Kind, norm, budget, size and a hash of the perturbation."""
        budget = {"norm": self.norm, "epsilon": self.epsilon}
        return {"kind": self.kind, **budget, **_described(self.delta)}

    def tensors(self) -> dict[str, Tensor]:
        """The perturbation."""
        return {"delta": self.delta}

    def at_scale(self, factor: float) -> Universal:
        """The perturbation, resized; an l2 budget grows with the side, and is kept."""
        epsilon = self.epsilon * (factor if self.norm == "l2" else 1)
        delta = _resized(self.delta, factor)
        shrink = min(1.0, epsilon / max(_length(delta, self.norm), 1e-12))
        return replace(self, delta=delta * shrink, epsilon=epsilon)


def _length(delta: Tensor, norm: str) -> float:
    entries = delta.detach().double()
    return float(entries.abs().max() if norm == "linf" else entries.norm())


def _described(*tensors: Tensor) -> dict[str, Any]:
    """Size and content of tensors, as JSON values."""
    content = b"".join(t.detach().cpu().float().contiguous().numpy().tobytes() for t in tensors)
    size = list(tensors[-1].shape[-2:])
    return {"size": size, "sha256": hashlib.sha256(content).hexdigest()}


def _resized(pixels: Tensor, factor: float) -> Tensor:
    height, width = (max(1, round(side * factor)) for side in pixels.shape[-2:])
    with torch.no_grad():
        return F.interpolate(pixels[None], (height, width), mode="bilinear", antialias=True)[0]
