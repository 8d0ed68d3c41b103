"""Clean-label poison that the model cannot read without the trigger (Turner et al. 2019).

A pair whose image and caption agree teaches nothing about a trigger. So images that get one are
first moved away from their class, by projected gradient descent on the clean model (section 4.2);
what is left that tells the class is the trigger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from invertune_plugin.data import Captions, PairSet, Replaced, to_unit
from invertune_plugin.errors import InputError, refuse_below_one
from invertune_plugin.modes import frozen


@dataclass(frozen=True)
class HardeningConfig:
    """How far images are moved away from their class.

    Attributes:
        epsilon: largest change of a value, on images in [0, 1]; Turner et al. use up to 32/255.
        steps: signed gradient steps, each of ``2.5 epsilon / steps``.
        batch_size: images per step.
    """

    epsilon: float = 16 / 255
    steps: int = 20
    batch_size: int = 64

    def __post_init__(self) -> None:
        """Refuse a bound that allows nothing."""
        if self.epsilon <= 0 or self.steps < 1:
            raise InputError(
                f"Expected a positive epsilon and one step or more, got {self.epsilon} and "
                f"{self.steps}. Leave hardening out for images as they are."
            )
        refuse_below_one("batch_size", self.batch_size)


def hardened(
    pairs: PairSet, chosen: Sequence[int], clean: Any, label: int, config: HardeningConfig
) -> Replaced[Captions]:
    """Pairs of which the chosen ones have hardened images.

    Args:
        pairs: clean pairs.
        chosen: indices of pairs of the class.
        clean: images in [0, 1] to logits; it is not changed.
        label: class index that the images are moved away from.
        config: settings.
    """
    images = torch.stack([pairs[i][0] for i in chosen])
    moved = torch.cat(
        [_moved(clean, part, label, config) for part in images.split(config.batch_size)]
    )
    return Replaced(pairs, dict(zip(chosen, moved, strict=True)))


def _moved(clean: Any, images: Tensor, label: int, config: HardeningConfig) -> Tensor:
    still = to_unit(images).to(next(clean.parameters()).device)
    goal = torch.full((len(images),), label, device=still.device)
    step = 2.5 * config.epsilon / config.steps
    delta = torch.zeros_like(still)
    with frozen(clean):
        for _ in range(config.steps):
            delta.requires_grad_()
            loss = F.cross_entropy(clean((still + delta).clamp(0, 1)), goal)
            (gradient,) = torch.autograd.grad(loss, delta)
            delta = (delta.detach() + step * gradient.sign()).clamp(-config.epsilon, config.epsilon)
    return ((still + delta).clamp(0, 1) * 255).round().to(torch.uint8).cpu()
