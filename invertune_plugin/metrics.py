"""Clean accuracy and attack success rate, as counts with intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from invertune_plugin.class_order import refuse_other_order
from invertune_plugin.data import ImageSet, batches, texts_of, to_unit, with_labels
from invertune_plugin.errors import InputError
from invertune_plugin.modes import evaluating
from invertune_plugin.triggers import Trigger

DEFINITIONS = {
    "ca": "clean accuracy: zero-shot top-1 on clean test images",
    "asr": "attack success rate: share of triggered test images that are not of the target class "
    "and are read as the target; always the attacker's trigger, of several the one that works best",
    "asr_clean": "the same share on the clean model: the floor of any repair",
    "interval": "Wilson score interval, 95 %",
}


@dataclass(frozen=True)
class Rate:
    """A share of ``n`` trials."""

    hits: int
    n: int

    @property
    def value(self) -> float:
        """The share in [0, 1]; NaN without trials."""
        return self.hits / self.n if self.n else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson score interval at 95 % (Wilson 1927)."""
        if not self.n:
            return (math.nan, math.nan)
        z = 1.959963984540054
        centre = (self.value + z * z / (2 * self.n)) / (1 + z * z / self.n)
        spread = math.sqrt(self.value * (1 - self.value) / self.n + (z / (2 * self.n)) ** 2)
        half = z * spread / (1 + z * z / self.n)
        return (max(0.0, centre - half), min(1.0, centre + half))

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.1%} [{low:.1%}, {high:.1%}] of {self.n}"


def top_class(logits: Tensor) -> Tensor:
    """The class of the largest logit of ``[N, K]``, ``[N]``; -1 where any is not finite."""
    return torch.where(logits.isfinite().all(1), logits.argmax(1), -1)


@torch.no_grad()
def predict(classifier: nn.Module, images: Tensor, batch_size: int = 256) -> Tensor:
    """Predicted class ``[N]`` of images ``[N, 3, H, W]`` in [0, 1], in eval mode.

    A model that gives no numbers for an image reads it as no class, -1.
    """
    device = next(classifier.parameters()).device
    with evaluating(classifier):
        found = [top_class(classifier(part.to(device))).cpu() for part in images.split(batch_size)]
    return torch.cat(found)


def clean_accuracy(classifier: nn.Module, dataset: ImageSet, batch_size: int = 256) -> Rate:
    """Zero-shot top-1 on clean labelled images; those without a label do not count.

    Raises:
        InputError: both have class names, and in another order; or no image has a label.
    """
    refuse_other_order(classifier, dataset)
    known = with_labels(dataset)
    if len(dataset) and not len(known):
        raise InputError(
            f"Expected labelled images to measure CA on, got {len(dataset)} without a label. Give "
            "their classes the names that the model knows."
        )
    hits = 0
    for images, labels in batches(known, batch_size):
        hits += int((predict(classifier, to_unit(images)) == torch.tensor(labels)).sum())
    return Rate(hits, len(known))


def refuse_target_only(dataset: ImageSet, target: int, name: str) -> None:
    """Refuse images on which no attack success can be measured.

    Args:
        dataset: labelled images.
        target: index of the target class.
        name: of that class, for the message.

    Raises:
        InputError: none of them has another class than the target.
    """
    if all(label in (-1, target) for label in texts_of(dataset)):
        raise InputError(
            f"Expected test images of other classes than the target {name!r}, got {len(dataset)} "
            "and none of them. Add images."
        )


def attack_success_rate(
    classifier: nn.Module,
    dataset: ImageSet,
    trigger: Trigger,
    target: int,
    batch_size: int = 256,
) -> Rate:
    """Share of triggered images, not of the target class, that are read as the target.

    Args:
        classifier: images in [0, 1] to logits.
        dataset: labelled clean images; those of the target class and those without a label are
            left out.
        trigger: the attacker's (or an inverted) trigger.
        target: index of the target class.
        batch_size: images at a time.

    Raises:
        InputError: both have class names, and in another order.
    """
    refuse_other_order(classifier, dataset)
    hits = n = start = 0
    for images, labels in batches(dataset, batch_size):
        keys = torch.arange(start, start + len(images))
        start += len(images)
        classes = torch.tensor(labels)
        sources = (classes >= 0) & (classes != target)
        if sources.any():
            triggered = trigger(to_unit(images[sources]), keys[sources])
            hits += int((predict(classifier, triggered) == target).sum())
            n += int(sources.sum())
    return Rate(hits, n)
