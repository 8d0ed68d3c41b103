"""Rows of the table of labelled sets: what each is about, and where it belongs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flare_attacks import RATE, planted

from invertune_plugin.benchmark.classifiers import ClassifierTraining
from invertune_plugin.benchmark.detection import search_fields
from invertune_plugin.benchmark.record import Rows, rate_fields
from invertune_plugin.console import say
from invertune_plugin.defenses.purifiers import Purified
from invertune_plugin.metrics import Rate


@dataclass(frozen=True)
class Setting:
    """What a classifier is trained on, and how.

    Attributes:
        data: name of the labelled set.
        tower: architecture.
        attack: as in ``ATTACKS``.
        seed: of images, poison and training.
        images: training images; 0 for all.
        training: settings.
    """

    data: str
    tower: str
    attack: str
    seed: int
    images: int
    training: ClassifierTraining


def described(setting: Setting, by: str, retrain: bool) -> dict[str, Any]:
    """What a row is about."""
    return {
        "measure": "purify",
        "data": setting.data,
        "tower": setting.tower,
        "attack": setting.attack,
        "defense": by,
        "seed": setting.seed,
        "images": setting.images,
        "epochs": setting.training.epochs,
        "bfloat16": setting.training.bfloat16,
        "retrained": retrain,
        "poisoned_rate": 0.0 if setting.attack == "none" else RATE,
        "planted": planted(setting.attack),
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


def not_there(
    setting: Setting, names: list[str], retrain: bool, here: set[tuple[Any, ...]]
) -> list[str]:
    """The purifiers whose rows are not among those that are there, by ``experiment``."""
    missing = [by for by in names if experiment(described(setting, by, retrain)) not in here]
    if done := [by for by in names if by not in missing]:
        told = f"{setting.data}, {setting.attack}, seed {setting.seed}"
        say(f"{told}: {', '.join(done)} there already; --again measures anew.")
    return missing


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
