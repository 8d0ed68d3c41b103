"""A run's folder as the toolbox lays it out: a name, the time, a log that prints and appends."""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from invertune_plugin.adapters.backdoorbox.schedules import PLACE, require
from invertune_plugin.defenses.base import Schedule
from invertune_plugin.errors import InputError

WINDOWS = os.name == "nt"


@dataclass(frozen=True)
class WorkDir:
    """A folder of one run.

    Attributes:
        path: the folder, which exists.
    """

    path: Path

    def log(self, message: str) -> None:
        """Print a message and append it to ``log.txt`` as a line."""
        sys.stdout.write(f"{message}\n")
        with (self.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{message}\n")


def open_work_dir(schedule: Schedule | None, whose: str = "this schedule") -> WorkDir | None:
    """Make ``save_dir/experiment_name_YYYY-mm-dd_HH:MM:SS`` for one run.

    A second run within one second gets a folder of its own (the toolbox lets them share one), with
    ``_2`` behind the time. On Windows the colons become hyphens.

    Args:
        schedule: the caller's; without ``save_dir`` nothing is written.
        whose: class or call, for messages.

    Returns:
        The new folder, or None where the schedule has no ``save_dir``.

    Raises:
        InputError: ``experiment_name`` is missing, or the folder cannot be made.
    """
    if not schedule or "save_dir" not in schedule:
        return None
    require(schedule, PLACE, whose)
    name = f"{schedule['experiment_name']}_{time_stamp()}"
    if WINDOWS:
        name = re.sub(r'[<>:"|?*]', "-", name)
    folder = Path(schedule["save_dir"], name)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        return WorkDir(_new(folder))
    except OSError as error:
        raise InputError(
            f"Expected to make the folder {folder}, got: {error}. "
            "Choose a save_dir that you can write to."
        ) from error


def time_stamp() -> str:
    """The local time, as the toolbox writes it in names and logs."""
    return time.strftime("%Y-%m-%d_%H:%M:%S", time.localtime())


def _new(folder: Path) -> Path:
    path, number = folder, 1
    while True:
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
            path = folder.with_name(f"{folder.name}_{number}")
        else:
            return path
