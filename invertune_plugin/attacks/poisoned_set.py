"""Data sets of which some items are poisoned; each is made when it is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from invertune_plugin.attacks.backdoors import Backdoor, Target
from invertune_plugin.attacks.ground_truth import GroundTruth
from invertune_plugin.data import Items, Texts, texts_of

T = TypeVar("T")


class PoisonedSet(ABC, Generic[T, Target]):
    """Items of which a few carry a trigger and another text.

    Memory grows with the number of poisoned items, not with the images.

    Args:
        dataset: clean items.
        backdoors: triggers and targets.
        chosen: number of the backdoor per poisoned index, sorted by index.

    Attributes:
        poisoned: indices of the poisoned items, sorted; the ground truth for detectors.
        backdoor_of: number of the backdoor per poisoned index.
    """

    def __init__(
        self, dataset: Items[T], backdoors: Sequence[Backdoor[Target]], chosen: Mapping[int, int]
    ) -> None:
        self.dataset = dataset
        self.backdoors = tuple(backdoors)
        self.backdoor_of = dict(chosen)
        self.poisoned = list(self.backdoor_of)

    @abstractmethod
    def ground_truth(self) -> GroundTruth:
        """What was poisoned, and how."""

    @abstractmethod
    def _poisoned_text(self, index: int, text: T) -> T:
        """The text of a poisoned item, whose clean text is given."""

    @property
    def texts(self) -> Sequence[T]:
        """Labels or captions as this data set gives them; images stay encoded where they are."""
        clean = texts_of(self.dataset)
        return Texts(len(self), lambda index: self._text(index, clean[index]))

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, T]:
        index = range(len(self))[index]
        image, text = self.dataset[index]
        if index in self.backdoor_of:
            trigger = self.backdoors[self.backdoor_of[index]].trigger
            image = trigger.on_bytes(image[None], torch.tensor([index]))[0]
        return image, self._text(index, text)

    def content_key(self, index: int) -> bytes:
        """The key of the clean image."""
        return self.dataset.content_key(index)

    def _text(self, index: int, text: T) -> T:
        return self._poisoned_text(index, text) if index in self.backdoor_of else text
