"""BackdoorBox on CLIP: which attacks and defences run, how well, and at which speed.

    BACKDOORBOX_HOME=... python benchmarks/toolbox.py --comparison attacks --comparison defenses \
        --seed 0 --speed

writes ``benchmarks/results/toolbox.json``. Rows of comparisons that are not run again stay.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn
from torch.nn import functional as F

from invertune_plugin.adapters.backdoorbox.staged import staged
from invertune_plugin.adapters.open_clip import zero_shot_classifier
from invertune_plugin.adapters.shapes import CLASS_TEMPLATES, SHAPES
from invertune_plugin.benchmark.commands.toolbox_run import run_comparison
from invertune_plugin.benchmark.experiment.models import cache_root, initial_model
from invertune_plugin.benchmark.experiment.recipe import load_recipe
from invertune_plugin.benchmark.record import Rows, experiment, merge_rows

RESULTS = Path(__file__).parent / "results" / "toolbox.json"
IMPORTS = (
    "import cv2, hdbscan, imageio, lpips, matplotlib.pyplot, pandas, scipy, sklearn, torchvision;"
    "import umap"
)


def main(
    comparison: Annotated[list[str], typer.Option(help="May be repeated.")] = [],  # noqa: B006
    seed: Annotated[list[int], typer.Option(help="May be repeated.")] = [0],  # noqa: B006
    speed: Annotated[bool, typer.Option(help="Loading, and training through stages.")] = False,
    work: Annotated[Path | None, typer.Option(help="Folder that is gone on with.")] = None,
    out: Annotated[Path, typer.Option(help="Result file.")] = RESULTS,
) -> None:
    """Run comparisons and write their rows."""
    folder = work or cache_root() / "toolbox"
    for name in comparison:
        rows = run_comparison(name, folder / name, seed, None, overwrite=False)
        merge_rows(out, [row | {"measure": "comparison"} for row in rows], experiment, command_of)
    if speed:
        row = {"measure": "speed", "recipe": "speed", **loading(), **training()}
        merge_rows(out, [row], experiment, command_of)


def command_of(rows: Rows) -> str:
    """The command that gives these rows."""
    seeds: dict[str, set[int]] = {}
    for row in rows:
        if row["measure"] == "comparison":
            seeds.setdefault(row["recipe"], set()).add(row["seed"])
    script = "python benchmarks/toolbox.py"
    commands = [
        " ".join([script, f"--comparison {name}", *(f"--seed {seed}" for seed in sorted(numbers))])
        for name, numbers in sorted(seeds.items())
    ]
    return " && ".join([*commands, f"{script} --speed"])


def loading() -> dict[str, float]:
    """Seconds of ``load_toolbox`` after what its modules import has been imported."""
    code = (
        f"import time, invertune_plugin; {IMPORTS}; import invertune_plugin.adapters.open_clip\n"
        "start = time.perf_counter(); invertune_plugin.load_toolbox()\n"
        "print(time.perf_counter() - start)"
    )
    command = [sys.executable, "-c", code]
    turns = [
        float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        for _ in range(3)
    ]
    return {"seconds_load_toolbox": round(min(turns), 3)}


def training() -> dict[str, float]:
    """Speed of a training step through stages over that of the plain classifier."""
    found = {}
    for name in ("demo", "demo_vit"):
        plain = zero_shot_classifier(initial_model(load_recipe(name), 0), SHAPES, CLASS_TEMPLATES)
        stages = staged(plain)
        images, labels = torch.rand(64, 3, 32, 32), torch.arange(64) % len(SHAPES)
        turns = [(step(plain, images, labels), step(stages, images, labels)) for _ in range(40)]
        ratio = min(first for first, _ in turns[5:]) / min(second for _, second in turns[5:])
        found[f"staged_speed_{load_recipe(name).model}"] = round(ratio, 3)
    return found


def step(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """Seconds of one forward and backward pass."""
    start = time.perf_counter()
    model.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    return time.perf_counter() - start


if __name__ == "__main__":
    typer.run(main)
