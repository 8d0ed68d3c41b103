"""A claim: what came out of one cell, and all that is needed to judge and repeat it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from invertune_plugin.benchmark.grid.cells import Cell, Result
from invertune_plugin.benchmark.provenance import commit, machine, versions
from invertune_plugin.errors import InputError
from invertune_plugin.outcome import Outcome

IMPOSSIBLE = "impossible"


@dataclass(frozen=True)
class About:
    """Which cell a claim is about; travels to workers.

    Attributes:
        key: content hash of the cell.
        kind: name of its kind.
        names: what people call it.
        settings: its own.
        parents: keys of the cells before it.
    """

    key: str
    kind: str
    names: Mapping[str, Any]
    settings: Mapping[str, Any]
    parents: tuple[str, ...]

    @classmethod
    def of(cls, cell: Cell) -> About:
        """The description of a cell."""
        parents = tuple(parent.key for parent in cell.parents)
        return cls(cell.key, cell.kind.name, cell.names, cell.settings, parents)


@dataclass(frozen=True)
class Cost:
    """What a cell took.

    Attributes:
        seconds: wall time.
        peak_mb: most memory of its process; None where the system does not tell.
        peak_gpu_mb: most memory of its tensors on the GPU; None without one.
    """

    seconds: float
    peak_mb: float | None = None
    peak_gpu_mb: float | None = None


def provenance() -> dict[str, Any]:
    """Hardware, versions, commit and time of this process."""
    return {
        "hardware": machine(),
        "versions": versions(),
        "commit": commit(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


@dataclass(frozen=True)
class Claim:
    """The content of one file of a store.

    Attributes:
        about: the cell.
        outcome: ``ok`` or what the record says; of a mark ``failed`` or ``impossible``.
        record: flat record; a rate has ``NAME``, ``NAME_low``, ``NAME_high`` and ``NAME_n``.
        reason: a sentence, where there is one.
        doubts: why the numbers are not to be relied on.
        cost: time and memory; None where nothing ran.
        passes: encoder passes, where the record has them.
        artefacts: files in the artefact folder.
        blamed: key of the parent without which the cell could not run.
        traceback: of the error.
        log: last sentences of a cell that failed.
        origin: hardware, versions, commit and time.
    """

    about: About
    outcome: str
    record: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    doubts: tuple[str, ...] = ()
    cost: Cost | None = None
    passes: float | None = None
    artefacts: tuple[str, ...] = ()
    blamed: str = ""
    traceback: str = ""
    log: tuple[str, ...] = ()
    origin: Mapping[str, Any] = field(default_factory=provenance)

    def to_json(self) -> str:
        """The file's content; seeds and the reliability flag are spelled out for readers."""
        names = self.about.names
        content = asdict(self) | {
            "seeds": {name: value for name, value in names.items() if name.endswith("seed")},
            "reliable": not self.doubts,
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"


def claim_of(about: About, result: Result, cost: Cost, files: tuple[str, ...]) -> Claim:
    """The claim of a cell that ran.

    Raises:
        InputError: the record is not flat, or holds what is no finite number.
    """
    record = dict(result.record)
    nested = [name for name, v in record.items() if not isinstance(v, str | int | float | None)]
    if nested:
        raise InputError(
            f"Expected a flat record of a {about.kind} cell, got something else in "
            f"{', '.join(nested)}. Write it to a file in the cell's folder."
        )
    return Claim(
        about=about,
        outcome=str(record.pop("outcome", Outcome.OK.value)),
        record=record,
        reason=str(record.pop("reason", "")),
        doubts=result.doubts,
        cost=cost,
        passes=record.get("passes"),
        artefacts=files,
    )


def read_claim(path: Path) -> Claim:
    """Read a claim.

    Raises:
        InputError: the file is none.
    """
    try:
        content = json.loads(path.read_bytes())
        return _content().validate_python({"origin": {}, **content})
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"Expected a claim in {path}, got something else ({_told(error)}). "
            "Delete the file and run the grid again; the cell is then computed anew."
        ) from error


@lru_cache
def _content() -> TypeAdapter[Claim]:
    """What a file of a claim holds; beside it, it spells out a few things for readers."""
    return TypeAdapter(Claim)


def _told(error: Exception) -> str:
    """The first mistake, in a line."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}".lstrip(": ")
