"""What the commands tell a tracker: losses while models are trained, then what came out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from invertune_plugin.adapters.accelerated import joined
from invertune_plugin.adapters.tracking import Tracker, opened
from invertune_plugin.benchmark.experiment.models import Progress
from invertune_plugin.benchmark.report.wording import class_name
from invertune_plugin.console import say, speaking
from invertune_plugin.defenses.invertune import Repair
from invertune_plugin.processes import Processes
from invertune_plugin.training import Report
from invertune_plugin.triggers import Trigger


@contextmanager
def together(
    device: str, track: str | None, name: str, settings: Mapping[str, Any]
) -> Iterator[tuple[Processes, Tracker]]:
    """The processes of a command, of which one talks to people and to a tracker.

    Args:
        device: what the user asked for.
        track: kind and place of a tracker, or None.
        name: of the tracked run.
        settings: of the tracked run.
    """
    with (
        joined(device) as processes,
        speaking(processes.is_main),
        opened(track if processes.is_main else None, name, settings, say) as tracker,
    ):
        yield processes, tracker


def tracked(progress: Progress, tracker: Tracker) -> Progress:
    """A progress report that also logs the loss of each step, as ``TITLE/loss``."""

    def start(title: str) -> Report:
        show = progress(title)

        def report(done: int, steps: int, loss: float) -> None:
            show(done, steps, loss)
            tracker.scalars({f"{title}/loss": loss}, done)

        return report

    return start


def log_repair(tracker: Tracker, repair: Repair, name: str) -> None:
    """Log a finished repair under a name: costs, losses of each step, triggers, seconds, passes."""
    for candidate in repair.target.candidates if repair.target else ():
        tracker.scalars({f"{name}/target/{candidate.name}": candidate.cost}, 0)
    again = repair.tuning.again if repair.tuning else []
    for turn, found in enumerate([*repair.inversions, *again], start=1):
        title = f"{name}/inversion {turn}, {class_name(repair, found.label)}"
        log_losses(tracker, title, found.losses)
        tracker.scalars({f"{title}/asr": found.asr, f"{title}/area": found.area}, 0)
        height, width = found.trigger.pattern.shape[-2:]
        log_trigger(tracker, f"{title}/trigger", found.trigger, (height, width))
    if repair.tuning:
        log_losses(tracker, f"{name}/tuning", repair.tuning.losses)
    for stage in repair.stages:
        costs = {"seconds": stage.seconds, "passes": float(stage.passes)}
        tracker.scalars({f"{name}/{stage.name}/{key}": value for key, value in costs.items()}, 0)


def log_trigger(tracker: Tracker, name: str, trigger: Trigger, size: tuple[int, int]) -> None:
    """Log what a trigger looks like on mid-grey images of a height and width."""
    tracker.image(name, trigger(torch.full((1, 3, *size), 0.5))[0])


def log_losses(tracker: Tracker, title: str, losses: list[float]) -> None:
    """Log the loss after each step, as ``TITLE/loss``."""
    for done, loss in enumerate(losses, start=1):
        tracker.scalars({f"{title}/loss": loss}, done)


def log_row(tracker: Tracker, row: Mapping[str, Any], name: str, step: int = 0) -> None:
    """Log the numbers of a result row, such as CA and ASR, under a name."""
    numbers = {f"{name}/{key}": float(v) for key, v in row.items() if isinstance(v, (int, float))}
    tracker.scalars(numbers, step)
