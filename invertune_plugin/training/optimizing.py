"""What is trained of a CLIP, with which weight decay and learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import nn

from invertune_plugin.training.config import TrainingConfig

Schedule = Callable[[int, int], float]


def freeze(clip: Any, tower: str) -> None:
    """Train all parameters but those of a tower: ``image``, ``text``, or ``none`` of them."""
    visual = {id(p) for p in clip.visual.parameters()}
    for parameter in clip.parameters():
        frozen = {"image": id(parameter) in visual, "text": id(parameter) not in visual}
        parameter.requires_grad_(not frozen.get(tower, False))


def parameter_groups(clip: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """Weight decay on matrices and filters only, as CLIP was trained."""
    trained = [p for p in clip.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def one_cycle(warmup: float) -> Schedule:
    """A linear rise over a share of the steps, then a cosine to zero."""

    def factor(step: int, steps: int) -> float:
        rise = max(1, round(steps * warmup))
        if step < rise:
            return (step + 1) / rise
        return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))

    return factor
