"""Cheap cells for the tests of the grid; importable by workers, and without torch."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from invertune_plugin.benchmark.grid.cells import Cell, Kind, Parent, Result, Say
from invertune_plugin.benchmark.grid.store import Store

LOG = "GRID_TEST_LOG"
SLEEP = "GRID_TEST_SLEEP"


def note(word: str) -> None:
    """Append a line to the log of what was really computed."""
    with Path(os.environ[LOG]).open("a", encoding="utf-8") as file:
        file.write(f"{word}\n")


def number(
    settings: Mapping[str, Any], parents: tuple[Parent, ...], folder: Path, report: Say
) -> Result:
    """The sum of the parents' numbers and its own, also as a file."""
    note(str(settings["name"]))
    report("adding up")
    time.sleep(float(os.environ.get(SLEEP, "0")))
    for parent in parents:
        assert (parent.folder / "number.txt").read_text() == str(parent.record["value"])
    value = settings.get("own", 1) + sum(p.record["value"] for p in parents)
    (folder / "number.txt").write_text(str(value))
    return Result({"value": value, "ca": 0.5, "ca_low": 0.4, "ca_high": 0.6, "ca_n": 96})


failing: type[BaseException] = RuntimeError


def broken(
    settings: Mapping[str, Any], parents: tuple[Parent, ...], folder: Path, report: Say
) -> Result:
    """Raises, unless its file of good luck is there."""
    note(str(settings["name"]))
    report("about to fail")
    if not Path(settings["luck"]).exists():
        raise failing("no luck")
    return number(settings, parents, folder, report)


def deadly(
    settings: Mapping[str, Any], parents: tuple[Parent, ...], folder: Path, report: Say
) -> Result:
    """Ends its worker process, as often as its file does not have that many lines."""
    marks = Path(settings["marks"])
    with marks.open("a") as file:
        file.write("lost\n")
    if len(marks.read_text().splitlines()) <= settings["losses"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return number(settings, parents, folder, report)


def no_cross(cell: Cell) -> str | None:
    """Attack cross cannot be repaired."""
    return "cross is not repairable" if cell.names.get("attack") == "cross" else None


CODE = ("invertune_plugin.errors",)
NUMBER = Kind("number", number, CODE, seconds=2)
BROKEN = Kind("broken", broken, CODE)
DEADLY = Kind("deadly", deadly, CODE)
REPAIR = Kind("repair", number, CODE, impossible=no_cross, seconds=30)


def grid(
    attacks: Sequence[str] = ("patch", "blend"),
    defenses: Sequence[str] = ("none", "ft"),
) -> list[Cell]:
    """Diamonds: one clean model, victims of it, and their repairs, which need both."""
    clean = Cell(NUMBER, {"name": "clean", "tower": "rn"})
    cells = []
    for attack in attacks:
        victim = Cell(NUMBER, {"name": f"victim-{attack}", "attack": attack}, (clean,))
        cells += [
            Cell(
                REPAIR,
                {"name": f"{attack}-{d}", "defense": d, "seed": 3},
                (victim, clean),
            )
            for d in defenses
        ]
    return cells


def content(store: Path) -> dict[str, Any]:
    """A store without times: numbers and files by key."""
    opened = Store.open(store, create=False)
    found: dict[str, Any] = {}
    for claim in opened.claims():
        texts = [
            (opened.folder(claim.about.key) / name).read_text()
            for name in claim.artefacts
            if name != "log.txt"
        ]
        found[claim.about.key] = (claim.about.names, claim.record, claim.artefacts, texts)
    for claim in opened.claims("failures"):
        found[claim.about.key] = (claim.about.names, claim.outcome, claim.reason)
    return found


def kill_test_grid() -> list[Cell]:
    """The grid of the kill test and of the Dask test: 25 cells."""
    return grid(("a", "b", "c", "d"), ("none", "ft", "par", "clean", "tune"))
