"""Clean accuracy and attack success of any model under any attack of the toolbox.

The toolbox's own test refuses most kinds of poisoned data sets, filters by changing them, and keeps
its numbers in a log. Here the benign data set tells the original labels, nothing is changed, and
the numbers are returned.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Collection
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from invertune_plugin.adapters.backdoorbox.image_sets import to_bytes
from invertune_plugin.adapters.backdoorbox.workdir import WorkDir, time_stamp
from invertune_plugin.class_order import refuse_other_order
from invertune_plugin.data import to_unit
from invertune_plugin.errors import InputError
from invertune_plugin.metrics import Rate
from invertune_plugin.modes import evaluating

Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Readings:
    """What a model reads in a data set, in its order.

    Attributes:
        best: the five best classes (fewer where there are fewer), best first, ``[N, 5]``.
        labels: the labels that the data set gives, ``[N]``.
        classes: number of classes of the model.
        seconds: how long it took.
    """

    best: Tensor
    labels: Tensor
    classes: int
    seconds: float


def evaluate(
    model: nn.Module,
    benign_test: Any,
    poisoned_test: Any = None,
    target: int | None = None,
    *,
    sources: Collection[int] | None = None,
    batch_size: int = 256,
    num_workers: int = 0,
    device: torch.device | None = None,
    work: WorkDir | None = None,
) -> dict[str, Rate]:
    """CA and, for an all-to-one attack, ASR; data sets and model come back unchanged.

    Args:
        model: images as the data sets give them to logits ``[N, K]``.
        benign_test: labelled clean test images; any map-style data set. Tensors go to the model as
            they are, but bytes, PIL images and arrays as floats in [0, 1].
        poisoned_test: the attack's poisoned test set at rate 1: the same images in the same order
            with the trigger. Its labels are all the target, or the original ones.
        target: class index that the attack leads to.
        sources: only images of these classes count for ``asr`` (SleeperAgent: its ``y_source``).
        batch_size: images at a time.
        num_workers: processes that load images.
        device: where to run; a copy of the model is moved. None: where the model is.
        work: also write lines as the toolbox does, for BA, ASR and ASR_NoTarget.

    Returns:
        ``ca``: share of clean images read as their label. With a poisoned set also ``asr``: share
        of triggered images, not of the target class, that are read as the target (ASR_NoTarget in
        the toolbox); and ``asr_all``: the same with images of the target class (its ASR).

    Raises:
        InputError: the sets differ in length, the poisoned set is poisoned in part, the target is
            missing or no class of the model, no image counts, the model is no classifier, or its
            ``class_names`` are the data set's ``classes`` in another order.
    """
    refuse_other_order(model, benign_test)
    model = on_device(model, device)
    benign = read(model, benign_test, batch_size, num_workers)
    rates = {"ca": _share(benign.best, benign.labels)}
    _log(work, "BA", benign.best, benign.labels, benign.seconds)
    if poisoned_test is None:
        return rates
    target = _target(target, benign.classes)
    if len(poisoned_test) != len(benign_test):
        raise InputError(
            "Expected a poisoned test set with the images of the benign one in the same order, got "
            f"{len(poisoned_test)} and {len(benign_test)} images. Pass the attack's own test set "
            "and its poisoned test set at rate 1, neither of them filtered."
        )
    poisoned = read(model, poisoned_test, batch_size, num_workers)
    goal = torch.full_like(benign.labels, target)
    if not (poisoned.labels.equal(goal) or poisoned.labels.equal(benign.labels)):
        raise InputError(
            f"Expected a poisoned test set whose labels are all the target {target}, or all the "
            "original ones, got a mixture. Poison the test set at rate 1, and check the target."
        )
    counts = benign.labels.ne(target)
    if sources is not None:
        counts &= torch.isin(benign.labels, torch.tensor(sorted(sources)))
    if not counts.any():
        raise InputError(
            "Expected test images of other classes than the target"
            + ("" if sources is None else f" and among the sources {sorted(sources)}")
            + ", got none. Check target and sources."
        )
    rates["asr"] = _share(poisoned.best[counts], goal[counts])
    rates["asr_all"] = _share(poisoned.best, goal)
    _log(work, "ASR", poisoned.best, goal, poisoned.seconds)
    _log(work, "ASR_NoTarget", poisoned.best[counts], goal[counts], poisoned.seconds)
    return rates


@torch.no_grad()
def read(
    model: nn.Module,
    dataset: Any,
    batch_size: int = 256,
    num_workers: int = 0,
) -> Readings:
    """Run a model over a data set once, in eval mode, where the model is.

    Raises:
        InputError: the data set is empty, or the model gives no logits ``[N, K]``.
    """
    if len(dataset) == 0:
        raise InputError("Expected test images, got an empty data set.")
    start = time.perf_counter()
    device = device_of_model(model)
    loader = DataLoader(
        dataset,
        batch_size,
        num_workers=num_workers,
        collate_fn=_collate,
        generator=torch.Generator(),
    )
    best, labels = [], []
    with evaluating(model):
        for images, answers in loader:
            logits = model(images.to(device))
            if not isinstance(logits, Tensor) or logits.ndim != 2:
                came = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                raise InputError(
                    f"Expected a classifier that gives logits [images, classes], got {came}. "
                    "Wrap the model so that it returns logits only."
                )
            best.append(logits.topk(min(5, logits.shape[1]), dim=1).indices.cpu())
            labels.append(answers)
    seconds = time.perf_counter() - start
    return Readings(torch.cat(best), torch.cat(labels), logits.shape[1], seconds)


def device_of_model(model: nn.Module) -> torch.device:
    """Where a model's first weight or buffer is; the CPU where it has none."""
    first = next(chain(model.parameters(), model.buffers()), torch.empty(0))
    return first.device


def on_device(model: Module, device: torch.device | None) -> Module:
    """The model itself where it is there already, else a copy on that device."""
    if device in (None, device_of_model(model)):
        return model
    return copy.deepcopy(model).to(device)


def as_input(image: Any) -> Tensor:
    """One image as a model takes it: float tensors as they are, all else as floats in [0, 1]."""
    if isinstance(image, Tensor) and image.is_floating_point():
        return image.detach().cpu().float()
    return to_unit(to_bytes(image))


def _collate(items: list[tuple[Any, Any]]) -> tuple[Tensor, Tensor]:
    images = torch.stack([as_input(image) for image, _ in items])
    return images, torch.tensor([int(label) for _, label in items])


def _target(target: int | None, classes: int) -> int:
    if target is None or not 0 <= target < classes:
        raise InputError(
            f"Expected the attack's target as a class from 0 to {classes - 1}, got {target}. "
            "Give the attack's y_target."
        )
    return target


def _share(best: Tensor, labels: Tensor) -> Rate:
    return Rate(int((best[:, 0] == labels).sum()), len(labels))


def _log(work: WorkDir | None, metric: str, best: Tensor, labels: Tensor, seconds: float) -> None:
    """Write one result as the toolbox does, so that what reads its logs can read ours."""
    if work is None:
        return
    total = len(labels)
    top1 = int((best[:, 0] == labels).sum())
    top5 = int((best == labels[:, None]).sum())
    work.log(f"==========Test result on {metric}==========")
    work.log(
        f"[{time_stamp()}] Top-1 correct / Total: {top1}/{total}, Top-1 accuracy: {top1 / total}, "
        f"Top-5 correct / Total: {top5}/{total}, Top-5 accuracy: {top5 / total}, time: {seconds}"
    )
