"""Settings of clean models and victims in a grid: whole recipes, so that no file is read twice.

What shapes a cell is in its key, wherever files lie and whatever becomes of them while it waits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from invertune_plugin.benchmark.experiment.made_of import data_of, described, digests_of
from invertune_plugin.benchmark.experiment.recipe import (
    MODEL_CONFIG,
    DataConfig,
    Recipe,
    is_yaml,
    model_config,
    recipe_settings,
)
from invertune_plugin.benchmark.experiment.sources import Metric, Use
from invertune_plugin.benchmark.experiment.victims import CLEAN, victim_settings
from invertune_plugin.config import parse
from invertune_plugin.errors import InputError

SHAPING = ("model", "data", "clean", "clean_seed", "attack")
"""Parts of a recipe that clean model and victim are made of."""


def recipe_in(settings: Mapping[str, Any]) -> Recipe:
    """The recipe that the settings of a cell hold."""
    return parse(Recipe, settings["recipe"])


def settings_of_victim(attack: str, base: str, seed: int) -> dict[str, Any]:
    """Settings of a victim, or where the attack is ``none`` of the clean model in its place.

    Args:
        attack: name or YAML file of a victim, or ``none``.
        base: name or YAML file of the recipe.
        seed: of the attack.

    Raises:
        InputError: there is no such attack or recipe, or it holds a mistake.
    """
    raw = _shaping(recipe_settings(base) if attack == CLEAN else victim_settings(attack, base))
    recipe = parse(Recipe, raw)
    return {
        "base": Path(base).stem,
        "tower": _tower_name(recipe.model),
        "attack": Path(attack).stem,
        "seed": seed,
        "recipe": raw,
        "made_of": described(recipe.attack),
        "given": {"shipped": not is_yaml(attack)},
    }


def settings_of_clean(base: str, seed: int) -> dict[str, Any]:
    """Settings of the clean model of a recipe, which are the same for all attacks.

    Args:
        base: name or YAML file of the recipe.
        seed: of the attack.

    Raises:
        InputError: there is no such recipe, or it holds a mistake.
    """
    raw = _shaping(recipe_settings(base))
    recipe = parse(Recipe, raw)
    config = Path(model_config(recipe.model))
    unplanted = {"target": recipe.attack.target, "trigger": {"kind": "patch"}}
    made_of = {
        "model": json.loads(config.read_text("utf-8")) if config.is_file() else recipe.model,
        "data": _data(recipe.data),
        "clean": asdict(recipe.clean),
    }
    return {
        "base": Path(base).stem,
        "tower": _tower_name(recipe.model),
        "seed": recipe.seed_of_clean(seed),
        "recipe": raw | {"attack": unplanted | {"training": {}}},
        "made_of": made_of,
    }


def measuring(settings: Mapping[str, Any], metrics: Sequence[Metric]) -> dict[str, Any]:
    """Settings of what is measured of a victim, with the content of the files for that."""
    data = recipe_in(settings).data
    tests = {metric: files for metric in metrics if (files := _digests(data, metric))}
    return {"metrics": list(metrics)} | ({"tests": tests} if tests else {})


def _data(data: DataConfig) -> dict[str, Any]:
    """What the data are; files that are absent, so that nothing runs, are not told apart."""
    try:
        return data_of(data)
    except InputError:
        return asdict(data)


def _digests(data: DataConfig, use: Use) -> list[str]:
    try:
        return digests_of(data, use)
    except InputError:
        return []


def _shaping(raw: Mapping[str, Any]) -> dict[str, Any]:
    return {"name": raw.get("name")} | {key: raw[key] for key in SHAPING if key in raw}


def _tower_name(model: str) -> str:
    return Path(model).stem if Path(model).suffix == MODEL_CONFIG else model
