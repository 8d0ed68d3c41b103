"""Penalties for an attacker who knows InverTune: a term beside the contrastive loss.

InverTune tells a backdoor by the small universal perturbation that reaches its target (step 1), and
removes it from the few units that the trigger drives (step 3). ``SpreadUnits`` makes all units
share the trigger; ``DecoupledTarget`` makes universal perturbations useless while it works.
An attacker against step 2 needs no penalty: a trigger in random places is not one mask.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from invertune_plugin.attacks.universal import projected
from invertune_plugin.errors import InputError
from invertune_plugin.hooks import activations, tower_stages
from invertune_plugin.modes import evaluating
from invertune_plugin.training import Batch
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


class Evasion(ABC):
    """The weighted penalty of a batch of clean images, with gradients.

    It is taken in eval mode, so that triggered images do not shape the BatchNorm statistics.

    Attributes:
        kept: what lives on from batch to batch; a training that is stopped goes on with it.
    """

    def __init__(self, classifier: Any, config: EvasionConfig) -> None:
        self.classifier = classifier
        self.config = config
        self.kept: dict[str, Tensor] = {}

    def __call__(self, batch: Batch) -> Tensor:
        """The penalty of the first images of a training step."""
        images = batch.images[: self.config.images]
        keys = torch.arange(len(images)) + batch.step * self.config.images
        with evaluating(self.classifier.visual):
            return self.config.weight * self.term(images, keys)

    @abstractmethod
    def term(self, images: Tensor, keys: Tensor) -> Tensor:
        """The penalty without its weight.

        Args:
            images: ``[N, 3, H, W]`` in [0, 1].
            keys: ``[N]``, others at each step, for triggers with a random place.
        """

    def state_dict(self) -> dict[str, Any]:
        """What is kept."""
        return dict(self.kept)

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Go on from what was kept."""
        self.kept = dict(state_dict)


class SpreadUnits(Evasion):
    """How unevenly the channels of each stage share what the trigger changes; 0 where all alike.

    Per stage it is ``log(C sum d^2 / (sum d)^2)`` of the mean absolute changes d of C channels: the
    logarithm of C where a single channel carries the trigger. The term is the mean over the stages.
    """

    def __init__(self, classifier: Any, config: EvasionConfig, trigger: Trigger) -> None:
        super().__init__(classifier, config)
        self.trigger = trigger
        self.stages = tower_stages(classifier.visual)

    def term(self, images: Tensor, keys: Tensor) -> Tensor:
        """The mean over the stages."""
        both = torch.cat([images, self.trigger(images, keys)])
        with activations(self.stages) as seen:
            self.classifier.encode_image(both)
        terms = []
        for found in seen.values():
            before, after = found.float().chunk(2)
            change = (after - before).abs().flatten(0, -2).mean(0)
            share = change / change.sum().clamp_min(1e-12)
            terms.append((len(share) * share.square().sum()).clamp_min(1e-12).log())
        return torch.stack(terms).mean()


class DecoupledTarget(Evasion):
    """How far a universal perturbation toward the target moves images.

    The perturbation lives on from batch to batch (``kept["delta"]``); each call first makes it
    worse by one signed step, as in adversarial training. The step is taken on the image tower as it
    is now, towards the class weights of the clean model: a training renews them at its end only.
    """

    def __init__(self, classifier: Any, config: EvasionConfig, label: int) -> None:
        super().__init__(classifier, config)
        self.label = label

    def term(self, images: Tensor, keys: Tensor) -> Tensor:
        """1 - cosine between embeddings with and without the perturbation, mean over the batch."""
        epsilon = self.config.epsilon
        delta = self.kept.get("delta", torch.zeros_like(images[0])).to(images).requires_grad_()
        goal = torch.full((len(images),), self.label, device=images.device)
        loss = F.cross_entropy(self.classifier((images + delta).clamp(0, 1)), goal)
        (gradient,) = torch.autograd.grad(loss, delta)
        worse = delta.detach() - epsilon / 4 * gradient.sign()
        self.kept["delta"] = projected(worse, "linf", epsilon)
        moved = self.classifier.encode_image((images + self.kept["delta"]).clamp(0, 1))
        with torch.no_grad():
            still = self.classifier.encode_image(images)
        cosine: Tensor = (moved * still).sum(-1).mean()
        return 1 - cosine


def penalty_of(config: EvasionConfig, classifier: Any, trigger: Trigger, label: int) -> Evasion:
    """The penalty of a config, for a classifier that is trained on a trigger and a class index."""
    if config.against == "units":
        return SpreadUnits(classifier, config, trigger)
    return DecoupledTarget(classifier, config, label)
