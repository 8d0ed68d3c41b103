"""ABL: training anew, without a backdoor, from the poisoned training set."""

from __future__ import annotations

import copy
from math import ceil

import torch
from torch import nn

from invertune_plugin.adapters.backdoorbox.defenses.job import NEVER, Defended, Job, fitting
from invertune_plugin.adapters.backdoorbox.defenses.plain_sets import PlainSet
from invertune_plugin.errors import InputError

UNLEARNING_STEPS = 20
"""In upstream's example: 5 epochs with 500 images, 128 at a time."""


def abl(
    job: Job,
    *,
    initial: nn.Module | None = None,
    split_ratio: float = 0.01,
    gamma: float = 0.5,
    isolation_epochs: int | None = None,
    unlearning_epochs: int | None = None,
    unlearning_lr: float = 5e-4,
) -> Defended:
    """ABL, from ``initial`` on, with a view of the poisoned set whose transforms it may exchange.

    Give the model that the attacker's training began with as ``initial``; without it the suspect's
    weights are drawn anew, which no pretrained model survives. As in upstream's example, isolation
    takes 20 / 70 of the epochs of the clean phase, and unlearning 20 steps or a few more; at least
    two images are isolated.
    """
    images = PlainSet(job.poisoned_train())
    isolated = max(2, round(split_ratio * len(images)))
    if isolated > len(images) // 2:
        raise InputError(
            f"Expected a split_ratio that isolates two images or more and at most half of the "
            f"{len(images)} training images, got {split_ratio}."
        )
    few = fitting(job.training.batch_size, isolated)
    isolating = isolation_epochs or max(1, round(job.training.epochs * 20 / 70))
    unlearning = unlearning_epochs or ceil(UNLEARNING_STEPS / ceil(isolated / few))
    defense = job.core.ABL(
        model=_start(job, initial),
        loss=nn.CrossEntropyLoss(),
        poisoned_trainset=images,
        poisoned_testset=images,
        clean_testset=images,
        seed=job.seed,
    )
    whole = job.schedule("ABL", len(images), test_epoch_interval=NEVER)
    phases = {
        "pre_isolation_schedule": {**whole, "epochs": isolating},
        "split_schedule": whole,
        "clean_schedule": {
            **whole,
            "batch_size": fitting(job.training.batch_size, len(images) - isolated),
        },
        "unlearning_schedule": {
            **whole,
            "batch_size": few,
            "epochs": unlearning,
            "lr": unlearning_lr,
            "schedule": [],
        },
        "test_schedule": whole,
    }
    defense.train(
        split_ratio=(isolated + 0.5) / len(images),
        isolation_criterion=nn.CrossEntropyLoss(reduction="none"),
        gamma=gamma,
        schedule={**whole, **phases},
        transform=[],
        selection_criterion=nn.CrossEntropyLoss(reduction="none"),
    )
    return Defended(job.as_given(defense.get_model()))


def _start(job: Job, initial: nn.Module | None) -> nn.Module:
    if initial is None:
        return drawn_anew(job.victim())
    expected = {name: t.shape for name, t in job.suspicion.model.state_dict().items()}
    if expected != {name: t.shape for name, t in initial.state_dict().items()}:
        raise InputError(
            "Expected an initial model with the architecture of the suspect, got another one. "
            "Give the model that the suspect's training began with."
        )
    return copy.deepcopy(initial).requires_grad_(True)


@torch.no_grad()
def drawn_anew(model: nn.Module) -> nn.Module:
    """The same model with random weights: by its modules' own rule, else as spread as before."""
    drawn: set[nn.Parameter] = set()
    for module in model.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
            drawn.update(module.parameters(recurse=False))
    for parameter in model.parameters():
        if parameter not in drawn and parameter.numel() > 1:
            parameter.normal_(float(parameter.mean()), float(parameter.std()))
    return model
