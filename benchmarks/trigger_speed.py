"""How fast triggers go on: images of 32 x 32 per second of one core.

    python benchmarks/trigger_speed.py

writes ``benchmarks/results/trigger_speed.json``: a row per trigger of a shipped victim that is not
crafted on a model, and one for the stage that stores images as JPEG.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from pictures import fixed_triggers

from invertune_plugin.benchmark.experiment.victims import shipped_victims
from invertune_plugin.benchmark.record import Rows, merge_rows
from invertune_plugin.console import say
from invertune_plugin.triggers import Jpeg, Trigger

RESULTS = Path(__file__).parent / "results" / "trigger_speed.json"
BATCH, SIZE, TURNS = 1000, 32, 7


def main(out: Annotated[Path, typer.Option(help="Result file.")] = RESULTS) -> None:
    """Time all triggers."""
    torch.set_num_threads(1)
    triggers: dict[str, Trigger] = {"jpeg": Jpeg()}
    for name in shipped_victims():
        for trigger in fixed_triggers(name):
            triggers.setdefault(trigger.fingerprint(), trigger)
    merge_rows(out, [row(trigger) for trigger in triggers.values()], experiment, command_of)


def row(trigger: Trigger) -> dict[str, Any]:
    """Images in [0, 1] per second of processor time: the best of some turns after a first one."""
    images = torch.rand(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    trigger(images)
    seconds = []
    for _ in range(TURNS):
        start = time.process_time()
        trigger(images)
        seconds.append(time.process_time() - start)
    speed = round(BATCH / min(seconds))
    say(f"{trigger.fingerprint()}: {speed:,} images/s")
    return {
        "measure": "trigger speed",
        "trigger": trigger.fingerprint(),
        "parameters": trigger.parameters(),
        "size": SIZE,
        "images_per_second": speed,
    }


def experiment(row: dict[str, Any]) -> str:
    """What a row belongs to."""
    return str(row["trigger"])


def command_of(rows: Rows) -> str:
    """The command that gives these rows."""
    return "python benchmarks/trigger_speed.py"


if __name__ == "__main__":
    typer.run(main)
