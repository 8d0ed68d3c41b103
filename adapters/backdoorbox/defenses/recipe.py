"""Every defence by its name in the toolbox, on any model, with numbers."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from torch import nn

from invertune_plugin.adapters.backdoorbox.defenses.detectors import flare, ibd_psc, scale_up
from invertune_plugin.adapters.backdoorbox.defenses.inputs import auto_encoder, refine, shrink_pad
from invertune_plugin.adapters.backdoorbox.defenses.job import Defended, Job, Suspicion
from invertune_plugin.adapters.backdoorbox.defenses.limits import (
    NO_TRAINING_SET,
    Limit,
    needs_batch_norm,
    needs_maps,
    needs_sides,
    works_always,
)
from invertune_plugin.adapters.backdoorbox.defenses.repairs import (
    cut_mix,
    fine_tuning,
    inver_tune,
    mcr,
    nad,
    nothing,
    pruning,
)
from invertune_plugin.adapters.backdoorbox.defenses.retraining import abl
from invertune_plugin.adapters.backdoorbox.isolation import isolated
from invertune_plugin.adapters.backdoorbox.training import ToolboxTraining
from invertune_plugin.config import named
from invertune_plugin.errors import InputError

__all__ = [
    "DEFENSES",
    "Defended",
    "Recipe",
    "Suspicion",
    "check_options",
    "run_defense",
    "why_not",
]


@dataclass(frozen=True)
class Recipe:
    """How a defence is run.

    Attributes:
        run: takes a ``Job`` and its options by name.
        limit: why it cannot work on a model.
        trains_anew: it repeats the attacker's training, from the clean model (its option
            ``initial``) and as long; it does not repair.
        reads_training: it works on the suspect's training set.
    """

    run: Callable[..., Defended]
    limit: Limit = works_always
    trains_anew: bool = False
    reads_training: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """Names of its options."""
        return tuple(inspect.signature(self.run).parameters)[1:]


DEFENSES: Mapping[str, Recipe] = {
    "none": Recipe(nothing),
    "InverTune": Recipe(inver_tune),
    "FineTuning": Recipe(fine_tuning),
    "Pruning": Recipe(pruning, needs_maps),
    "NAD": Recipe(nad, needs_maps),
    "CutMix": Recipe(cut_mix),
    "ABL": Recipe(abl, trains_anew=True, reads_training=True),
    "MCR": Recipe(mcr),
    "ShrinkPad": Recipe(shrink_pad, needs_sides(least=8)),
    "AutoEncoderDefense": Recipe(auto_encoder, needs_sides(multiple=8)),
    "REFINE": Recipe(refine, needs_sides(least=16)),
    "SCALE_UP": Recipe(scale_up),
    "IBD_PSC": Recipe(ibd_psc, needs_batch_norm(2)),
    "FLARE": Recipe(flare, needs_batch_norm(1), reads_training=True),
}


def why_not(
    name: str, model: nn.Module, image_size: int | None = None, *, trained_on_images: bool = True
) -> str | None:
    """Why a defence cannot work on a model, in a sentence; None where it can.

    Args:
        name: a key of ``DEFENSES``.
        model: the suspect.
        image_size: side of its images; some limits depend on it and are not told without it.
        trained_on_images: whether its attack has a set of poisoned images with labels.

    Raises:
        InputError: there is no such defence.
    """
    recipe = named("defence", name, DEFENSES)
    if recipe.reads_training and not trained_on_images:
        return NO_TRAINING_SET
    return recipe.limit(model, image_size)


def check_options(name: str, options: Iterable[str]) -> None:
    """Refuse options that a defence does not have.

    Raises:
        InputError: there is no such defence, or one of the options is unknown.
    """
    known = named("defence", name, DEFENSES).options
    for option in options:
        if option not in known:
            raise InputError(
                f"Expected an option of {name} ({', '.join(known) or 'it has none'}), got "
                f"{option!r}. Correct or remove it."
            )


def run_defense(
    core: ModuleType,
    name: str,
    suspicion: Suspicion,
    *,
    target: int | None,
    seed: int,
    training: ToolboxTraining,
    work_dir: Path,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Defended:
    """Run a defence of the toolbox, or InverTune, or none.

    Model, data sets, global random state and environment come back as they were. What upstream
    prints goes to ``output.txt`` in ``work_dir``, where its own folders are, too.

    Args:
        core: what ``load_toolbox`` returned.
        name: a key of ``DEFENSES``.
        suspicion: what the defender has.
        target: the attack's target, for the check that it is a class; no defence is told it.
        seed: of everything random.
        training: how defences that train do it.
        work_dir: the only folder that is written to; made where it is absent.
        options: settings of the defence, see ``Recipe.options`` and the recipes.

    Returns:
        With ``impossible`` as ``outcome`` and the ``reason`` where it cannot work on the model.

    Raises:
        InputError: unknown defence or option, no such class, or data that this defence needs is
            missing.
    """
    recipe = named("defence", name, DEFENSES)
    check_options(name, options)
    if target is not None and not 0 <= target < len(suspicion.class_names):
        raise InputError(
            f"Expected a target from 0 to {len(suspicion.class_names) - 1}, got {target}. "
            "Give the index of the class, or None."
        )
    reason = why_not(name, suspicion.model, suspicion.image_size)
    if reason is not None:
        return Defended(None, outcome="impossible", reason=reason)
    work_dir = Path(work_dir).resolve()
    work_dir.mkdir(parents=True, exist_ok=True)
    job = Job(core, suspicion, training, seed, work_dir)
    start = time.perf_counter()
    with isolated(seed, work_dir / "output.txt"):
        found = recipe.run(job, **options)
    return replace(found, seconds=time.perf_counter() - start)
