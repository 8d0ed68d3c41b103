"""Purifiers of labelled sets: what they find of each attack, and what training on the rest gives.

    python benchmarks/flare.py --data cifar10 --attack none --attack a2o-badnets --seed 0 --retrain

trains a network on each poisoned set (kept in the cache, goes on where it was stopped), runs
every purifier on it and writes ``benchmarks/results/flare.json``, each row as soon as it is done.
Rows that are there already are not made again, unless ``--again``. ``--images`` and ``--epochs``
size the training: a full CIFAR-10 run wants a GPU.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from flare_attacks import ATTACKS, RATE, planted, poisoned, success
from safetensors.torch import load_model, save_model

from invertune_plugin.adapters.data_root import data_file
from invertune_plugin.adapters.parquet import ParquetImages
from invertune_plugin.benchmark.classifiers import (
    TOWERS,
    ClassifierTraining,
    trained_classifier,
)
from invertune_plugin.benchmark.detection import name_and_options, search_fields
from invertune_plugin.benchmark.models import cached_path, to_be_made
from invertune_plugin.benchmark.record import Rows, merge_rows, rate_fields
from invertune_plugin.console import say, training_progress
from invertune_plugin.data import InMemory, Subset, content_sha256, in_memory
from invertune_plugin.defenses.purifiers import PURIFIERS, Purified, run_purifier
from invertune_plugin.devices import pick_device
from invertune_plugin.errors import InputError
from invertune_plugin.files import replacing
from invertune_plugin.metrics import Rate, clean_accuracy

RESULTS = Path(__file__).parent / "results" / "flare.json"
SIZE = 32


def main(
    data: Annotated[list[str], typer.Option(help="cifar10 or gtsrb; may be repeated.")],
    attack: Annotated[list[str], typer.Option(help=", ".join(ATTACKS))] = [],  # noqa: B006
    purifier: Annotated[list[str], typer.Option(help="Those of labelled sets.")] = [],  # noqa: B006
    seed: Annotated[list[int], typer.Option(help="May be repeated.")] = [0],  # noqa: B006
    tower: Annotated[str, typer.Option(help=", ".join(TOWERS))] = "resnet18",
    images: Annotated[int, typer.Option(help="Training images, drawn by the seed; 0 for all.")] = 0,
    epochs: Annotated[int, typer.Option(help="Of each training.")] = 30,
    bfloat16: Annotated[bool, typer.Option(help="Train in bfloat16.")] = False,
    retrain: Annotated[bool, typer.Option(help="Train again on what is left.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    again: Annotated[bool, typer.Option(help="Make rows again that are there.")] = False,
    out: Annotated[Path, typer.Option(help="Result file.")] = RESULTS,
) -> None:
    """Measure purifiers, one row per data set, attack, purifier and seed."""
    if tower not in TOWERS:
        raise InputError(f"Expected a tower among {', '.join(TOWERS)}, got {tower!r}.")
    place = pick_device(device)
    training = ClassifierTraining(epochs=epochs, bfloat16=bfloat16)
    here = set() if again else {experiment(row) for row in rows_of(out)}
    names = purifier or [n for n, kind in PURIFIERS.items() if "captions" not in kind.needs]
    for number in seed:
        for source in data:
            for name in attack or ATTACKS:
                arena: Arena | None = None
                for by in names:
                    row = described(source, tower, name, by, number, images, training, retrain)
                    if experiment(row) in here:
                        say(f"{name}, {by}, seed {number}: there already; --again measures anew.")
                        continue
                    arena = arena or Arena(source, tower, name, number, images, training, place)
                    row |= arena.measured(by, retrain)
                    merge_rows(out, [row], experiment, command_of)
                    say(json.dumps({k: row.get(k) for k in ("attack", "defense", "tpr", "fpr")}))


class Arena:
    """A poisoned set and the classifier that was trained on it."""

    def __init__(
        self,
        source: str,
        tower: str,
        attack: str,
        seed: int,
        images: int,
        training: ClassifierTraining,
        device: torch.device,
    ) -> None:
        self.seed, self.training, self.device = seed, training, device
        train = ParquetImages(data_file(f"{source}-train.parquet"), SIZE)
        self.test = in_memory(ParquetImages(data_file(f"{source}-test.parquet"), SIZE))
        self.classes = len(train.class_names)
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        clean = in_memory(Subset(train, order[: images or None].tolist()))
        self.poisoned = poisoned(clean, attack, self.classes, seed)
        self.train = clean if self.poisoned is None else in_memory(self.poisoned)
        self.truth = [] if self.poisoned is None else self.poisoned.poisoned
        self.made_of = {
            "data": source,
            "tower": tower,
            "attack": attack,
            "images": images,
            "rate": RATE,
            "planted": planted(attack),
            "content": content_sha256(clean),
        }
        self.make = lambda: TOWERS[tower](self.classes)
        self.model = self.trained(self.train, {"on": "all"})

    def trained(self, dataset: InMemory[int], on: dict[str, Any]) -> torch.nn.Module:
        """A classifier from the cache, or trained now."""
        made_of = {**self.made_of, **on, "seed": self.seed, "training": asdict(self.training)}
        path = cached_path("classifier", made_of)
        model = self.make().to(self.device).eval()
        resume = path.with_suffix(".resume")
        with to_be_made(path) as missing, training_progress() as progress:
            if missing:
                made = trained_classifier(
                    self.make,
                    dataset,
                    self.training,
                    self.seed,
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
        found = run_purifier(name, self.model, self.train, options, self.seed, say)
        row = {"seconds": round(time.perf_counter() - start, 1), **detected(found, self.truth)}
        row |= flat(self.before, "before")
        if retrain and not found.poisoned:
            row |= flat(self.before, "after")
        elif retrain:
            removed = hashlib.sha256(repr(found.poisoned).encode()).hexdigest()
            rest = in_memory(Subset(self.train, found.kept))
            after = self.rates(self.trained(rest, {"on": "rest", "removed": removed}))
            row |= flat(after, "after")
        return row

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


def flat(rates: dict[str, Rate], when: str) -> dict[str, float]:
    """Rates as fields of a row."""
    return {
        key: value
        for name, rate in rates.items()
        for key, value in rate_fields(f"{name}_{when}", rate).items()
    }


def detected(found: Purified, truth: list[int]) -> dict[str, Any]:
    """A search as flat fields."""
    stage = found.stages[-1]
    return {
        "outcome": found.outcome.value,
        "reason": stage.reason,
        "evidence": stage.evidence,
        "passes": stage.passes,
        "n": len(found.scores),
        **search_fields(found, truth),
    }


def described(
    data: str,
    tower: str,
    attack: str,
    by: str,
    seed: int,
    images: int,
    training: ClassifierTraining,
    retrain: bool,
) -> dict[str, Any]:
    """What a row is about."""
    return {
        "measure": "purify",
        "data": data,
        "tower": tower,
        "attack": attack,
        "defense": by,
        "seed": seed,
        "images": images,
        "epochs": training.epochs,
        "bfloat16": training.bfloat16,
        "retrained": retrain,
        "poisoned_rate": 0.0 if attack == "none" else RATE,
        "planted": planted(attack),
    }


def experiment(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row belongs to."""
    keys = ("data", "tower", "attack", "defense", "seed", "images", "epochs", "retrained")
    made = json.dumps(row["planted"], sort_keys=True)
    return (*(row[key] for key in keys), row["bfloat16"], row["poisoned_rate"], made)


def rows_of(out: Path) -> Rows:
    """Rows of the result file, or none."""
    found: Rows = json.loads(out.read_text(encoding="utf-8"))["rows"] if out.exists() else []
    return found


def command_of(rows: Rows) -> str:
    """The commands that give these rows."""
    purifiers: dict[str, list[str]] = {}
    flags = (("bfloat16", "bfloat16"), ("retrain", "retrained"))
    for row in rows:
        options = ("data", "tower", "attack", "seed", "images", "epochs")
        words = [f"--{name} {row[name]}" for name in options]
        words += [f"--{name}" for name, field in flags if row.get(field)]
        purifiers.setdefault(" ".join(words), []).append(f"--purifier '{row['defense']}'")
    commands = [
        " ".join(["python benchmarks/flare.py", options, *sorted(names)])
        for options, names in purifiers.items()
    ]
    return " && ".join(sorted(commands))


if __name__ == "__main__":
    typer.run(main)
