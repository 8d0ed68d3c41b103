"""Clean models and victims of a recipe: trained once, then kept by the hash of what made them.

The code of other packages is part of that hash, and the version of this one; for its own code
``INVERTUNE_CACHE`` names a new folder.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from platformdirs import user_cache_path

from invertune_plugin import __version__
from invertune_plugin.adapters.open_clip import (
    LoadedClip,
    load_clip,
    save_clip,
    zero_shot_classifier,
)
from invertune_plugin.adapters.victim_cards import trigger_beside
from invertune_plugin.attacks.attack import backdoors_of, plant
from invertune_plugin.attacks.backdoors import Backdoor
from invertune_plugin.benchmark.experiment.made_of import code_of, data_of, described, plugged
from invertune_plugin.benchmark.experiment.recipe import Recipe, model_config
from invertune_plugin.benchmark.experiment.sources import Sources, source_of
from invertune_plugin.checkpoints import read_card
from invertune_plugin.data import PairSet
from invertune_plugin.processes import ALONE, Processes
from invertune_plugin.training import Report, TrainingConfig, train_contrastive
from invertune_plugin.triggers import load_trigger, save_trigger

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


@contextmanager
def to_be_made(path: Path, processes: Processes = ALONE) -> Iterator[bool]:
    """Whether a cached model is still to be made; who else wants it waits until the block ends.

    Args:
        path: of the model.
        processes: that make it together: the main one waits for the others' sake.
    """
    if processes.agree(path.is_file()):
        yield False
        return
    lock = cache_root() / "locks" / f"{path.stem}.lock"
    for folder in (path.parent, lock.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with FileLock(lock) if processes.is_main else nullcontext():
        yield not processes.agree(path.is_file())


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
    processes: Processes = ALONE,
) -> LoadedClip:
    """The clean CLIP of a recipe, from the cache or trained from random weights."""
    seed = recipe.seed_of_clean(seed)
    made_of = {
        "model": start.model_config,
        "clean": asdict(recipe.clean),
        "data": data_of(recipe.data),
        "seed": seed,
        **code_of(source_of(recipe.data.source)),
    }
    config = replace(recipe.clean, seed=seed)
    return _cached(
        "clean", made_of, start, lambda: sources.pairs("clean"), config, progress, processes
    )


def benign_model(
    recipe: Recipe,
    sources: Sources,
    clean: LoadedClip,
    seed: int,
    progress: Progress,
    processes: Processes = ALONE,
) -> LoadedClip:
    """The clean CLIP fine-tuned like a victim, on clean pairs: accuracies are held against it."""
    training = recipe.attack.training
    made_of = {
        "parent": clean.source_sha256,
        "data": data_of(recipe.data),
        "training": asdict(training),
        "seed": seed,
        **code_of(source_of(recipe.data.source)),
    }
    config = replace(training, seed=seed)
    return _cached(
        "benign", made_of, clean, lambda: sources.pairs("attack"), config, progress, processes
    )


@dataclass(frozen=True)
class LoadedVictim:
    """A victim and what was planted in it.

    Attributes:
        loaded: the model.
        backdoors: triggers and target words, the recipe's own first.
        seconds: that the attack took when it was made, crafting included, over all its legs where
            it was stopped and went on.
    """

    loaded: LoadedClip
    backdoors: tuple[Backdoor[str], ...]
    seconds: float


def victim_model(
    recipe: Recipe,
    sources: Sources,
    clean: LoadedClip,
    seed: int,
    progress: Progress,
    processes: Processes = ALONE,
) -> LoadedVictim:
    """The victim of a recipe, from the cache or made of the clean CLIP."""
    attack = recipe.attack
    made_of = {
        "parent": clean.source_sha256,
        "data": data_of(recipe.data),
        "attack": described(attack),
        "seed": seed,
        **code_of(*plugged(recipe)),
    }
    path = cached_path("victim", made_of)
    crafted = trigger_beside(path)
    with to_be_made(path, processes) as missing:
        if missing:
            names, device = sources.class_names, processes.device
            classifier = zero_shot_classifier(clean, names, sources.templates, device)
            resume = path.with_suffix(".resume")
            report = progress("train victim")
            pairs = sources.pairs("attack")
            images = sources.images("attack") if attack.needs_images else None
            made = plant(
                attack,
                classifier,
                pairs,
                images,
                seed,
                resume_path=resume,
                report=report,
                processes=processes,
            )
            about = {"role": "victim", "made_of": made_of, "version": __version__}
            if processes.is_main:
                if attack.trigger is None:
                    save_trigger(crafted, made.backdoors[0].trigger, overwrite=True)
                loaded = replace(clean, model=made.classifier.clip)
                save_clip(path, loaded, {**about, "seconds": round(made.seconds, 1)})
                resume.unlink(missing_ok=True)
            processes.wait()
    trigger = attack.trigger or load_trigger(crafted)
    backdoors = backdoors_of(attack, trigger, list(sources.class_names))
    return LoadedVictim(load_clip(None, path), backdoors, read_card(path)["seconds"])


def _cached(
    role: str,
    made_of: dict[str, Any],
    start: LoadedClip,
    pairs: Callable[[], PairSet],
    config: TrainingConfig,
    progress: Progress,
    processes: Processes,
) -> LoadedClip:
    """The model that ``made_of`` describes: loaded, or trained from ``start``, or resumed."""
    path = cached_path(role, made_of)
    with to_be_made(path, processes) as missing:
        if missing:
            resume = path.with_suffix(".resume")
            trained = replace(start, model=copy.deepcopy(start.model))
            classifier = zero_shot_classifier(trained, ("this", "that"), ("{}",), processes.device)
            report = progress(f"train {role}")
            train_contrastive(
                classifier, pairs(), config, resume_path=resume, report=report, processes=processes
            )
            if processes.is_main:
                save_clip(path, trained, {"role": role, "made_of": made_of, "version": __version__})
                resume.unlink(missing_ok=True)
            processes.wait()
    return load_clip(None, path)
