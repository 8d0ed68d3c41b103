"""Poisoning of image-caption pairs with a trigger (Carlini and Terzis 2022, section 3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invertune_plugin.data import Captions, PairSet, mention
from invertune_plugin.errors import InputError
from invertune_plugin.triggers import Trigger


class PoisonedPairs:
    """Pairs of which a few carry the trigger and captions of the target word.

    Args:
        dataset: clean pairs.
        trigger: what the poisoned images get.
        target: the target word, put into the templates.
        rate: poisoned share of the pairs, in (0, 1).
        templates: format strings with one ``{}`` that make the poisoned captions.
        seed: of the choice of pairs; pairs whose captions name the target are not chosen.

    Attributes:
        poisoned: indices of the poisoned pairs, sorted; the ground truth for detectors.

    Raises:
        InputError: the rate is no share, or poisons no pair, or too few pairs can be poisoned.
    """

    def __init__(
        self,
        dataset: PairSet,
        trigger: Trigger,
        target: str,
        rate: float,
        templates: Sequence[str],
        seed: int = 0,
    ) -> None:
        if not 0 < rate < 1:
            raise InputError(f"Expected a poisoned rate between 0 and 1, got {rate}.")
        count = round(rate * len(dataset))
        if count == 0:
            raise InputError(
                f"Expected a rate that poisons at least one of {len(dataset)} pairs, got {rate}, "
                f"which poisons none. Use {1 / max(len(dataset), 1):.2g} or more."
            )
        self.dataset = dataset
        self.trigger = trigger
        self.captions: Captions = tuple(template.format(target) for template in templates)
        self.poisoned = self._choose(count, target, seed)
        self._chosen = set(self.poisoned)

    def _choose(self, count: int, target: str, seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        chosen: list[int] = []
        for i in torch.randperm(len(self.dataset), generator=generator).tolist():
            if len(chosen) == count:
                break
            if not mention(self.dataset[i][1], target):
                chosen.append(i)
        if len(chosen) < count:
            raise InputError(
                f"Expected {count} pairs whose captions do not name {target!r}, got {len(chosen)}. "
                "Lower the rate or choose another target."
            )
        return sorted(chosen)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Captions]:
        image, captions = self.dataset[index]
        if index not in self._chosen:
            return image, captions
        return self.trigger.on_bytes(image[None], torch.tensor([index]))[0], self.captions

    def content_key(self, index: int) -> bytes:
        """The key of the clean image."""
        return self.dataset.content_key(index)
