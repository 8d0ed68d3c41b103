"""How a method of the toolbox trains: one set of numbers, and the schedule dict made of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from invertune_plugin.adapters.backdoorbox.isolation import isolated
from invertune_plugin.adapters.backdoorbox.schedules import device_of
from invertune_plugin.errors import InputError


@dataclass(frozen=True)
class ToolboxTraining:
    """Training by the toolbox's SGD.

    Attributes:
        epochs: passes over the data.
        batch_size: images a step.
        lr: learning rate.
        momentum: of SGD.
        weight_decay: of SGD.
        milestones: epochs at which the rate is multiplied by ``gamma``.
        gamma: see ``milestones``.
        num_workers: processes that load images.
        device: ``CPU`` or ``GPU``, one of them.
    """

    epochs: int = 1
    batch_size: int = 64
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    num_workers: int = 0
    device: Literal["CPU", "GPU"] = "CPU"

    def __post_init__(self) -> None:
        """Refuse a training without steps."""
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"Expected {name} of 1 or more, got {getattr(self, name)}.")

    def schedule(self, work_dir: str | Path, name: str, **extra: Any) -> dict[str, Any]:
        """A schedule with every key that the toolbox demands of a training.

        It measures nothing and saves nothing before the end; ``evaluate`` does the one, the caller
        the other.

        Args:
            work_dir: folder for logs and checkpoints.
            name: of the run, a part of its folder's name.
            extra: keys to add or to replace.

        Raises:
            InputError: a GPU is asked for and absent.
        """
        made = {
            "benign_training": False,
            "batch_size": self.batch_size,
            "num_workers": self.num_workers,
            "lr": self.lr,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
            "schedule": list(self.milestones),
            "milestones": list(self.milestones),
            "gamma": self.gamma,
            "epochs": self.epochs,
            "log_iteration_interval": 100,
            "test_epoch_interval": self.epochs + 1,
            "save_epoch_interval": self.epochs + 1,
            "save_dir": str(work_dir),
            "experiment_name": name,
            "device": self.device,
        }
        if self.device == "GPU":
            visible = os.environ.get("CUDA_VISIBLE_DEVICES") or "0"
            made |= {"CUDA_SELECTED_DEVICES": min(visible.split(",")), "GPU_num": 1}
        made |= extra
        device_of(made)
        return made


def train_benign(
    model: nn.Module,
    dataset: Dataset[Any],
    training: ToolboxTraining,
    seed: int,
    report: Callable[[int, int, float], None] | None = None,
) -> None:
    """Train a classifier on clean images, in place, as the toolbox trains.

    Args:
        model: images as the data set gives them to logits ``[N, K]``.
        dataset: labelled images.
        training: how.
        seed: of the order of images and of what is random in the model.
        report: called after every step with (done, steps, loss).
    """
    home = next(model.parameters()).device
    device = device_of(training.schedule("", "benign"))
    optimizer = torch.optim.SGD(
        model.to(device).parameters(),
        training.lr,
        momentum=training.momentum,
        weight_decay=training.weight_decay,
    )
    steps = torch.optim.lr_scheduler.MultiStepLR(
        optimizer, list(training.milestones), training.gamma
    )
    loader = DataLoader(
        dataset, training.batch_size, shuffle=True, num_workers=training.num_workers
    )
    done = 0
    with isolated(seed):
        model.train()
        for _ in range(training.epochs):
            for images, labels in loader:
                optimizer.zero_grad()
                loss = F.cross_entropy(model(images.to(device)), labels.to(device))
                loss.backward()
                optimizer.step()
                done += 1
                if report is not None:
                    report(done, training.epochs * len(loader), loss.item())
            steps.step()
    model.zero_grad(set_to_none=True)
    model.to(home).eval()
