"""Small files that a cell of a grid leaves as evidence: strips of pictures, and curves."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from invertune_plugin.attacks.backdoors import Backdoor
from invertune_plugin.benchmark.experiment.sources import TestSet
from invertune_plugin.benchmark.report.pixels import as_image, inverted_parts
from invertune_plugin.data import texts_of, to_unit
from invertune_plugin.triggers import MaskedPattern

CURVES = "curves.json"
SHOWN = 4
MOST_SIDE = 112
MOST_POINTS = 60
STRONGER = 10
CAPTIONS = {
    "clean": "Test images as they are",
    "triggered": "The same with the attacker's trigger",
    "change": f"What the trigger changes, times {STRONGER}, around grey",
    "inverted": "Inverted trigger: mask, pattern, and both on grey",
}


def write_examples(folder: Path, test: TestSet, backdoor: Backdoor[str]) -> None:
    """Write strips of test images without and with a trigger, and of what it changes.

    Args:
        folder: of the cell.
        test: where the images are from; those of the target class are left out.
        backdoor: its trigger.
    """
    others = list(islice(_of_other_classes(test, backdoor.target), SHOWN))
    if not others:
        return
    clean = torch.stack([test.images[i][0] for i in others])
    triggered = backdoor.trigger.on_bytes(clean)
    change = (0.5 + STRONGER * (to_unit(triggered) - to_unit(clean))).clamp(0, 1)
    _write_strip(folder / "clean.png", to_unit(clean))
    _write_strip(folder / "triggered.png", to_unit(triggered))
    _write_strip(folder / "change.png", change)


def write_inverted(folder: Path, trigger: MaskedPattern) -> None:
    """Write an inverted trigger as a strip of its mask, its pattern, and both on grey."""
    _write_strip(folder / "inverted.png", torch.stack(inverted_parts(trigger)))


def write_curves(folder: Path, curves: Mapping[str, Sequence[float]]) -> None:
    """Write what was told step by step, as (step, value) points; at most sixty of each."""
    kept = {name: thinned(values) for name, values in curves.items() if len(values) > 1}
    if kept:
        (folder / CURVES).write_text(json.dumps(kept, allow_nan=False), encoding="utf-8")


def thinned(values: Sequence[float]) -> list[tuple[int, float]]:
    """Evenly spaced (step, value) points of a curve, first and last among them, 1 the first step.

    Values that are no finite numbers are left out.
    """
    last = len(values) - 1
    count = min(len(values), MOST_POINTS)
    steps = [round(i * last / max(1, count - 1)) for i in range(count)]
    return [(i + 1, float(f"{values[i]:.4g}")) for i in steps if math.isfinite(values[i])]


def _of_other_classes(test: TestSet, target: str) -> Iterator[int]:
    """Indices of images that are not of the target class."""
    for index, label in enumerate(texts_of(test.images)):
        if test.class_names[label] != target:
            yield index


def _write_strip(path: Path, images: Tensor) -> None:
    """Images ``[N, 3, H, W]`` in [0, 1] side by side; large ones become smaller."""
    side = images.shape[-1]
    if side > MOST_SIDE:
        options: dict[str, Any] = {"mode": "bilinear", "antialias": True}
        images = F.interpolate(images, scale_factor=MOST_SIDE / side, **options)
    as_image(torch.cat(list(images), dim=2)).save(path, optimize=True)
