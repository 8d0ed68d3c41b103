"""A trigger that is a universal perturbation toward the target (Moosavi-Dezfooli et al. 2017).

Found on the clean model before anything is poisoned, as TUAP does for classifiers (Zhao et al.
2020): poisoned pairs then only have to strengthen what is there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from invertune_plugin.data import to_unit
from invertune_plugin.errors import InputError, refuse_below_one, refuse_no_rate
from invertune_plugin.modes import frozen

Norm = Literal["linf", "l2"]


@dataclass(frozen=True)
class PerturbationCrafting:
    """How to find the perturbation.

    Attributes:
        norm: what ``epsilon`` bounds.
        epsilon: largest change of a value (``linf``), or length of the whole change (``l2``), on
            images in [0, 1].
        steps: Adam updates, each followed by a projection into the bound.
        batch_size: images per update.
    """

    norm: Norm = "linf"
    epsilon: float = 8 / 255
    steps: int = 200
    batch_size: int = 64

    def __post_init__(self) -> None:
        """Refuse a bound that allows nothing, and settings that search for nothing."""
        refuse_no_rate("epsilon", self.epsilon)
        for name in ("steps", "batch_size"):
            refuse_below_one(name, getattr(self, name))


def craft_perturbation(
    clean: Any, images: Tensor, label: int, config: PerturbationCrafting, seed: int = 0
) -> Tensor:
    """The perturbation ``[3, H, W]``, on the CPU and within its bound.

    Args:
        clean: images in [0, 1] to logits; it is not changed.
        images: images to perturb, ``uint8 [N, 3, H, W]``.
        label: class index of the target.
        config: settings.
        seed: of start and batches.

    Raises:
        InputError: there are no images.
    """
    if len(images) == 0:
        raise InputError(
            "Expected images of other classes than the target to perturb, got none. Give the "
            "attacker more data, or choose another target."
        )
    device = next(clean.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    delta = torch.randn(images.shape[1:], generator=generator).to(device) * 1e-3
    delta.requires_grad_()
    per_value = config.epsilon if config.norm == "linf" else config.epsilon / delta.numel() ** 0.5
    optimizer = torch.optim.Adam([delta], per_value / 5)
    goal = torch.full((config.batch_size,), label, device=device)
    with frozen(clean):
        for _ in range(config.steps):
            chosen = torch.randint(len(images), (config.batch_size,), generator=generator)
            batch = to_unit(images[chosen]).to(device)
            loss = F.cross_entropy(clean((batch + delta).clamp(0, 1)), goal)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            delta.data = projected(delta.data, config.norm, config.epsilon)
    return delta.detach().cpu()


def projected(delta: Tensor, norm: Norm, epsilon: float) -> Tensor:
    """The nearest perturbation within the bound."""
    if norm == "linf":
        return delta.clamp(-epsilon, epsilon)
    share: Tensor = (epsilon / delta.norm().clamp_min(1e-12)).clamp(max=1)
    return delta * share
