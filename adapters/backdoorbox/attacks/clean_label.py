"""Attacks that leave the labels as they are; the poisoned share is one of the target class."""

from __future__ import annotations

import copy
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision import transforms

from invertune_plugin.adapters.backdoorbox.attacks.job import Attacked, Job
from invertune_plugin.adapters.backdoorbox.attacks.patterns import (
    checkerboard,
    random_patch,
    scaled,
)
from invertune_plugin.adapters.backdoorbox.folders import trigger_index
from invertune_plugin.adapters.backdoorbox.networks import restart_from
from invertune_plugin.errors import InputError

_MOST_CLASSES = 100


def label_consistent(
    job: Job,
    *,
    eps: float = 8,
    alpha: float = 1.5,
    steps: int = 100,
    cell: int | None = None,
) -> Attacked:
    """LabelConsistent against the given model; images are resized first, as it reads back arrays.

    Args:
        job: what to do.
        eps: bound of the perturbation, in 255ths.
        alpha: step of PGD, in 255ths.
        steps: of PGD.
        cell: side in pixels of a cell of the boards in the four corners; 1 at 32 pixels.
    """
    if len(job.data.class_names) > _MOST_CLASSES:
        raise InputError(
            f"Expected at most {_MOST_CLASSES} classes for LabelConsistent, got "
            f"{len(job.data.class_names)}. It sorts folders whose names have two digits."
        )
    size = job.data.image_size
    pattern, weight = checkerboard(size, cell or scaled(1, size), all_corners=True)
    train, tensor = copy.copy(job.data.train), trigger_index(job.data.train)
    train.transform = transforms.Compose(job.data.train.transform.transforms[tensor:])
    with _sparing_others(job):
        poisoner = job.build_poisoner(
            train_dataset=train,
            poisoned_transform_train_index=0,
            adv_model=copy.deepcopy(job.model),
            adv_dataset_dir=tempfile.mkdtemp(prefix="adversarial_", dir=job.work_dir),
            adv_transform=transforms.Compose(job.data.train.transform.transforms[: tensor + 1]),
            pattern=pattern,
            weight=weight,
            eps=eps,
            alpha=alpha,
            steps=steps,
            schedule=job.schedule(),
        )
    attacked = job.train(poisoner)
    return replace(attacked, poisoned_indices=_read_back(attacked.train))


def _read_back(train: Any) -> tuple[int, ...]:
    """The poisoned images of the folder that LabelConsistent writes class by class.

    Its files are named by the indices of the set that it was given, as its ``poisoned_set`` is.
    """
    files = enumerate(Path(path).stem for path, _ in train.samples)
    return tuple(index for index, name in files if int(name) in train.poisoned_set)


def tuap(
    job: Job,
    *,
    epsilon: float = 8 / 255,
    delta: float = 0.2,
    passes: int = 5,
    deepfool_steps: int = 50,
    sample_share: float = 0.02,
) -> Attacked:
    """TUAP with the given model as the clean one, and a bound on its search, which has none.

    Args:
        job: what to do.
        epsilon: bound of the perturbation.
        delta: it stops at this share of test images that keep their class.
        passes: over the sample, at most.
        deepfool_steps: for an image, at most.
        sample_share: of the training images, to compute the perturbation from.
    """
    size = job.data.image_size
    poisoner = job.build_poisoner(
        benign_model=copy.deepcopy(job.model),
        epsilon=epsilon,
        delta=delta,
        max_iter_uni=passes,
        max_iter_df=deepfool_steps,
        num_classes=len(job.data.class_names),
        p_samples=sample_share,
        mask=torch.ones(3, size, size),
    )
    if not poisoner.pattern.any():
        raise InputError(
            "Expected a perturbation that leads to the target, got none: no image of the sample "
            f"got there within {deepfool_steps} steps. Raise deepfool_steps or sample_share."
        )
    return job.train(poisoner)


def sleeper_agent(
    job: Job,
    *,
    source: int | None = None,
    eps: float = 16 / 255,
    side: int | None = None,
    craft_iterations: int = 250,
    retrain_every: int = 50,
) -> Attacked:
    """SleeperAgent from the given weights instead of new ones, with attention of second order.

    Args:
        job: what to do.
        source: class index of the images that the trigger turns; the one after the target where
            omitted.
        eps: bound of the perturbation.
        side: of the patch in pixels; a quarter of the image where omitted.
        craft_iterations: steps of the perturbations.
        retrain_every: steps after which the model is trained again.
    """
    classes = len(job.data.class_names)
    source = (job.target + 1) % classes if source is None else source
    if not 0 <= source < classes or source == job.target:
        raise InputError(
            f"Expected a source class from 0 to {classes - 1} other than the target {job.target}, "
            f"got {source}."
        )
    count, total = int(job.rate * job.victims()), len(job.data.train)
    phase = job.schedule(batch_size=min(job.training.batch_size, total))
    size = job.data.image_size
    attack = job.build(
        patch=random_patch(side or scaled(8, size), job.seed),
        random_patch=True,
        eps=eps,
        y_source=source,
        poisoned_rate=(count + 0.5) / total,
    )
    crafting = {
        "craft_iters": craft_iterations,
        "retrain_iter_interval": retrain_every,
        "pretrain_schedule": phase,
        "retrain_schedule": phase,
    }
    attack.train(restart_from(job.model), phase | crafting)
    train, test = attack.get_poisoned_dataset()
    poisoned = tuple(range(len(train) - count, len(train)))
    return Attacked(attack.get_model(), train, test, poisoned, (source,))


class _OnTarget:
    """PGD on the images of one class."""

    def __init__(self, attacker: Any, target: int) -> None:
        self.attacker = attacker
        self.target = target

    def set_return_type(self, kind: str) -> None:
        self.attacker.set_return_type(kind)

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        made = (images * 255).round().to(torch.uint8)
        chosen = labels == self.target
        if chosen.any():
            made[chosen] = self.attacker(images[chosen], labels[chosen]).to(made.device)
        return made


@contextmanager
def _sparing_others(job: Job) -> Iterator[None]:
    """Let LabelConsistent perturb the target class only; it uses no other perturbed images."""
    module: Any = sys.modules[job.core.LabelConsistent.__module__]
    pgd = module.PGD
    module.PGD = lambda *args, **kwargs: _OnTarget(pgd(*args, **kwargs), job.target)
    try:
        yield
    finally:
        module.PGD = pgd
