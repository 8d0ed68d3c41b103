"""Attacks whose trigger is made in training: by a network per image, or by a loss in every step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import transforms

from invertune_plugin.adapters.backdoorbox.attacks.job import Attacked, Job
from invertune_plugin.adapters.backdoorbox.attacks.patterns import checkerboard, scaled
from invertune_plugin.adapters.backdoorbox.attacks.triggered import triggered
from invertune_plugin.adapters.backdoorbox.networks import PIXEL_DATASET
from invertune_plugin.errors import InputError

_MASK_EPOCHS = 25
"""IAD trains its masks for so many epochs, and counts on from there."""


def iad(
    job: Job,
    *,
    lambda_div: float = 1,
    lambda_norm: float = 100,
    mask_density: float = 0.032,
    lr_generators: float = 0.01,
    mask_epochs: int = _MASK_EPOCHS,
) -> Attacked:
    """IAD on images in [0, 1], with epochs counted behind its own 25 and one test at the end.

    Args:
        job: what to do.
        lambda_div: weight of diversity.
        lambda_norm: weight of the mask's size.
        mask_density: size of a mask that costs nothing.
        lr_generators: of pattern and mask.
        mask_epochs: in which the masks are trained; the toolbox takes 25.
    """
    job.require_multiple(8)
    batch = min(job.training.batch_size, len(job.data.train))
    _require_share(job, batch)
    if mask_epochs < 1:
        raise InputError(f"Expected one mask epoch or more for IAD, got {mask_epochs}.")
    if job.rate > 0.5:
        raise InputError(
            f"Expected a rate of at most 0.5 for IAD, got {job.rate}. As many images again get "
            "another image's trigger."
        )
    epochs = job.training.epochs + _MASK_EPOCHS
    schedule = job.schedule(
        **{
            "batch_size": batch,
            "epochs": epochs,
            "test_epoch_interval": epochs,
            "save_epoch_interval": epochs + 1,
            "lambda": job.training.gamma,
        },
        **_network("G", lr_generators, job.training.milestones, job.training.gamma),
        **_network("M", lr_generators, (10, 20), 0.1),
    )
    attack = job.build(
        dataset_name=PIXEL_DATASET,
        train_dataset1=copy.copy(job.data.train),
        test_dataset1=copy.copy(job.data.test),
        poisoned_rate=job.rate,
        cross_rate=job.rate,
        lambda_div=lambda_div,
        lambda_norm=lambda_norm,
        mask_density=mask_density,
        EPSILON=1e-7,
        schedule=schedule,
    )
    attack.train_mask_step = _at_most(attack.train_mask_step, mask_epochs)
    attack.eval_mask = _at_most(attack.eval_mask, mask_epochs)
    attack.train()
    pattern, mask = attack.modelG.eval(), attack.modelM.eval()

    def trigger(images: Tensor) -> Tensor:
        images = images.to(attack.device)
        made: Tensor = images + (pattern(images) - images) * mask.threshold(mask(images))
        return made

    return Attacked(attack.get_model(), None, triggered(job.data.test, trigger, job.target))


def lira(
    job: Job,
    *,
    eps: float = 0.01,
    alpha: float = 0.5,
    lr_generator: float = 1e-4,
    tune_epochs: int | None = None,
) -> Attacked:
    """LIRA on the given model instead of its VGG, at its image size, with its own poisoned test.

    Every image is poisoned in every step; the rate plays no part.

    Args:
        job: what to do.
        eps: size of the trigger.
        alpha: weight of clean images.
        lr_generator: of the trigger's network.
        tune_epochs: of the model, with the trigger fixed; as many as before where omitted.
    """
    job.require_multiple(16)
    training = job.training
    tune = training.epochs if tune_epochs is None else tune_epochs
    attack = job.build(
        dataset_name=PIXEL_DATASET,
        eps=eps,
        alpha=alpha,
        tune_test_eps=eps,
        tune_test_alpha=alpha,
        best_threshold=0.1,
    )
    _augment_at_size(attack, job.data.image_size)
    milestones = training.milestones or (tune + 1,)
    attack.train(
        job.schedule(
            lr_atk=lr_generator,
            train_epoch=1,
            cls_test_epoch=1,
            tune_test_epochs=tune,
            tune_test_lr=training.lr,
            tune_momentum=training.momentum,
            tune_weight_decay=training.weight_decay,
            tune_test_epoch_interval=tune + 1,
            schedulerC_milestones=",".join(str(epoch) for epoch in milestones),
            schedulerC_lambda=training.gamma,
        )
    )
    generator = attack.atkmodel.eval()

    def trigger(images: Tensor) -> Tensor:
        images = images.to(attack.device)
        made: Tensor = images + generator(images) * eps
        return made.clamp(0, 1)

    return Attacked(attack.get_model(), None, triggered(job.data.test, trigger, job.target))


def issba(
    job: Job,
    *,
    encoder_epochs: int = 5,
    secret_epochs: int = 1,
    secret_size: int = 20,
) -> Attacked:
    """ISSBA with an encoder trained here for a short while; its images are made again in order.

    Args:
        job: what to do.
        encoder_epochs: of the network that hides the secret (the toolbox's example takes 20).
        secret_epochs: the first of them, in which only the secret counts.
        secret_size: bits.
    """
    job.require_multiple(32)
    _require_share(job, job.training.batch_size)
    size = job.data.image_size
    attack = job.build(
        dataset_name=PIXEL_DATASET,
        train_steg_set=_Hiding(job.data.train, secret_size, job.seed),
        poisoned_rate=job.rate,
        encoder_schedule={
            "secret_size": secret_size,
            "enc_height": size,
            "enc_width": size,
            "enc_in_channel": 3,
            "enc_total_epoch": encoder_epochs,
            "enc_secret_only_epoch": secret_epochs,
            "enc_use_dis": False,
        },
    )
    secrets: list[Tensor] = []
    attack.get_img = lambda: attack.encoder.register_forward_pre_hook(
        lambda _, inputs: secrets.append(inputs[0][0].detach())
    )
    attack.train(job.schedule())
    encoder, secret = attack.encoder.eval(), secrets[-1]

    def trigger(images: Tensor) -> Tensor:
        images = images.to(secret.device)
        made: Tensor = images + encoder([secret.expand(len(images), -1), images])
        return made.clamp(0, 1)

    train = triggered(job.data.train, trigger, job.target, attack.poisoned_set)
    test = triggered(job.data.test, trigger, job.target)
    return Attacked(attack.get_model(), train, test, tuple(sorted(attack.poisoned_set)))


def blind(job: Job, *, cell: int | None = None, neural_cleanse: bool = False) -> Attacked:
    """Blind with the board of BadNets, and its own poisoned test, as its test() cannot be used.

    Every image is poisoned in every step; the rate plays no part.

    Args:
        job: what to do.
        cell: side of a cell in pixels; 1 at 32 pixels where omitted.
        neural_cleanse: also train against that defence.
    """
    size = job.data.image_size
    pattern, weight = checkerboard(size, cell or scaled(1, size))
    attack = job.build(
        pattern=pattern.expand(3, -1, -1) / 255,
        alpha=weight.expand(3, -1, -1).clone(),
        use_neural_cleanse=neural_cleanse,
    )
    attack.train(job.schedule(batch_size=min(job.training.batch_size, len(job.data.train))))

    def trigger(images: Tensor) -> Tensor:
        made: Tensor = attack.add_trigger.cpu()(images, batch=True)
        return made

    return Attacked(attack.get_model(), None, triggered(job.data.test, trigger, job.target))


class _Hiding(Dataset[tuple[Tensor, Tensor]]):
    """Images with random secrets of 0 and 1."""

    def __init__(self, images: Any, bits: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.images = images
        self.secrets = torch.randint(2, (len(images), bits), generator=generator).float()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index][0], self.secrets[index]


def _network(letter: str, lr: float, milestones: Sequence[int], gamma: float) -> dict[str, Any]:
    keys = {"lr": lr, "betas": (0.5, 0.9), "milestones": list(milestones), "lambda": gamma}
    return {f"{key}_{letter}": value for key, value in keys.items()}


def _at_most(step: Callable[..., Any], times: int) -> Callable[..., Any]:
    """The same step, which only repeats its last result once it was called so many times."""
    results: list[Any] = []

    def limited(*arguments: Any) -> Any:
        if len(results) < times:
            results.append(step(*arguments))
        return results[-1]

    return limited


def _require_share(job: Job, batch: int) -> None:
    if int(job.rate * batch) < 1:
        raise InputError(
            f"Expected a poisoned image in every batch for {job.name}, got a rate of {job.rate} "
            f"and batches of {batch}. Make one of them larger."
        )


def _augment_at_size(attack: Any, size: int) -> None:
    """Replace LIRA's augmentation, which crops to 32 pixels, by the same at any size."""
    crop = transforms.RandomCrop(size, padding=scaled(5, size))
    augment = transforms.Compose(
        [
            transforms.RandomApply([crop], 0.8),
            transforms.RandomApply([transforms.RandomRotation(10)], 0.5),
        ]
    )
    train, tune = attack.train_step, attack.finetune_model
    attack.train_step = lambda *args, **rest: train(*args, **(rest | {"post_transforms": augment}))
    attack.finetune_model = lambda *args, **rest: tune(
        *args, **(rest | {"data_transforms": augment})
    )
