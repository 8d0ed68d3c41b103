"""Cells of known cost for ``grid_speed.py``; in a file of their own, as workers import them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from invertune_plugin.benchmark.grid.cells import Cell, Kind, Parent, Result, Say


def sleep(
    settings: Mapping[str, Any], parents: tuple[Parent, ...], folder: Path, report: Say
) -> Result:
    """Take so many seconds and no processor."""
    time.sleep(settings["seconds"])
    return Result({"ca": 0.5, "ca_low": 0.4, "ca_high": 0.6, "ca_n": 100})


def count(
    settings: Mapping[str, Any], parents: tuple[Parent, ...], folder: Path, report: Say
) -> Result:
    """Keep one processor busy with so many additions."""
    total = 0
    for number in range(settings["additions"]):
        total += number
    return Result({"total": total})


def drawn(
    settings: Mapping[str, Any], parents: tuple[Parent, ...], folder: Path, report: Say
) -> Result:
    """Leave what a repair leaves: shares, three strips of pictures, curves and a log."""
    report(f"{settings['defense']} against {settings['attack']}")
    noise = np.random.default_rng(settings["number"])
    for name in ("clean", "triggered", "inverted"):
        strip = noise.integers(0, 256, (32, 64, 3), dtype=np.uint8)
        Image.fromarray(strip).save(folder / f"{name}.png")
    curve = [(step, 1 / (step + 1)) for step in range(40)]
    (folder / "curves.json").write_text(json.dumps({"loss": curve}), encoding="utf-8")
    shares = {
        f"{name}{end}": value
        for name in ("ca_before", "ca_after", "asr_before", "asr_after", "asr_rebound")
        for end, value in (("", 0.5), ("_low", 0.4), ("_high", 0.6), ("_n", 1000))
    }
    return Result(shares)


CODE = ("invertune_plugin.errors",)
SLEEP = Kind("sleep", sleep, CODE)
COUNT = Kind("count", count, CODE)
DRAWN = Kind("repair", drawn, CODE)


def cells(kind: Kind, number: int, **settings: Any) -> list[Cell]:
    """So many cells without parents."""
    return [Cell(kind, {"number": i, **settings}) for i in range(number)]
