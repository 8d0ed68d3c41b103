"""What a recipe is given, what it gives back, and the part that most recipes share."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from invertune_plugin.adapters.backdoorbox.folders import ToolboxData, trigger_index
from invertune_plugin.adapters.backdoorbox.networks import fit_attack
from invertune_plugin.adapters.backdoorbox.training import ToolboxTraining
from invertune_plugin.errors import InputError


@dataclass(frozen=True)
class Attacked:
    """What an attack made.

    Attributes:
        model: the victim, of the type of the given model and on its device, in eval mode.
        train: the poisoned training set; None where the attack makes its images anew at every step.
        test: the test images with the trigger, in their order. Labels are the target.
        poisoned_indices: which images of ``train`` are poisoned; None without ``train``.
        sources: the only classes that the trigger is meant for; None for all.
        seconds: for poisoning and training.
    """

    model: nn.Module
    train: Dataset[Any] | None
    test: Dataset[Any]
    poisoned_indices: tuple[int, ...] | None = None
    sources: tuple[int, ...] | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Job:
    """One attack on one model.

    Attributes:
        core: the toolbox.
        name: of the attack's class.
        data: clean images.
        model: a copy of the caller's model, on the CPU.
        target: class index that the trigger leads to.
        rate: poisoned share.
        seed: of everything random.
        training: of the victim.
        work_dir: the only folder to write to.
    """

    core: ModuleType
    name: str
    data: ToolboxData
    model: nn.Module
    target: int
    rate: float
    seed: int
    training: ToolboxTraining
    work_dir: Path

    def schedule(self, **extra: Any) -> dict[str, Any]:
        """The toolbox's schedule, with keys to add or to replace."""
        return self.training.schedule(self.work_dir, self.name, **extra)

    def build(self, **arguments: Any) -> Any:
        """The attack itself, on copies of the data sets, fitted to the model."""
        shared = {
            "train_dataset": copy.copy(self.data.train),
            "test_dataset": copy.copy(self.data.test),
            "model": self.model,
            "loss": nn.CrossEntropyLoss(),
            "y_target": self.target,
            "seed": self.seed,
        }
        return fit_attack(getattr(self.core, self.name)(**(shared | arguments)))

    def build_poisoner(self, *, as_tensor: bool = False, **arguments: Any) -> Any:
        """An attack that poisons folders.

        Args:
            as_tensor: the trigger is put on tensors, not on PIL images.
            arguments: of the attack, beside those that all of this kind take.
        """
        shared = {
            "poisoned_rate": self.rate,
            "poisoned_transform_train_index": trigger_index(self.data.train, as_tensor),
            "poisoned_transform_test_index": trigger_index(self.data.test, as_tensor),
        }
        return self.build(**(shared | arguments))

    def train(self, poisoner: Any) -> Attacked:
        """Train the victim on the folder that such an attack has poisoned."""
        poisoner.train(self.schedule())
        train, test = poisoner.get_poisoned_dataset()
        poisoned = tuple(sorted(int(index) for index in train.poisoned_set))
        return Attacked(poisoner.get_model(), train, test, poisoned)

    def require_multiple(self, side: int) -> None:
        """Refuse images that the attack's own networks cannot halve often enough.

        Raises:
            InputError: the image size is no multiple of ``side``.
        """
        if self.data.image_size % side:
            raise InputError(
                f"Expected an image size that is a multiple of {side} for {self.name}, got "
                f"{self.data.image_size}. Resize the images with toolbox_folder(root, image_size)."
            )

    def victims(self) -> int:
        """Number of training images of the target class."""
        return int(sum(label == self.target for label in self.data.train.targets))
