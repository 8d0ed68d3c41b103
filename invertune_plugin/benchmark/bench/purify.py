"""Purifiers as cells of a grid: search what a victim was trained on, and train on the rest."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from invertune_plugin.benchmark.bench.after import doubts_of, measured_after, measured_before
from invertune_plugin.benchmark.bench.defenses import PURIFY
from invertune_plugin.benchmark.bench.metrics import Row
from invertune_plugin.benchmark.bench.opening import Opened, open_trained, told
from invertune_plugin.benchmark.bench.training import TrainedOn, trained_on
from invertune_plugin.benchmark.detection import search_fields
from invertune_plugin.benchmark.experiment.victims import CLEAN
from invertune_plugin.benchmark.grid.cells import Parent, Result, Say
from invertune_plugin.benchmark.report.evidence_files import write_curves
from invertune_plugin.data import PairSet, Subset
from invertune_plugin.defenses.purifiers import Purified, purifier_of, run_purifier
from invertune_plugin.defenses.repair import at_rest
from invertune_plugin.outcome import Outcome
from invertune_plugin.training import train_contrastive


def compute_purified(
    settings: Mapping[str, Any], parents: tuple[Parent, ...], folder: Path, report: Say
) -> Result:
    """Purify the pairs of a victim, train the clean model on the rest, and measure that.

    Where nothing was found the victim stays what it is. Where nothing is attacked, the suspect is
    the clean model fine-tuned on the pairs as they are: what is removed of them is a false alarm.
    """
    (victim,) = parents
    opened, seed = open_trained(victim.settings, report), victim.settings["seed"]
    attacked = victim.settings["attack"] != CLEAN
    trained = trained_on(opened, seed, attacked)
    name, options = settings["defense"].removeprefix(PURIFY), settings["options"]
    start = time.perf_counter()
    row, removed = _searched(name, options, opened, trained, seed, report)
    model: Any = opened.suspect
    if removed:
        kept = [i for i in range(len(trained.pairs)) if i not in removed]
        model = trained_again(opened, Subset(trained.pairs, kept), seed, report)
    elif row["outcome"] == Outcome.FAILED.value:
        model = None
    row["seconds_repair"] = round(time.perf_counter() - start, 2)
    if not attacked:
        row["false_alarm"] = bool(removed)
        before, _ = measured_before(opened, victim.settings, report)
        row |= {name: value for name, value in before.items() if "_before" in name}
        victim = replace(victim, record={**victim.record, **before})
    after, losses = measured_after(model, opened, victim, report)
    write_curves(folder, {"rebound": losses})
    return Result(row | after, doubts_of(opened, victim))


def trained_again(opened: Opened, pairs: PairSet, seed: int, report: Say) -> Any:
    """The clean model trained on pairs as the victim was, without the attacker's penalties."""
    model = copy.deepcopy(opened.clean)
    config = replace(opened.recipe.attack.training, seed=seed)
    train_contrastive(model, pairs, config, report=told(report)("training on the rest"))
    return at_rest(model)


def _searched(
    name: str,
    options: Mapping[str, Any],
    opened: Opened,
    trained: TrainedOn,
    seed: int,
    report: Say,
) -> tuple[Row, set[int]]:
    """Fields of a search, and the indices of the pairs that it removes."""
    data: Any = trained.pairs
    places = list(range(len(trained.pairs)))
    if "labels" in purifier_of(name).needs:
        data, places = trained.labelled(opened.sources)
    found: Purified = run_purifier(name, opened.suspect, data, options, seed, report)
    poisoned = [n for n, place in enumerate(places) if place in trained.targets]
    stage = found.stages[-1]
    row: Row = {
        "outcome": found.outcome.value,
        "reason": stage.reason,
        "passes": stage.passes,
        "searched": len(places),
        "removed": len(found.poisoned),
        **search_fields(found, poisoned),
    }
    return row, {places[n] for n in found.poisoned}
