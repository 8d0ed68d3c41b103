"""A victim of a grid with all that its cells work with, from the cache of models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from invertune_plugin.adapters.open_clip import LoadedClip, zero_shot_classifier
from invertune_plugin.attacks.backdoors import Backdoor
from invertune_plugin.benchmark.bench.settings import recipe_in
from invertune_plugin.benchmark.experiment.made_of import described
from invertune_plugin.benchmark.experiment.models import Progress, benign_model
from invertune_plugin.benchmark.experiment.recipe import Recipe
from invertune_plugin.benchmark.experiment.sources import Sources, TestSet
from invertune_plugin.benchmark.experiment.victims import CLEAN, build_clean, build_victim
from invertune_plugin.benchmark.grid.cells import Say
from invertune_plugin.data import PairSet
from invertune_plugin.defenses.repair import steps_told
from invertune_plugin.errors import InputError
from invertune_plugin.triggers import Patch
from invertune_plugin.zero_shot import ZeroShotClassifier


@dataclass(frozen=True)
class Opened:
    """Everything that the cells of one victim work with.

    Attributes:
        recipe: data, clean model and attack.
        sources: the data.
        tests: evaluation sets, the main one first.
        clean: the clean model.
        suspect: the victim, or the clean model where nothing is attacked.
        backdoors: the attack's own first; where nothing is attacked, the one that the recipe
            would plant.
        seconds: that the attack took.
        sha256: of the file of the victim, or of the clean model where nothing is attacked.
    """

    recipe: Recipe
    sources: Sources
    tests: list[TestSet]
    clean: ZeroShotClassifier
    suspect: ZeroShotClassifier
    backdoors: tuple[Backdoor[str], ...]
    seconds: float
    sha256: str | None

    @property
    def backdoor(self) -> Backdoor[str]:
        """The attack's own, which is shown, and which detectors are measured with."""
        return self.backdoors[0]

    @cached_property
    def captioned_test(self) -> PairSet:
        """Pairs of the evaluation."""
        return self.sources.captioned_test()


def open_victim(settings: Mapping[str, Any], report: Say) -> Opened:
    """The victim of a cell's settings, or the clean model; made where the cache has it not.

    Raises:
        InputError: a file that the attack names has changed since the cell was planned.
    """
    if settings["attack"] == CLEAN:
        return _open_clean(settings, report)[0]
    recipe, seed = recipe_in(settings), settings["seed"]
    planned = json.dumps(settings["made_of"], sort_keys=True)
    if json.dumps(described(recipe.attack), sort_keys=True) != planned:
        raise InputError(
            f"Expected the files of attack {settings['attack']} as they were when the cell was "
            "planned, got other ones. Run the grid again to plan anew."
        )
    built = build_victim(recipe, seed, told(report))
    return Opened(
        recipe,
        built.sources,
        built.sources.tests(),
        built.classifier(built.clean),
        built.classifier(built.victim.loaded),
        built.victim.backdoors,
        built.victim.seconds,
        built.victim.loaded.source_sha256,
    )


def open_trained(settings: Mapping[str, Any], report: Say) -> Opened:
    """As ``open_victim``, but in place of the clean model itself one that its pairs have trained.

    The clean model has not seen the attacker's pairs; fine-tuned on them as they are, it is what
    a search of clean training pairs has to leave alone.
    """
    if settings["attack"] != CLEAN:
        return open_victim(settings, report)
    opened, clean = _open_clean(settings, report)
    sources = opened.sources
    benign = benign_model(opened.recipe, sources, clean, settings["seed"], told(report))
    suspect = zero_shot_classifier(benign, sources.class_names, sources.templates)
    return replace(opened, suspect=suspect)


def _open_clean(settings: Mapping[str, Any], report: Say) -> tuple[Opened, LoadedClip]:
    """The clean model as the suspect, and as it was loaded."""
    recipe = recipe_in(settings)
    sources, loaded = build_clean(recipe, settings["seed"], told(report))
    clean = zero_shot_classifier(loaded, sources.class_names, sources.templates)
    backdoor = Backdoor(recipe.attack.trigger or Patch(), recipe.attack.target)
    tests, sha256 = sources.tests(), loaded.source_sha256
    return Opened(recipe, sources, tests, clean, clean, (backdoor,), 0.0, sha256), loaded


def told(report: Say) -> Progress:
    """Sentences in the log of a cell in place of a bar."""
    return lambda what: steps_told(what, report)
