"""How a CLIP is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from invertune_plugin.errors import InputError, refuse_negative


@dataclass(frozen=True)
class TrainingConfig:
    """How to train.

    Attributes:
        epochs: passes over the pairs; not used where ``max_steps`` is set.
        batch_size: pairs per step, over all processes.
        learning_rate: peak of the schedule (AdamW).
        weight_decay: of AdamW, on matrices only.
        warmup: share of the steps in which the rate rises linearly; then a cosine to zero.
        max_steps: exactly so many steps, over as many epochs as they take.
        shift: random translation of up to so many pixels.
        flip: mirror half of the images.
        freeze: a tower that is not trained.
        workers: processes that load images, beside each training process.
        seed: of the order of pairs, the choice of captions and the augmentation.
    """

    epochs: int = 5
    batch_size: int = 256
    learning_rate: float = 3e-3
    weight_decay: float = 0.1
    warmup: float = 0.2
    max_steps: int | None = None
    shift: int = 0
    flip: bool = False
    freeze: Literal["none", "text", "image"] = "none"
    workers: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that no training can take."""
        steps = self.epochs if self.max_steps is None else self.max_steps
        least = {"epochs or max_steps": steps, "shift": self.shift, "workers": self.workers}
        for name, value in {**least, "weight_decay": self.weight_decay}.items():
            refuse_negative(name, value)
        if self.batch_size < 1 or not 0 < self.learning_rate < math.inf:
            raise InputError(
                "Expected batches of one or more and a positive learning rate, got "
                f"{self.batch_size} and {self.learning_rate}. Leave them out for the defaults."
            )
        if not 0 <= self.warmup <= 1:
            raise InputError(
                f"Expected a warm-up share from 0 to 1, got {self.warmup}. Write 0.2 for a fifth "
                "of the steps."
            )
