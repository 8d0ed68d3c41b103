"""What a defence left of a victim, measured at once and after benign fine-tuning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from invertune_plugin.benchmark.bench_metrics import Row, measured
from invertune_plugin.benchmark.bench_open import Opened, told
from invertune_plugin.benchmark.grid.cells import Parent, Say
from invertune_plugin.benchmark.rebound import fine_tuned
from invertune_plugin.zero_shot import ZeroShotClassifier


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


def doubts_of(opened: Opened, victim: Parent) -> tuple[str, ...]:
    """Why a row is not to be held against its victim's, where the model is another one."""
    measured_one = victim.record.get("sha256")
    if measured_one in (None, opened.sha256):
        return ()
    return (
        f"The victim that was measured has SHA-256 {measured_one}, the one that was defended "
        f"{opened.sha256}: it was made twice. Share INVERTUNE_CACHE, and use a new store.",
    )
