"""Clean models and victims of a recipe: trained once, then kept by the hash of what made them."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path

from invertune_plugin import __version__
from invertune_plugin.adapters.open_clip import (
    LoadedClip,
    load_clip,
    save_clip,
    zero_shot_classifier,
)
from invertune_plugin.attacks.poisoning import PoisonedPairs
from invertune_plugin.benchmark.recipe import Recipe, model_config
from invertune_plugin.benchmark.sources import Sources
from invertune_plugin.data import PairSet
from invertune_plugin.training import Report, TrainingConfig, train_contrastive

Progress = Callable[[str], Report]


def cache_root() -> Path:
    """The folder for trained models: ``INVERTUNE_CACHE``, or the user's cache folder."""
    named = os.environ.get("INVERTUNE_CACHE")
    return Path(named) if named else user_cache_path("invertune")


def cached_path(role: str, made_of: Mapping[str, Any]) -> Path:
    """The cached file of a model, named by the hash of what it is made of (JSON values)."""
    text = json.dumps({"role": role, "version": __version__, **made_of}, sort_keys=True)
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    return cache_root() / "models" / f"{role}-{key}.safetensors"


def initial_model(recipe: Recipe, seed: int) -> LoadedClip:
    """The CLIP of a recipe with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed_of_clean(seed))
        return load_clip(model_config(recipe.model))


def clean_model(
    recipe: Recipe,
    start: LoadedClip,
    sources: Sources,
    seed: int,
    progress: Progress,
    device: str = "cpu",
) -> LoadedClip:
    """The clean CLIP of a recipe, from the cache or trained from random weights."""
    seed = recipe.seed_of_clean(seed)
    made_of = {
        "model": start.model_config,
        "clean": asdict(recipe.clean),
        "data": asdict(recipe.data),
        "seed": seed,
    }
    config = replace(recipe.clean, seed=seed)
    return _cached(
        "clean", made_of, start, lambda: sources.pairs("clean"), config, progress, device
    )


def victim_model(
    recipe: Recipe,
    sources: Sources,
    clean: LoadedClip,
    seed: int,
    progress: Progress,
    device: str = "cpu",
) -> LoadedClip:
    """The clean CLIP fine-tuned on poisoned pairs, from the cache or trained."""
    attack = recipe.attack
    made_of = {
        "parent": clean.source_sha256,
        "data": asdict(recipe.data),
        "trigger": attack.trigger.parameters(),
        "target": attack.target,
        "rate": attack.rate,
        "training": asdict(attack.training),
        "seed": seed,
    }

    def poisoned() -> PairSet:
        return PoisonedPairs(
            sources.pairs("attack"),
            attack.trigger,
            attack.target,
            attack.rate,
            sources.templates,
            seed,
        )

    config = replace(attack.training, seed=seed)
    return _cached("victim", made_of, clean, poisoned, config, progress, device)


def _cached(
    role: str,
    made_of: dict[str, Any],
    start: LoadedClip,
    pairs: Callable[[], PairSet],
    config: TrainingConfig,
    progress: Progress,
    device: str,
) -> LoadedClip:
    """The model that ``made_of`` describes: loaded, or trained from ``start``, or resumed."""
    path = cached_path(role, made_of)
    if not path.is_file():
        resume = path.with_suffix(".resume")
        trained = replace(start, model=copy.deepcopy(start.model))
        classifier = zero_shot_classifier(trained, ("this", "that"), ("{}",), device)
        train_contrastive(
            classifier, pairs(), config, resume_path=resume, report=progress(f"train {role}")
        )
        save_clip(path, trained, {"role": role, "made_of": made_of, "version": __version__})
        resume.unlink(missing_ok=True)
    return load_clip(None, path)
