"""Data sets as every part of the toolbox can take them, whatever their items are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from invertune_plugin.adapters.backdoorbox.evaluator import as_input


class PlainSet(Dataset[tuple[Tensor, int]]):
    """A view of a labelled data set as pairs of a float tensor and an int.

    Attributes:
        transform: belongs to this view and does nothing, like the next one: ABL exchanges them.
        poisoned_transform: see ``transform``.

    Args:
        dataset: what ``evaluate`` takes; it is not changed.
        labels: other labels than its own.
    """

    transform: Any = None
    poisoned_transform: Any = None

    def __init__(self, dataset: Any, labels: Sequence[int] | None = None) -> None:
        self.dataset = dataset
        self.labels = labels

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index >= len(self):
            raise IndexError(index)
        image, label = self.dataset[index]
        return as_input(image), int(label if self.labels is None else self.labels[index])
