"""Penalties for an attacker who knows InverTune: a term beside the contrastive loss.

InverTune tells a backdoor by the small universal perturbation that reaches its target (step 1), and
removes it from the few units that the trigger drives (step 3). ``SpreadUnits`` makes all units
share the trigger; ``DecoupledTarget`` makes universal perturbations useless while it works.
An attacker against step 2 needs no penalty: a trigger in random places is not one mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from invertune_plugin.attacks.universal import projected
from invertune_plugin.errors import InputError
from invertune_plugin.hooks import activations, tower_stages
from invertune_plugin.modes import evaluating
from invertune_plugin.training import Batch, Penalty
from invertune_plugin.triggers import Trigger


@dataclass(frozen=True)
class EvasionConfig:
    """What to hide from the defender, and how hard.

    Attributes:
        against: ``units`` (step 3) or ``target`` (step 1).
        weight: of the penalty against the contrastive loss.
        images: images of each batch that it is taken on.
        epsilon: bound of the universal perturbation that is fought (``target``).
    """

    against: Literal["units", "target"] = "units"
    weight: float = 1.0
    images: int = 32
    epsilon: float = 8 / 255

    def __post_init__(self) -> None:
        """Refuse a penalty without weight or images."""
        if self.weight <= 0 or self.images < 1:
            raise InputError(
                f"Expected a positive weight and one image or more, got {self.weight} and "
                f"{self.images}. Leave evasion out for a plain attack."
            )


def penalty_of(config: EvasionConfig, classifier: Any, trigger: Trigger, label: int) -> Penalty:
    """The penalty of a batch of clean images, with gradients.

    It is taken in eval mode, so that triggered images do not shape the BatchNorm statistics.
    """
    term: Callable[[Tensor], Tensor]
    if config.against == "units":
        term = SpreadUnits(classifier, trigger)
    else:
        term = DecoupledTarget(classifier, label, config.epsilon)

    def penalty(batch: Batch) -> Tensor:
        with evaluating(classifier.visual):
            return config.weight * term(batch.images[: config.images])

    return penalty


class SpreadUnits:
    """How unevenly the channels of each stage share what the trigger changes; 0 where all alike.

    Per stage it is ``log(C sum d^2 / (sum d)^2)`` of the mean absolute changes d of C channels: the
    logarithm of C where a single channel carries the trigger.
    """

    def __init__(self, classifier: Any, trigger: Trigger) -> None:
        self.classifier = classifier
        self.trigger = trigger
        self.stages = tower_stages(classifier.visual)

    def __call__(self, images: Tensor) -> Tensor:
        """The mean over the stages."""
        both = torch.cat([images, self.trigger(images)])
        with activations(self.stages) as seen:
            self.classifier.encode_image(both)
        terms = []
        for found in seen.values():
            before, after = found.float().chunk(2)
            change = (after - before).abs().flatten(0, -2).mean(0)
            share = change / change.sum().clamp_min(1e-12)
            terms.append((len(share) * share.square().sum()).clamp_min(1e-12).log())
        return torch.stack(terms).mean()


class DecoupledTarget:
    """How far a universal perturbation toward the target moves images.

    The perturbation lives on from batch to batch; each call first makes it worse by one signed step
    on the present weights, as in adversarial training.
    """

    def __init__(self, classifier: Any, label: int, epsilon: float) -> None:
        self.classifier = classifier
        self.label = label
        self.epsilon = epsilon
        self.delta: Tensor | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """1 - cosine between embeddings with and without the perturbation, mean over the batch."""
        delta = torch.zeros_like(images[0]) if self.delta is None else self.delta
        delta.requires_grad_()
        goal = torch.full((len(images),), self.label, device=images.device)
        loss = F.cross_entropy(self.classifier((images + delta).clamp(0, 1)), goal)
        (gradient,) = torch.autograd.grad(loss, delta)
        worse = delta.detach() - self.epsilon / 4 * gradient.sign()
        self.delta = projected(worse, "linf", self.epsilon)
        moved = self.classifier.encode_image((images + self.delta).clamp(0, 1))
        with torch.no_grad():
            still = self.classifier.encode_image(images)
        kept: Tensor = (moved * still).sum(-1).mean()
        return 1 - kept
