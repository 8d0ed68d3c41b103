"""What triggers look like at 32 pixels, one sheet per shipped victim.

    python benchmarks/pictures.py --victim-trigger badclip=badclip.trigger.safetensors

writes ``docs/pictures/NAME.png``: four drawn scenes, the same with the trigger, and ten times the
difference around grey. Triggers that are crafted come from files that ``invertune attack`` wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image
from torch import Tensor

from invertune_plugin.adapters.shapes import draw_scenes
from invertune_plugin.benchmark.experiment.suspect import open_trigger
from invertune_plugin.benchmark.experiment.victims import shipped_victims, victim_recipe
from invertune_plugin.data import to_unit
from invertune_plugin.errors import InputError
from invertune_plugin.triggers import Trigger

PICTURES = Path(__file__).parent.parent / "docs" / "pictures"
BASE = "demo"
SCENES, SIZE, ZOOM, GAP = 4, 32, 4, 4
STRONGER = 10


def main(
    victim_trigger: Annotated[list[str], typer.Option(help="NAME=FILE; may be repeated.")] = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Folder for the sheets.")] = PICTURES,
) -> None:
    """Draw the sheets."""
    out.mkdir(parents=True, exist_ok=True)
    shown = {name: found for name in shipped_victims() if (found := fixed_triggers(name))}
    shown |= {name: [open_trigger(path)] for name, path in map(named_file, victim_trigger)}
    for name, triggers in shown.items():
        path = out / f"{name}.png"
        sheet(triggers).save(path, optimize=True)
        print(f"{path.name}: {path.stat().st_size / 1024:.1f} KB")


def fixed_triggers(name: str) -> list[Trigger]:
    """The triggers of a shipped victim; none where they are crafted on a model."""
    attack = victim_recipe(name, BASE).attack
    own = [] if attack.trigger is None else [attack.trigger]
    return [*own, *(planted.trigger for planted in attack.also)]


def named_file(text: str) -> tuple[str, Path]:
    """NAME and FILE of ``NAME=FILE``."""
    name, _, path = text.partition("=")
    if name not in shipped_victims() or not path:
        raise InputError(f"Expected NAME=FILE with the name of a shipped victim, got {text!r}.")
    return name, Path(path)


def sheet(triggers: Sequence[Trigger]) -> Image.Image:
    """A row of clean scenes; per trigger a row with it and one of the difference."""
    clean = to_unit(draw_scenes(SCENES, seed=0, size=SIZE).pixels)
    rows = [clean]
    for trigger in triggers:
        triggered = trigger(clean)
        rows += [triggered, (0.5 + STRONGER * (triggered - clean)).clamp(0, 1)]
    return drawn(rows)


def drawn(rows: Sequence[Tensor]) -> Image.Image:
    """Rows of images ``[N, 3, H, W]`` in [0, 1] on white, every pixel as a square, 256 colours."""
    step = SIZE * ZOOM + GAP
    paper = torch.full((3, step * len(rows) - GAP, step * SCENES - GAP), 255, dtype=torch.uint8)
    for i, row in enumerate(rows):
        large = row.mul(255).round().to(torch.uint8)
        large = large.repeat_interleave(ZOOM, 2).repeat_interleave(ZOOM, 3)
        for j, image in enumerate(large):
            y, x = i * step, j * step
            paper[:, y : y + SIZE * ZOOM, x : x + SIZE * ZOOM] = image
    page = Image.fromarray(paper.permute(1, 2, 0).contiguous().numpy())
    return page.quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)


if __name__ == "__main__":
    typer.run(main)
