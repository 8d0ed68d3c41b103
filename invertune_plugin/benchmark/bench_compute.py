"""What the cells of ``invertune bench`` do; they run in any process that shares the model cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from invertune_plugin.benchmark.bench_metrics import Row, measured
from invertune_plugin.benchmark.bench_open import Opened, open_victim, told
from invertune_plugin.benchmark.bench_recipe import CLEAN, attacked
from invertune_plugin.benchmark.evidence_files import write_curves, write_examples, write_inverted
from invertune_plugin.benchmark.grid.cells import Parent, Result, Say
from invertune_plugin.benchmark.rebound import fine_tuned
from invertune_plugin.benchmark.victims import build_clean
from invertune_plugin.defenses.baselines import baseline_of, run_repair
from invertune_plugin.defenses.repair import DefenderData
from invertune_plugin.zero_shot import ZeroShotClassifier

Settings = Mapping[str, Any]
Parents = tuple[Parent, ...]


def compute_clean(settings: Settings, parents: Parents, folder: Path, report: Say) -> Result:
    """Train the clean model of a recipe into the cache of models, unless it is there."""
    recipe = attacked(CLEAN, settings["base"])
    _, loaded = build_clean(recipe, settings["seed"], told(report))
    return Result({"sha256": loaded.source_sha256})


def compute_victim(settings: Settings, parents: Parents, folder: Path, report: Say) -> Result:
    """Build a victim into the cache of models, and measure it beside the clean model."""
    opened = open_victim(settings, report)
    attack = opened.recipe.attack
    row: Row = {"target": opened.backdoor.target, "seconds_attack": opened.seconds}
    planted = settings["attack"] != CLEAN and attack.encoder is None
    row["poisoned_rate"] = attack.rate if planted else 0.0
    row["trigger"] = opened.backdoor.trigger.fingerprint()
    write_examples(folder, opened.tests[0], opened.backdoor)
    metrics = settings["metrics"]
    row |= measured(metrics, "clean", opened.clean, opened)
    return Result(row | measured(metrics, "before", opened.suspect, opened))


def compute_repair(settings: Settings, parents: Parents, folder: Path, report: Say) -> Result:
    """Repair a victim, measure what came out, and once more after benign fine-tuning."""
    (victim,) = parents
    opened, seed = open_victim(victim.settings, report), victim.settings["seed"]
    name, options = settings["defense"], settings["options"]
    repaired = run_repair(name, opened.suspect, _data(name, opened), options, seed, report)
    found = repaired.found_target
    row: Row = {
        "outcome": repaired.outcome.value,
        "reason": repaired.stages[-1].reason if repaired.stages else "",
        "passes": sum(stage.passes for stage in repaired.stages),
        "seconds_repair": round(sum(stage.seconds for stage in repaired.stages), 2),
        "found_target": None if found is None else opened.suspect.class_names[found],
    }
    if victim.settings["attack"] == CLEAN and baseline_of(name).detects:
        row["false_alarm"] = found is not None
    if repaired.inverted is not None:
        write_inverted(folder, repaired.inverted)
    after, losses = measured_after(repaired.classifier, opened, victim, settings["rebound"], report)
    write_curves(folder, {**repaired.losses, "rebound": losses})
    return Result(row | after)


def measured_after(
    model: Any, opened: Opened, victim: Parent, rebound: int, report: Say
) -> tuple[Row, list[float]]:
    """What a defence left: its model measured, also after benign fine-tuning, and the CA it cost.

    Args:
        model: repaired, or behind an input filter; None where there is none.
        opened: the victim.
        victim: its cell.
        rebound: benign steps.
        report: takes sentences.

    Returns:
        The rates, and the loss of each benign step.
    """
    losses: list[float] = []
    if model is None:
        return {}, losses
    metrics = victim.settings["metrics"]
    row = measured(metrics, "after", model, opened)
    if "ca_after" in row:
        row["ca_lost"] = round(victim.record["ca_before"] - row["ca_after"], 5)
    if rebound and isinstance(model, ZeroShotClassifier):
        recipe, seed = replace(opened.recipe, rebound_steps=rebound), victim.settings["seed"]
        say = told(report)("rebound")

        def step(done: int, steps: int, loss: float) -> None:
            losses.append(loss)
            say(done, steps, loss)

        tuned = fine_tuned(model, recipe, opened.sources, seed, report=step)
        row |= measured(metrics, "rebound", tuned, opened)
    return row, losses


def _data(defense: str, opened: Opened) -> DefenderData:
    """What a defence asks for, and no more: drawing and decoding take seconds."""
    needs = baseline_of(defense).needs
    return DefenderData(
        opened.sources.pairs("defence") if "pairs" in needs else None,
        opened.sources.images("defence") if {"images", "labels"} & set(needs) else None,
    )
