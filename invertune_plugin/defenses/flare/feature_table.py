"""The table of features while a set is read, in memory or on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from invertune_plugin.defenses.flare.norms import Measure, Moments, Summary, columns


class FeatureTable:
    """Features as they are read; summaries wait here for the statistics of their layer.

    Args:
        count: images of the set.
        measure: that turns summaries into features.
        files: on disk, of the features and of what the last layer takes in; none for memory.

    Attributes:
        layers: names of the features so far.
        values: the features, ``[N, L]``.
        predictions: class that the model reads, ``[N]``.
        last: what the last layer takes in, ``[N, D]``; None where nothing was put.
        waiting: summaries by their layer, with the images that they are of.
    """

    def __init__(self, count: int, measure: Measure, files: Sequence[Path]) -> None:
        self.count, self.measure, self.files = count, measure, files
        self.predictions = np.zeros(count, dtype=np.int64)
        self.layers: tuple[str, ...] = ()
        self._places: dict[str, slice] = {}
        self.values = np.empty((0, 0), dtype=np.float32)
        self.waiting: dict[str, list[tuple[list[int], Summary]]] = {}
        self.last: np.ndarray | None = None

    def put(
        self,
        indices: list[int],
        predictions: Tensor,
        seen: Mapping[str, Summary],
        moments: Mapping[str, Moments],
    ) -> None:
        """Add what the layers say of some images; what needs no waiting becomes features."""
        if not self.layers:
            for part in seen:
                names = columns(part, self.measure)
                self._places[part] = slice(len(self.layers), len(self.layers) + len(names))
                self.layers += names
            self.values = _allocated(self.count, len(self.layers), self.files[:1])
        self.predictions[indices] = predictions.cpu().numpy()
        for name, found in seen.items():
            self.waiting.setdefault(name, []).append((indices, found))
        self.settle(moments)

    def put_last(self, indices: list[int], values: Tensor) -> None:
        """Add what the last layer takes in of some images."""
        if self.last is None:
            self.last = _allocated(self.count, values.shape[1], self.files[1:])
        self.last[indices] = _within(self.last, values)

    def settle(self, moments: Mapping[str, Moments]) -> None:
        """Turn into features what waits for statistics that are known now."""
        for name in self.waiting.keys() & moments.keys():
            for indices, found in self.waiting.pop(name):
                features = found.likelihood(moments[name], self.measure)
                self.values[indices, self._places[name]] = _within(self.values, features)


def _allocated(count: int, layers: int, files: Sequence[Path]) -> np.ndarray:
    if not files:
        return np.empty((count, layers), dtype=np.float32)
    shape = (count, layers)
    return np.lib.format.open_memmap(files[0], mode="w+", dtype=np.float16, shape=shape)


def _within(table: np.ndarray, values: Tensor) -> np.ndarray:
    """Values as a table can hold them: what is finite and beyond becomes its end."""
    most, exact = float(np.finfo(table.dtype).max), values.float()
    return torch.where(exact.isinf(), exact, exact.clamp(-most, most)).cpu().numpy()
