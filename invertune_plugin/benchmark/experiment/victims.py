"""Victims worth defending against: an attack from ``configs/victims`` on the model of a recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from invertune_plugin.adapters.open_clip import LoadedClip, zero_shot_classifier
from invertune_plugin.attacks.attack import AttackConfig, chosen_pairs
from invertune_plugin.attacks.backdoors import Backdoor
from invertune_plugin.benchmark.experiment.models import (
    LoadedVictim,
    Progress,
    clean_model,
    initial_model,
    victim_model,
)
from invertune_plugin.benchmark.experiment.recipe import (
    DataConfig,
    Recipe,
    recipe_path,
    recipe_settings,
    shipped_recipes,
)
from invertune_plugin.benchmark.experiment.sources import Sources, Use, build_sources, source_of
from invertune_plugin.config import nearest, parse, read_yaml
from invertune_plugin.data import PairSet
from invertune_plugin.errors import InputError
from invertune_plugin.processes import ALONE, Processes
from invertune_plugin.zero_shot import ZeroShotClassifier

ANY_SIZE = 64
GROUP = "victims"
CLEAN = "none"
"""What tables call the attack of a model that nothing was planted in."""


def shipped_victims() -> list[str]:
    """Names of the attacks that come with the package."""
    return shipped_recipes(GROUP)


def victim_recipe(victim: str | Path, base: str | Path) -> Recipe:
    """A recipe with another attack.

    Args:
        victim: name of a shipped attack, or a YAML file with settings of an ``AttackConfig``. It
            may leave out target, rate and training; those of the recipe hold then.
        base: name or path of the recipe that gives data, clean model, target and training.

    Raises:
        InputError: there is no such attack or recipe, or it holds a mistake.
    """
    return parse(Recipe, victim_settings(victim, base))


def victim_settings(victim: str | Path, base: str | Path) -> dict[str, Any]:
    """The settings of ``victim_recipe``, which are not checked yet.

    Raises:
        InputError: there is no such attack or recipe, or one of them is no YAML mapping.
    """
    path = recipe_path(victim, GROUP, "victim")
    attack, raw = read_yaml(path), recipe_settings(base)
    training = _mapping(attack.pop("training", {}), "a training", path)
    own = _mapping(raw.get("attack", {}), "an attack", base)
    kept = {key: own[key] for key in ("target", "rate") if key in own}
    training = _mapping(own.get("training", {}), "a training", base) | training
    attack = kept | attack | {"training": training}
    return raw | {"attack": attack, "name": f"{raw.get('name')}-{path.stem}"}


def _mapping(values: Any, what: str, where: str | Path) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise InputError(
            f"Expected settings of {what} in {where}, got {values!r}. Write key: value."
        )
    return values


@dataclass(frozen=True)
class BuiltVictim:
    """A victim with all that it was made of.

    Attributes:
        recipe: clean model, data and attack.
        sources: the data.
        clean: the clean model.
        victim: the victim and its backdoors.
    """

    recipe: Recipe
    sources: Sources
    clean: LoadedClip
    victim: LoadedVictim

    def classifier(self, model: LoadedClip, processes: Processes = ALONE) -> ZeroShotClassifier:
        """One of the two models with the classes of the data."""
        names, templates = self.sources.class_names, self.sources.templates
        return zero_shot_classifier(model, names, templates, processes.device)


def build_victim(
    recipe: Recipe, seed: int, progress: Progress, processes: Processes = ALONE
) -> BuiltVictim:
    """A victim from the cache, or made now; it goes on where it was stopped.

    Args:
        recipe: from ``victim_recipe`` or ``load_recipe``.
        seed: of attack and, where the recipe does not fix it, the clean model.
        progress: makes a progress report for a training.
        processes: that train together; one of them saves.

    Raises:
        InputError: a target is no class of the data, or the data do not allow the attack.
    """
    sources, clean = build_clean(recipe, seed, progress, processes)
    victim = victim_model(recipe, sources, clean, seed, progress, processes)
    return BuiltVictim(recipe, sources, clean, victim)


def build_clean(
    recipe: Recipe, seed: int, progress: Progress, processes: Processes = ALONE
) -> tuple[Sources, LoadedClip]:
    """The data of a recipe, and its clean model from the cache or made now.

    Args:
        recipe: data, clean model, and the attack that they are for.
        seed: of attack and, where the recipe does not fix it, the clean model.
        progress: makes a progress report for a training.
        processes: that train together; one of them saves.

    Raises:
        InputError: a target is no class of the data; nothing has been trained then.
    """
    start = initial_model(recipe, seed)
    sources = build_sources(recipe.data, start.image_size, seed, recipe.seed_of_clean(seed))
    _refuse_unknown_targets(recipe.attack, sources.class_names)
    return sources, clean_model(recipe, start, sources, seed, progress, processes)


def poisoned_rate(
    attack: AttackConfig,
    backdoors: Sequence[Backdoor[str]],
    pairs: PairSet,
    templates: Sequence[str],
    seed: int,
) -> float:
    """Share of the attacker's pairs that carry a trigger; 0 where the encoder alone is trained."""
    if attack.encoder is not None:
        return 0.0
    return len(chosen_pairs(attack, backdoors, pairs, templates, seed).poisoned) / len(pairs)


def why_not(recipe: Recipe, uses: Sequence[Use] = ("training",)) -> str | None:
    """Why a recipe cannot be run here, told before anything is trained.

    Its data are absent, or a target is none of their classes.
    """
    try:
        for use in uses:
            source_of(recipe.data.source).files(recipe.data, use)
        _refuse_unknown_targets(recipe.attack, _class_names(recipe.data))
    except InputError as error:
        return str(error)
    except Exception:  # a fault in a package's own code, which the cell tells with its traceback
        return None
    return None


@lru_cache
def _class_names(data: DataConfig) -> tuple[str, ...]:
    """Classes of data; a class of data that knows them only with its images is made for that."""
    source = source_of(data.source)
    known: tuple[str, ...] | None = getattr(source, "class_names", None)
    return known or source(data, ANY_SIZE, 0, 0).class_names


def _refuse_unknown_targets(attack: AttackConfig, class_names: Sequence[str]) -> None:
    for target in (attack.target, *(planted.target for planted in attack.also)):
        if target is not None and target not in class_names:
            raise InputError(
                f"Expected a target among the {len(class_names)} classes of the recipe, got "
                f"{target!r}. {nearest(target, class_names)}"
            )
