"""The whole grid of a recipe in one picture: ASR and CA of every attack after every defence.

    python benchmarks/heat.py

writes ``docs/pictures/grid/BASE.png`` for each recipe of ``results/grid.json``. A picture carries
the hash of what it shows, so that a test can tell when it is old.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench_tables import DEFENSES, cells_of, detected
from flare_tables import none_first
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from rendering import Rows, distinct, mean, only, read

PICTURES = Path(__file__).parent.parent / "docs" / "pictures" / "grid"
SHOWS = "Shows"
FLOOR = "clean model"
COLUMNS = [FLOOR, *DEFENSES]
GROUPS = {"purify:": "purifiers, trained on what they keep", "toolbox:": "BackdoorBox"}
HEAT = LinearSegmentedColormap.from_list("heat", ["#f4f5f8", "#e5958c"])
MARKS = {"rejected": "○", "failed": "×"}
INK, QUIET = "#1f2430", "#5b6270"
ACROSS, DOWN, LEFT, TOP, RIGHT, BOTTOM = 0.52, 0.36, 1.05, 1.45, 0.45, 0.35
LEGEND = (
    "Large: ASR, small: CA, in %.   ○ nothing found, × repair failed: the model is as it was.   "
    "– impossible.   SCALE_UP and IBD_PSC: TPR and FPR on test images.   "
    "clean model: what it reads as the target."
)


@dataclass(frozen=True)
class Box:
    """One cell: two lines, and the ASR as its heat where there is one."""

    large: str = ""
    small: str = ""
    heat: float | None = None


def main() -> None:
    """Draw every recipe that has been run."""
    for base in bases():
        boxes = boxes_of(base)
        picture = PICTURES / f"{base}.png"
        write(drawn(boxes), picture, fingerprint(boxes))
        print(f"{picture.name}: {picture.stat().st_size / 1024:.0f} KB")


def bases() -> list[str]:
    """The recipes of the committed grid."""
    return distinct(read("grid", kind="repair"), "base")


def boxes_of(base: str) -> dict[str, list[Box]]:
    """The cells of each attack, in the order of ``COLUMNS``."""
    rows, victims = cells_of("repair", base), cells_of("victim", base)
    return {
        attack: [
            rated(only(victims, attack=attack), "clean"),
            *(box_of(only(rows, attack=attack, defense=defense)) for defense in DEFENSES),
        ]
        for attack in none_first(rows)
    }


def box_of(rows: Rows) -> Box:
    """What came of a defence, over its seeds."""
    if not rows or any("asr_after" in row for row in rows):
        return rated(rows, "after")
    outcomes = distinct(rows, "outcome")
    if rates := detected(rows):
        return Box(small="\n".join([*rates.split(", "), *(o for o in outcomes if o == "failed")]))
    return Box(small="–" if outcomes == ["impossible"] else "\n".join(outcomes))


def rated(rows: Rows, when: str) -> Box:
    """ASR, CA, and whether the model was left as it was."""
    if not rows:
        return Box(small="not run")
    marks = "".join(MARKS.get(outcome, "") for outcome in distinct(rows, "outcome"))
    measured = [row for row in rows if f"asr_{when}" in row]
    asr = mean(measured, f"asr_{when}")
    return Box(f"{asr} {marks}".rstrip(), mean(measured, f"ca_{when}"), float(asr) / 100)


def fingerprint(boxes: dict[str, list[Box]]) -> str:
    """Hash of all that a picture shows."""
    told = {attack: [asdict(box) for box in line] for attack, line in boxes.items()}
    return hashlib.sha256(json.dumps([COLUMNS, told]).encode()).hexdigest()


def shown_by(picture: Path) -> str:
    """Hash of what a picture was drawn of."""
    with Image.open(picture) as image:
        return str(image.info.get(SHOWS))


def write(figure: Figure, picture: Path, shows: str) -> None:
    """Write a figure as a PNG of few colours that tells what it shows."""
    content = io.BytesIO()
    figure.savefig(content, dpi=110)
    told = PngInfo()
    told.add_text(SHOWS, shows)
    with Image.open(content) as image:
        few = image.convert("RGB").quantize(64, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        few.save(picture, optimize=True, pnginfo=told)


def drawn(boxes: dict[str, list[Box]]) -> Figure:
    """The picture; one unit of its axes is one cell."""
    across, down = len(COLUMNS), len(boxes)
    width, height = LEFT + across * ACROSS + RIGHT, TOP + down * DOWN + BOTTOM
    figure = Figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes(
        (LEFT / width, BOTTOM / height, across * ACROSS / width, down * DOWN / height)
    )
    axes.set(xlim=(0, across), ylim=(down, 0))
    axes.axis("off")
    middle: dict[str, Any] = {"ha": "center", "va": "center", "color": INK}
    for x, name in enumerate(COLUMNS):
        axes.text(x + 0.4, -0.2, name.split(":")[-1], rotation=45, fontsize=8, color=INK)
    for prefix, told in GROUPS.items():
        group = [x for x, name in enumerate(COLUMNS) if name.startswith(prefix)]
        axes.plot([group[0] + 0.04] * 2, [-0.2, down], color=QUIET, lw=1, clip_on=False)
        axes.text(group[0] + 0.04, 1 - TOP / DOWN, told, fontsize=9, color=QUIET, weight="bold")
    for y, (attack, line) in enumerate(boxes.items()):
        axes.text(-0.15, y + 0.5, attack, ha="right", va="center", fontsize=8, color=INK)
        for x, box in enumerate(line):
            axes.add_patch(Rectangle((x + 0.06, y + 0.05), 0.9, 0.9, color=colour(box)))
            axes.text(x + 0.5, y + 0.36, box.large, fontsize=8, **middle)
            axes.text(x + 0.5, y + (0.74 if box.large else 0.5), box.small, fontsize=6, **middle)
    axes.text(0, down + 0.5, LEGEND, fontsize=8, color=QUIET, va="center")
    return figure


def colour(box: Box) -> str | tuple[float, float, float, float]:
    """The heat of a cell; white where there is none."""
    return "white" if box.heat is None else HEAT(box.heat)


if __name__ == "__main__":
    main()
