"""Repairs as cells of a grid: ours and the baselines, from the registry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from invertune_plugin.benchmark.bench.after import doubts_of, measured_after
from invertune_plugin.benchmark.bench.metrics import Row
from invertune_plugin.benchmark.bench.opening import Opened, open_victim
from invertune_plugin.benchmark.experiment.victims import CLEAN
from invertune_plugin.benchmark.grid.cells import Parent, Result, Say
from invertune_plugin.benchmark.report.evidence_files import write_curves, write_inverted
from invertune_plugin.defenses.baselines import baseline_of, run_repair
from invertune_plugin.defenses.repair import DefenderData


def compute_repair(
    settings: Mapping[str, Any], parents: tuple[Parent, ...], folder: Path, report: Say
) -> Result:
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
    after, losses = measured_after(repaired.classifier, opened, victim, report)
    write_curves(folder, {**repaired.losses, "rebound": losses})
    return Result(row | after, doubts_of(opened, victim))


def _data(defense: str, opened: Opened) -> DefenderData:
    """What a defence asks for, and no more: drawing and decoding take seconds."""
    needs = baseline_of(defense).needs
    return DefenderData(
        opened.sources.pairs("defence") if "pairs" in needs else None,
        opened.sources.images("defence") if {"images", "labels"} & set(needs) else None,
    )
