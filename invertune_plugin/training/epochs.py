"""Batches of an epoch, what is drawn for them, and their augmentation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from invertune_plugin.data import Captions, PairSet
from invertune_plugin.processes import Processes
from invertune_plugin.training.config import TrainingConfig


def stream(seed: int, number: int, purpose: str = "") -> int:
    """The seed of what is drawn for one step or epoch; another purpose draws other numbers.

    The order of an epoch and the augmentation of a step have no purpose, and so share theirs: the
    measured models were trained like that.
    """
    plain = seed * 100_003 + number
    if not purpose:
        return plain
    digest = hashlib.blake2b(f"{purpose}:{plain}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")


def batches_of(
    pairs: PairSet, config: TrainingConfig, epoch: int, skip: int, processes: Processes
) -> Iterator[tuple[Tensor, list[str]]]:
    """This process's share of each batch of an epoch, from batch ``skip`` on."""
    generator = torch.Generator().manual_seed(stream(config.seed, epoch))
    order = torch.randperm(len(pairs), generator=generator)
    choices = torch.randint(2**31, (len(pairs),), generator=generator)
    size = min(config.batch_size, len(pairs))
    share = [processes.share(b.tolist()) for b in order.split(size) if len(b) == size][skip:]
    yield from DataLoader(
        _Indexed(pairs),
        batch_sampler=share,
        collate_fn=_OneCaption(choices),
        num_workers=config.workers,
    )


class _OneCaption:
    """Make a batch of items, with the caption that the epoch has chosen for each."""

    def __init__(self, choices: Tensor) -> None:
        self.choices = choices

    def __call__(self, items: list[tuple[int, Tensor, Captions]]) -> tuple[Tensor, list[str]]:
        captions = [texts[int(self.choices[i]) % len(texts)] for i, _, texts in items]
        return torch.stack([image for _, image, _ in items]), captions


class _Indexed(Dataset[tuple[int, Tensor, Captions]]):
    def __init__(self, pairs: PairSet) -> None:
        self.pairs = pairs

    def __getitem__(self, index: int) -> tuple[int, Tensor, Captions]:
        return (index, *self.pairs[index])


def augmented(images: Tensor, config: TrainingConfig, step: int, processes: Processes) -> Tensor:
    """Random mirror images and translations of ``uint8 [N, 3, H, W]``, edges repeated."""
    count, _, height, width = images.shape
    generator = torch.Generator().manual_seed(stream(config.seed, step))
    total = count * processes.count
    flips = processes.share(torch.rand(total, generator=generator) < 0.5)
    moves = torch.randint(-config.shift, config.shift + 1, (2, total, 1), generator=generator)
    down, right = (processes.share(move) for move in moves)
    rows = (torch.arange(height) + down).clamp(0, height - 1)
    columns = (torch.arange(width) + right).clamp(0, width - 1)
    if config.flip:
        columns = torch.where(flips[:, None], width - 1 - columns, columns)
    elif not config.shift:
        return images
    batch = torch.arange(count)[:, None, None]
    moved = images.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)
