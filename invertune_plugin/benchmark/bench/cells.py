"""The cells of ``invertune bench``: clean models, victims, repairs, and how they hang together."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import product
from typing import Any

import torch

from invertune_plugin.adapters.backdoorbox.defenses.limits import NO_TRAINING_SET
from invertune_plugin.adapters.backdoorbox.defenses.recipe import why_not
from invertune_plugin.adapters.backdoorbox.locate import HOME, TESTED_COMMIT, Clone, find_clone
from invertune_plugin.adapters.backdoorbox.staged import staged
from invertune_plugin.adapters.open_clip import load_clip, zero_shot_classifier
from invertune_plugin.benchmark.bench.defenses import in_toolbox, purifier_in
from invertune_plugin.benchmark.bench.purify import compute_purified
from invertune_plugin.benchmark.bench.recipe import BenchRecipe
from invertune_plugin.benchmark.bench.repair import compute_repair
from invertune_plugin.benchmark.bench.settings import (
    measuring,
    recipe_in,
    settings_of_clean,
    settings_of_victim,
)
from invertune_plugin.benchmark.bench.toolbox import compute_toolbox
from invertune_plugin.benchmark.bench.victim import compute_clean, compute_victim
from invertune_plugin.benchmark.experiment import victims
from invertune_plugin.benchmark.experiment.made_of import plugged
from invertune_plugin.benchmark.experiment.recipe import model_config
from invertune_plugin.benchmark.experiment.sources import source_of
from invertune_plugin.benchmark.grid.cells import Cell, Kind
from invertune_plugin.defenses.baselines import baseline_of
from invertune_plugin.defenses.purifiers import purifier_of
from invertune_plugin.errors import InputError
from invertune_plugin.plugins import packages_of
from invertune_plugin.zero_shot import ZeroShotClassifier


def bench_cells(bench: BenchRecipe) -> Iterator[Cell]:
    """The repairs of a grid; clean models and victims are their parents."""
    kinds = {defense: _kind(defense) for defense in bench.defenses}
    known = {
        (base, attack): settings_of_victim(attack, base, bench.seeds[0])
        for base in bench.recipes
        for attack in bench.attacks
    }
    cleans = {(base, s): _clean(base, s) for base in bench.recipes for s in bench.seeds}
    toolbox = {"toolbox": _toolbox_version()} if any(map(in_toolbox, bench.defenses)) else {}
    for seed, ((base, _), victim_settings) in product(bench.seeds, known.items()):
        kind = _with_code(VICTIM, *plugged(recipe_in(victim_settings)))
        measured = measuring(victim_settings, bench.metrics) | {"rebound": bench.rebound}
        settings = victim_settings | measured | {"seed": seed}
        victim = Cell(kind, settings, (cleans[base, seed],))
        for defense, options in bench.defenses.items():
            settings = {"defense": defense, "options": options}
            if in_toolbox(defense):
                settings["made_of"] = toolbox
            yield Cell(kinds[defense], settings, (victim,))


def _impossible(cell: Cell) -> str | None:
    """Why a defence cannot work on a victim, told before anything is trained."""
    victim, defense = cell.parents[0].settings, cell.settings["defense"]
    poisons = "encoder" not in victim["made_of"]
    if (purifier := purifier_in(defense)) is not None:
        return purifier_of(purifier).why_not() if poisons else NO_TRAINING_SET
    name = in_toolbox(defense)
    if name is None:
        return baseline_of(defense).why_not(_tower(victim["recipe"]["model"]))
    try:
        _clone(os.environ.get(HOME))
    except InputError as error:
        return str(error)
    return _toolbox_limit(name, victim["recipe"]["model"], poisons)


@lru_cache
def _toolbox_limit(name: str, tower: str, trained_on_images: bool) -> str | None:
    """Why a defence of the toolbox cannot work; some limits are told by running the tower."""
    suspect = _tower(tower)
    try:
        model = staged(suspect)
    except InputError as error:
        return str(error)
    return why_not(name, model, suspect.image_size, trained_on_images=trained_on_images)


@lru_cache
def _tower(model: str) -> ZeroShotClassifier:
    """One network per architecture, whatever its weights; a grid asks for it a thousand times."""
    with torch.random.fork_rng(devices=[]):
        return zero_shot_classifier(load_clip(model_config(model)), ("this", "that"), ("{}",))


@lru_cache
def _clone(_: str | None) -> Clone:
    """The clone of the toolbox, whose home is named; git is asked once."""
    return find_clone()


def _toolbox_version() -> str:
    """The commit of the clone, or the one that is tested with where there is none yet.

    What no commit tells, as an archive or changed files, is told by its files.
    """
    try:
        clone = _clone(os.environ.get(HOME))
    except InputError:
        return TESTED_COMMIT
    commit = (clone.commit or "unknown")[: len(TESTED_COMMIT)]
    if clone.commit is not None and not clone.dirty:
        return commit
    digest = hashlib.sha256()
    for path in sorted((clone.path / "core").rglob("*.py")):
        digest.update(path.read_bytes())
    return f"{commit}+{digest.hexdigest()[:12]}"


def _unrunnable(cell: Cell) -> str | None:
    """Why a model cannot be made or measured, told before anything is trained."""
    return victims.why_not(
        recipe_in(cell.settings), ("training", *cell.settings.get("metrics", ()))
    )


CLEAN_MODEL = Kind("clean", compute_clean, impossible=_unrunnable, seconds=300)
VICTIM = Kind("victim", compute_victim, impossible=_unrunnable, seconds=60)
REPAIR = Kind("repair", compute_repair, impossible=_impossible, seconds=60)
TOOLBOX_REPAIR = Kind("repair", compute_toolbox, impossible=_impossible, seconds=60)
PURIFICATION = Kind("repair", compute_purified, impossible=_impossible, seconds=120)


def _kind(defense: str) -> Kind:
    if in_toolbox(defense):
        return TOOLBOX_REPAIR
    if purifier_in(defense) is not None:
        return PURIFICATION
    baseline = baseline_of(defense)
    return _with_code(REPAIR, baseline.run, baseline.config)


def _with_code(kind: Kind, *things: Any) -> Kind:
    """A kind whose results are also shaped by the code of other packages."""
    return replace(kind, code=(*kind.code, *packages_of(*things)))


def _clean(base: str, seed: int) -> Cell:
    settings = settings_of_clean(base, seed)
    kind = _with_code(CLEAN_MODEL, source_of(recipe_in(settings).data.source))
    return Cell(kind, settings)
