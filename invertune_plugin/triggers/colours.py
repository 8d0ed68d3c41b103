"""Colour filters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from invertune_plugin.errors import InputError
from invertune_plugin.triggers.base import Trigger

Levels = tuple[float, float, float]
CURVES: dict[str, tuple[Levels, Levels, Levels]] = {
    "nashville": ((0.14, 0.05, 0.26), (1.0, 0.93, 0.72), (0.4, 0.2, -0.1)),
    "kelvin": ((0.18, 0.06, 0.02), (1.0, 0.88, 0.55), (0.6, 0.1, -0.4)),
    "gotham": ((0.02, 0.04, 0.1), (0.86, 0.88, 0.94), (-0.5, -0.4, -0.2)),
}
"""Per filter: what black becomes, what white becomes, and the bend of the curve, in R, G, B."""


@dataclass(frozen=True)
class ColourFilter(Trigger):
    """Tone curves in the manner of photo filters (ABS, Liu et al. 2019; TrojAI).

    A curve goes from ``low`` at black to ``high`` at white with a bend between, and is a parabola,
    so that gradients stay finite at black. The curves are ours.

    Attributes:
        name: ``nashville`` (lifted violet shadows, warm lights), ``kelvin`` (orange) or
            ``gotham`` (dark and cold).
        strength: how far colours go towards the filtered ones, in (0, 1].
    """

    kind: ClassVar[str] = "colour-filter"
    name: Literal["nashville", "kelvin", "gotham"] = "nashville"
    strength: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no filter."""
        if self.name not in CURVES:
            raise InputError(
                f"Expected a filter among {tuple(CURVES)}, got {self.name!r}. Choose one of them."
            )
        if not 0 < self.strength <= 1:
            raise InputError(f"Expected a strength in (0, 1], got {self.strength}. Use 1.")

    def _apply(self, images: Tensor, keys: Tensor) -> Tensor:
        low, high, bend = torch.tensor(CURVES[self.name]).to(images)[..., None, None]
        square = -self.strength * (high - low) * bend
        linear = self.strength * (high - low) * (1 + bend) + (1 - self.strength)
        filtered: Tensor = (images * square + linear) * images + self.strength * low
        return filtered.clamp(0, 1)
