"""Cells: one step of a grid each, named by the hash of everything that shapes its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from invertune_plugin import __version__
from invertune_plugin.benchmark.grid.code import code_digest
from invertune_plugin.errors import InputError

Say = Callable[[str], None]


@dataclass(frozen=True)
class Parent:
    """What a cell gets of a cell before it.

    Attributes:
        kind: name of its kind.
        settings: its own.
        record: what came out.
        folder: its files.
    """

    kind: str
    settings: Mapping[str, Any]
    record: Mapping[str, Any]
    folder: Path


@dataclass(frozen=True)
class Result:
    """What comes out of a cell, beside the files it writes.

    Attributes:
        record: flat record: name to number, text, bool or None. ``outcome``, ``reason`` and
            ``passes`` are read by the store.
        doubts: sentences on why the numbers are not to be relied on; none where they are.
    """

    record: Mapping[str, Any] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()


Compute = Callable[[Mapping[str, Any], tuple[Parent, ...], Path, Say], Result]


@dataclass(frozen=True)
class Kind:
    """A kind of cell: how its result is computed.

    Attributes:
        name: for instance ``victim``.
        compute: pure function of settings, parents, an empty folder for files, and a function that
            takes sentences for the log. It lives in a module, as it travels to other processes.
        code: packages and modules whose source shapes the result, beside that of the function and
            all that it imports of this package.
        impossible: why a cell cannot work, where it cannot; asked before anything runs.
        seconds: a guess, used until a similar cell was timed.
    """

    name: str
    compute: Compute
    code: tuple[str, ...] = ()
    impossible: Callable[[Cell], str | None] | None = None
    seconds: float = 60.0

    @property
    def version(self) -> str:
        """Hash of the code that shapes results of this kind."""
        return code_digest((self.compute.__module__, *self.code))


@dataclass(frozen=True, eq=False)
class Cell:
    """One step of a grid.

    Attributes:
        kind: how it is computed.
        settings: JSON values; all that its function is told.
        parents: cells whose results it needs.
    """

    kind: Kind
    settings: Mapping[str, Any]
    parents: tuple[Cell, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", json.loads(_canonical(self.kind, self.settings)))

    @cached_property
    def key(self) -> str:
        """Content hash; the order of settings does not matter, that of parents does."""
        made_of = {
            "package": __version__,
            "code": self.kind.version,
            "kind": self.kind.name,
            "settings": self.settings,
            "parents": [parent.key for parent in self.parents],
        }
        return hashlib.sha256(_canonical(self.kind, made_of).encode()).hexdigest()[:20]

    @cached_property
    def names(self) -> dict[str, Any]:
        """What people call it: plain settings of its parents and, before those, its own."""
        found: dict[str, Any] = {}
        for parent in self.parents:
            found |= parent.names
        return found | {
            name: value
            for name, value in self.settings.items()
            if isinstance(value, str | int | float)
        }

    @property
    def title(self) -> str:
        """Kind and names, in one line."""
        return " ".join([self.kind.name, *(f"{name}={v}" for name, v in self.names.items())])


def in_order(cells: Iterable[Cell]) -> list[Cell]:
    """The cells and all that come before them, once each, parents first."""
    found: dict[str, Cell] = {}
    for cell in cells:
        stack = [cell]
        while stack:
            missing = [p for p in stack[-1].parents if p.key not in found]
            if missing:
                stack.extend(reversed(missing))
            else:
                last = stack.pop()
                found.setdefault(last.key, last)
    return list(found.values())


def _canonical(kind: Kind, values: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(values), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Expected JSON values as settings of a {kind.name} cell, got: {error}. "
            "Use text, finite numbers, bools, lists and mappings."
        ) from error
