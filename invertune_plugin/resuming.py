"""The state of a training between its epochs, in a file that it goes on from."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Protocol

import torch

from invertune_plugin.errors import InputError
from invertune_plugin.files import replacing


class Stateful(Protocol):
    """A part of a training that lives on from step to step, such as an optimizer."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> Any:
        """Take over what ``state_dict`` gave."""
        ...


class Stopwatch:
    """How long something takes; where it goes on from a state, as if it had never stopped."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.perf_counter() - self._start

    def state_dict(self) -> dict[str, Any]:
        """The seconds so far."""
        return {"seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Count on from there; what was done again until now does not count twice."""
        self._start = time.perf_counter() - state_dict["seconds"]


class Described:
    """What a training is, so that the state of another one is not taken for its own.

    Args:
        settings: plain values.
    """

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings

    def state_dict(self) -> dict[str, Any]:
        """The settings."""
        return self.settings

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Compare them with those that were kept.

        Raises:
            ValueError: they are others.
        """
        for name, value in self.settings.items():
            if (kept := state_dict.get(name)) != value:
                raise ValueError(f"{name} was {kept}, and is {value} now")


def save_state(path: Path | None, done: int, **parts: Stateful) -> None:
    """Keep the steps done and the state of the parts of a training; nothing without a path.

    Raises:
        InputError: the file cannot be written, for instance because the disk is full.
    """
    if path is None:
        return
    state = {name: part.state_dict() for name, part in parts.items()}
    with replacing(path) as temporary:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.save({"done": done, **state}, temporary)
        except RuntimeError as error:  # what torch makes of a full disk
            raise OSError(f"not all could be written ({_first_line(error)})") from error


def load_state(path: Path | None, **parts: Stateful) -> int:
    """Give the parts the state that was kept; the steps done then, 0 where none was kept.

    Raises:
        InputError: the file is damaged, or of another training.
    """
    if path is None or not path.exists():
        return 0
    try:
        state = torch.load(path, weights_only=True, map_location="cpu")
        for name, part in parts.items():
            part.load_state_dict(state[name])
        return int(state["done"])
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        raise InputError(
            f"Expected the state of this training in {path}, got one that it cannot go on from "
            f"({type(error).__name__}: {_first_line(error)}). Remove the file; the training then "
            "begins anew."
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0][:160]
