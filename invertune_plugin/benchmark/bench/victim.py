"""Clean models and victims as cells of a grid, in any process that shares the cache of models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from invertune_plugin.benchmark.bench.after import measured_before
from invertune_plugin.benchmark.bench.metrics import Row, measured
from invertune_plugin.benchmark.bench.opening import open_victim, told
from invertune_plugin.benchmark.bench.settings import recipe_in
from invertune_plugin.benchmark.experiment.victims import CLEAN, build_clean, poisoned_rate
from invertune_plugin.benchmark.grid.cells import Parent, Result, Say
from invertune_plugin.benchmark.report.evidence_files import write_curves, write_examples

Settings = Mapping[str, Any]
Parents = tuple[Parent, ...]


def compute_clean(settings: Settings, parents: Parents, folder: Path, report: Say) -> Result:
    """Train the clean model of a recipe into the cache of models, unless it is there."""
    _, loaded = build_clean(recipe_in(settings), settings["seed"], told(report))
    return Result({"sha256": loaded.source_sha256})


def compute_victim(settings: Settings, parents: Parents, folder: Path, report: Say) -> Result:
    """Build a victim into the cache of models, and measure it beside the clean model.

    What benign fine-tuning alone leaves of it stands in the fields of the rebound.
    """
    opened = open_victim(settings, report)
    attack = opened.recipe.attack
    row: Row = {"target": opened.backdoor.target, "seconds_attack": opened.seconds}
    row["sha256"] = opened.sha256
    row["poisoned_rate"] = 0.0
    if settings["attack"] != CLEAN:
        pairs, templates = opened.sources.pairs("attack"), opened.sources.templates
        rate = poisoned_rate(attack, opened.backdoors, pairs, templates, settings["seed"])
        row["poisoned_rate"] = round(rate, 5)
    row["trigger"] = opened.backdoor.trigger.fingerprint()
    write_examples(folder, opened.tests[0], opened.backdoor)
    row |= measured(settings["metrics"], "clean", opened.clean, opened)
    before, losses = measured_before(opened, settings, report)
    write_curves(folder, {"rebound": losses})
    return Result(row | before)
