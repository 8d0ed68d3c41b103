"""Does a repair last? ASR after benign fine-tuning on clean pairs that nobody has seen before."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

from invertune_plugin.benchmark.experiment.recipe import Recipe
from invertune_plugin.benchmark.experiment.sources import Sources
from invertune_plugin.data import Captions, Items, PairSet, Subset, mention, texts_of
from invertune_plugin.errors import InputError
from invertune_plugin.processes import ALONE, Processes
from invertune_plugin.training import Report, train_contrastive
from invertune_plugin.zero_shot import ZeroShotClassifier


def fine_tuned(
    classifier: ZeroShotClassifier,
    recipe: Recipe,
    sources: Sources,
    seed: int,
    *,
    without_target: bool = False,
    report: Report | None = None,
    processes: Processes = ALONE,
) -> ZeroShotClassifier:
    """A copy after benign contrastive steps at a fifth of the victim's peak learning rate.

    Args:
        classifier: the repaired model; not changed.
        recipe: gives steps, optimiser settings and target.
        sources: gives the clean pairs.
        seed: of the training.
        without_target: leave out pairs whose captions name the target.
        report: progress of the training.
        processes: that train together.

    Raises:
        InputError: the training diverged, so that nothing can be said about the repair.
    """
    pairs = sources.pairs("rebound")
    if without_target:
        pairs = _not_naming(pairs, recipe.attack.target)
    victim = recipe.attack.training
    config = replace(
        victim, max_steps=recipe.rebound_steps, learning_rate=victim.learning_rate / 5, seed=seed
    )
    tuned = copy.deepcopy(classifier)
    last = 0.0

    def step(done: int, steps: int, loss: float) -> None:
        nonlocal last
        last = loss
        if report is not None:
            report(done, steps, loss)

    train_contrastive(tuned, pairs, config, report=step, processes=processes)
    if not math.isfinite(last):
        raise InputError(
            f"Expected benign fine-tuning to converge, got a loss of {last}. Lower the learning "
            f"rate of the attack's training, {victim.learning_rate:g}."
        )
    return tuned


def _not_naming(pairs: Items[Captions], word: str) -> PairSet:
    kept = [i for i, captions in enumerate(texts_of(pairs)) if not mention(captions, word)]
    return Subset(pairs, kept)
