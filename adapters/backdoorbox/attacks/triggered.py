"""A data set with a trigger that only a function knows."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset


@torch.no_grad()
def triggered(
    dataset: Dataset[Any],
    trigger: Callable[[Tensor], Tensor],
    target: int,
    only: Collection[int] | None = None,
) -> TensorDataset:
    """A data set in its order, with the trigger and the target's label on all or some images.

    Args:
        dataset: images ``[3, H, W]`` in [0, 1] and labels.
        trigger: images ``[N, 3, H, W]`` to others.
        target: class index.
        only: indices of the images to change; None for all.
    """
    pixels: list[Tensor] = []
    labels: list[Tensor] = []
    start = 0
    for images, classes in DataLoader(dataset, 64, generator=torch.Generator()):
        indices = range(start, start + len(images))
        start = indices.stop
        chosen = torch.tensor([only is None or index in only for index in indices])
        if chosen.any():
            images[chosen] = trigger(images[chosen]).cpu()
        pixels.append(images)
        labels.append(torch.where(chosen, target, classes))
    return TensorDataset(torch.cat(pixels), torch.cat(labels))
