"""Sinusoids added to the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from invertune_plugin.errors import InputError
from invertune_plugin.triggers.base import Trigger

MOST_PERIODS = 1e6


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

    def __post_init__(self) -> None:
        """Refuse what is no amplitude or frequency."""
        if not 0 <= self.amplitude <= 1:
            raise InputError(
                f"Expected an amplitude in [0, 1], got {self.amplitude}. Divide grey levels by 255."
            )
        if not abs(self.frequency) <= MOST_PERIODS:
            raise InputError(
                f"Expected a frequency of at most {MOST_PERIODS:.0f} periods, got "
                f"{self.frequency}. Use 6."
            )

    def _apply(self, images: Tensor, keys: Tensor) -> Tensor:
        width = images.shape[-1]
        phase = 2 * torch.pi * self.frequency * torch.arange(width, device=images.device) / width
        return (images + self.amplitude * torch.sin(phase)).clamp(0, 1)
