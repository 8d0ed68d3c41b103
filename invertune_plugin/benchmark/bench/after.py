"""What a suspect is and what a defence left of it, at once and after benign fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from invertune_plugin.benchmark.bench.metrics import Row, measured
from invertune_plugin.benchmark.bench.opening import Opened, told
from invertune_plugin.benchmark.experiment.rebound import fine_tuned
from invertune_plugin.benchmark.grid.cells import Parent, Say
from invertune_plugin.zero_shot import ZeroShotClassifier

Losses = list[float]


def measured_before(opened: Opened, settings: Mapping[str, Any], report: Say) -> tuple[Row, Losses]:
    """A suspect as it is, measured also after benign fine-tuning.

    Args:
        opened: the suspect.
        settings: of the victim's cell.
        report: takes sentences.

    Returns:
        The rates, and the loss of each benign step.
    """
    row = measured(settings["metrics"], "before", opened.suspect, opened)
    again, losses = _rebound(opened.suspect, opened, settings, report)
    return row | again, losses


def measured_after(model: Any, opened: Opened, victim: Parent, report: Say) -> tuple[Row, Losses]:
    """What a defence left, measured also after benign fine-tuning, and the CA that it cost.

    A suspect that was left as it is has the numbers of the victim's cell; it is not measured again.

    Args:
        model: repaired, or behind an input filter; None where there is none.
        opened: the victim.
        victim: its cell.
        report: takes sentences.

    Returns:
        The rates, and the loss of each benign step made here.
    """
    losses: Losses = []
    if model is None:
        return {}, losses
    if _same(model, opened.suspect) and not doubts_of(opened, victim):
        row = _as_after(victim.record)
    else:
        row = measured(victim.settings["metrics"], "after", model, opened)
        again, losses = _rebound(model, opened, victim.settings, report)
        row |= again
    if "ca_after" in row:
        row["ca_lost"] = round(victim.record["ca_before"] - row["ca_after"], 5)
    return row, losses


def doubts_of(opened: Opened, victim: Parent) -> tuple[str, ...]:
    """Why a row is not to be held against its victim's, where the model is another one."""
    measured_one = victim.record.get("sha256")
    if measured_one in (None, opened.sha256):
        return ()
    return (
        f"The victim that was measured has SHA-256 {measured_one}, the one that was defended "
        f"{opened.sha256}: it was made twice. Share INVERTUNE_CACHE, and use a new store.",
    )


def _rebound(
    model: Any, opened: Opened, settings: Mapping[str, Any], report: Say
) -> tuple[Row, Losses]:
    """Rates after the benign steps; none of a model that has no texts to train with."""
    losses: Losses = []
    if not settings["rebound"] or not isinstance(model, ZeroShotClassifier):
        return {}, losses
    say = told(report)("rebound")

    def step(done: int, steps: int, loss: float) -> None:
        losses.append(loss)
        say(done, steps, loss)

    recipe = replace(opened.recipe, rebound_steps=settings["rebound"])
    tuned = fine_tuned(model, recipe, opened.sources, settings["seed"], report=step)
    return measured(settings["metrics"], "rebound", tuned, opened), losses


def _same(model: Any, suspect: ZeroShotClassifier) -> bool:
    if type(model) is not type(suspect):
        return False
    states = model.state_dict(), suspect.state_dict()
    return states[0].keys() == states[1].keys() and all(
        torch.equal(value, states[1][name]) for name, value in states[0].items()
    )


def _as_after(record: Mapping[str, Any]) -> Row:
    """The fields of a suspect before any defence, as those of one that was left alone."""
    return {
        name.replace("_before", "_after"): value
        for name, value in record.items()
        if "_before" in name or "_rebound" in name
    }
