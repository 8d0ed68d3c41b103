"""A poisoned labelled set with the classifier trained on it, and what purifiers find there."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from flare_attacks import ATTACKS, RATE, planted, poisoned, success
from flare_rows import Setting, command_of, described, detected, experiment, flat
from safetensors.torch import load_model, save_model

from invertune_plugin.adapters.data_root import data_file
from invertune_plugin.adapters.parquet import ParquetImages
from invertune_plugin.benchmark.classifiers import TOWERS, trained_classifier
from invertune_plugin.benchmark.detection import name_and_options
from invertune_plugin.benchmark.experiment.models import cached_path, to_be_made
from invertune_plugin.benchmark.record import merge_rows
from invertune_plugin.console import say, training_progress
from invertune_plugin.data import InMemory, Subset, content_sha256, in_memory
from invertune_plugin.defenses.purifiers import run_purifier
from invertune_plugin.files import replacing
from invertune_plugin.metrics import Rate, clean_accuracy
from invertune_plugin.outcome import Outcome

SIZE = 32


class Arena:
    """A poisoned set and the classifier that was trained on it."""

    def __init__(self, setting: Setting, device: torch.device) -> None:
        self.setting, self.device = setting, device
        source, attack, seed = setting.data, setting.attack, setting.seed
        train = ParquetImages(data_file(f"{source}-train.parquet"), SIZE)
        self.test = in_memory(ParquetImages(data_file(f"{source}-test.parquet"), SIZE))
        self.classes = len(train.class_names)
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        clean = in_memory(Subset(train, order[: setting.images or None].tolist()))
        self.poisoned = poisoned(clean, attack, self.classes, seed)
        self.train = clean if self.poisoned is None else in_memory(self.poisoned)
        self.truth = [] if self.poisoned is None else self.poisoned.poisoned
        self.made_of = {
            "data": source,
            "tower": setting.tower,
            "attack": attack,
            "images": setting.images,
            "rate": RATE,
            "planted": planted(attack),
            "content": content_sha256(clean),
            "seed": seed,
            "training": asdict(setting.training),
        }
        self.make = lambda: TOWERS[setting.tower](self.classes)
        self.model = self.trained(self.train, {"on": "all"})

    def trained(self, dataset: InMemory[int], on: dict[str, Any]) -> torch.nn.Module:
        """A classifier from the cache, or trained now."""
        path = cached_path("classifier", {**self.made_of, **on})
        model = self.make().to(self.device).eval()
        resume = path.with_suffix(".resume")
        with to_be_made(path) as missing, training_progress() as progress:
            if missing:
                made = trained_classifier(
                    self.make,
                    dataset,
                    self.setting.training,
                    self.setting.seed,
                    self.device,
                    resume,
                    progress(f"train {self.made_of['attack']}"),
                )
                with replacing(path) as temporary:
                    save_model(made, str(temporary))
                resume.unlink(missing_ok=True)
        load_model(model, path)
        return model

    def measured(self, by: str, retrain: bool) -> dict[str, Any]:
        """What a purifier finds, and what training on the rest gives."""
        start = time.perf_counter()
        name, options = name_and_options(by)
        found = run_purifier(name, self.model, self.train, options, self.setting.seed, say)
        row = {"seconds": round(time.perf_counter() - start, 1), **detected(found, self.truth)}
        row |= flat(self.before, "before")
        if not retrain or found.outcome is Outcome.FAILED:
            return row
        if self.poisoned is None:
            row["asr_of"] = self.misread
        if not found.poisoned:
            row |= flat(self.before, "after")
        else:
            removed = hashlib.sha256(repr(found.poisoned).encode()).hexdigest()
            rest = in_memory(Subset(self.train, found.kept))
            after = self.rates(self.trained(rest, {"on": "rest", "removed": removed}))
            row |= flat(after, "after")
        return row

    @cached_property
    def misread(self) -> dict[str, float]:
        """ASR of each attack on this network, which has not seen it: what no purifier undercuts."""
        rates = {}
        for name in ATTACKS:
            attack = poisoned(self.train, name, self.classes, self.setting.seed)
            if attack is not None:
                rates[name] = success(self.model, attack, self.test).value
        return rates

    @cached_property
    def before(self) -> dict[str, Rate]:
        """CA and ASR of the classifier that was trained on all."""
        return self.rates(self.model)

    def rates(self, model: torch.nn.Module) -> dict[str, Rate]:
        """CA and, under an attack, ASR on the test images that its rule counts."""
        found = {"ca": clean_accuracy(model, self.test)}
        if self.poisoned is not None:
            found["asr"] = success(model, self.poisoned, self.test)
        return found


def measure(
    setting: Setting, names: list[str], retrain: bool, device: torch.device, out: Path
) -> None:
    """Train on one set, or take it from the cache, and write a row for each purifier."""
    arena = Arena(setting, device)
    for by in names:
        row = {**described(setting, by, retrain), **arena.measured(by, retrain)}
        merge_rows(out, [row], experiment, command_of)
        say(json.dumps({k: row.get(k) for k in ("attack", "defense", "seed", "tpr", "fpr")}))
