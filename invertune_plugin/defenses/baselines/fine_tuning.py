"""Fine-tuning on clean pairs with the contrastive loss alone (FT).

Baseline of CleanCLIP (Bansal et al. 2023, arXiv 2303.03323) and BadCLIP (Liang et al. 2024).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from invertune_plugin.defenses.repair import (
    DefenderData,
    Repaired,
    Report,
    Tuned,
    repaired_copy,
    steps_told,
)
from invertune_plugin.errors import InputError
from invertune_plugin.processes import ALONE, Processes
from invertune_plugin.training import Penalty, Schedule, TrainingConfig, train_contrastive


@dataclass(frozen=True)
class FineTuning:
    """How to fine-tune.

    Published for CLIPs of OpenAI's size (CleanCLIP's README): rate 1e-5, batches of 64, 10 epochs,
    50 steps of warm-up, weight decay 0.1, on 100,000 pairs. The rate here is for small CLIPs whose
    victims were tuned at 1e-3, and the warm-up a share, for sets of a thousand pairs.

    Attributes:
        epochs: passes over the pairs; not used where ``max_steps`` is set.
        batch_size: pairs per step.
        learning_rate: peak of the schedule (AdamW).
        weight_decay: of AdamW, on matrices only.
        warmup: share of the steps before the cosine to zero.
        max_steps: exactly so many steps.
        shift: random translation of up to so many pixels.
        flip: mirror half of the images.
        workers: processes that load images.
    """

    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 3e-4
    weight_decay: float = 0.1
    warmup: float = 0.1
    max_steps: int | None = None
    shift: int = 0
    flip: bool = False
    workers: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that train nothing, or that no training can take."""
        steps = self.epochs if self.max_steps is None else self.max_steps
        if steps < 1 or self.batch_size < 2:
            raise InputError(
                "Expected one epoch (or step) or more and batches of two or more, got "
                f"{steps} and {self.batch_size}. Leave them out for the defaults."
            )
        self.training(seed=0)

    def training(self, seed: int) -> TrainingConfig:
        """The same for ``train_contrastive``."""
        return TrainingConfig(
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            warmup=self.warmup,
            max_steps=self.max_steps,
            shift=self.shift,
            flip=self.flip,
            workers=self.workers,
            seed=seed,
        )


def fine_tuning(
    suspect: Any,
    data: DefenderData,
    config: FineTuning | None = None,
    seed: int = 0,
    report: Report | None = None,
    processes: Processes = ALONE,
) -> Repaired:
    """Fine-tune a copy of the suspect on the defender's pairs.

    Args:
        suspect: a ``ZeroShotClassifier``; it is not changed.
        data: gives the pairs.
        config: settings.
        seed: of everything random.
        report: called with sentences.
        processes: that tune together.

    Raises:
        InputError: there are no pairs, or the processes cannot share a batch.
    """
    settings = config or FineTuning()
    return tuned_on_pairs("fine_tuning", suspect, data, settings, seed, report, processes)


def tuned_on_pairs(
    name: str,
    suspect: Any,
    data: DefenderData,
    config: FineTuning,
    seed: int,
    report: Report | None,
    processes: Processes = ALONE,
    *,
    penalty_of: Callable[[Any], Penalty] | None = None,
    schedule: Schedule | None = None,
) -> Repaired:
    """A copy tuned with the contrastive loss and, where given, a penalty beside it.

    Args:
        name: of the defence.
        suspect: a ``ZeroShotClassifier``; it is not changed.
        data: gives the pairs.
        config: settings of the training.
        seed: of everything random.
        report: called with sentences.
        processes: that tune together.
        penalty_of: makes the penalty of the copy that is tuned.
        schedule: of the learning rate, instead of that of ``config``.
    """
    pairs = data.given_pairs(name, suspect)

    def tune(mine: Any, say: Report) -> Tuned:
        penalty = None if penalty_of is None else penalty_of(mine)
        losses: list[float] = []
        told = steps_told(name, say)

        def step(done: int, steps: int, loss: float) -> None:
            losses.append(loss)
            told(done, steps, loss)

        train_contrastive(
            mine,
            pairs,
            config.training(seed),
            report=step,
            penalty=penalty,
            schedule=schedule,
            processes=processes,
        )
        reason = f"Tuned all weights in {len(losses)} steps on {len(pairs)} clean pairs."
        evidence = {"steps": len(losses), "pairs": len(pairs)}
        return Tuned(mine, reason, evidence, losses=losses).if_finite(losses[-1])

    return repaired_copy(name, suspect, seed, report, tune, processes)
