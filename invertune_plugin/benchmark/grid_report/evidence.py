"""The evidence behind each position of the tables, as JSON for the page's script.

A store is untrusted: only pictures that are PNG files inside it are shown, and what is long is cut.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from invertune_plugin.benchmark.grid.claims import Claim
from invertune_plugin.benchmark.grid.store import Store
from invertune_plugin.benchmark.grid.work import LOG
from invertune_plugin.benchmark.grid_report.contents import Contents
from invertune_plugin.benchmark.grid_report.measures import in_reading_order
from invertune_plugin.benchmark.grid_report.shares import shares_in
from invertune_plugin.benchmark.grid_report.tables import GridTable, Position
from invertune_plugin.benchmark.report.evidence_files import CAPTIONS, CURVES, MOST_POINTS

PNG = b"\x89PNG\r\n\x1a\n"
MOST_OF_A_PICTURE = 256 * 1024
MOST_OF_A_FILE = 1024 * 1024
MOST_LINES, MOST_CHARACTERS = 40, 4000
MOST_CURVES = 8
T = TypeVar("T")
Curves = TypeAdapter(dict[str, list[tuple[int, float]]])


@dataclass
class Evidence:
    """What the script shows when a cell is opened.

    Attributes:
        positions: by link: title, keys of claims, seeds that were not run.
        claims: by key.
        pictures: data URIs, each content once.
        origins: hardware, versions and commit, each combination once.
        shown: pictures by digest, as places in ``pictures``.
        left_out: digests of pictures for which there was no room.
    """

    positions: dict[str, Any] = field(default_factory=dict)
    claims: dict[str, Any] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)
    origins: list[Any] = field(default_factory=list)
    shown: dict[str, int] = field(default_factory=dict)
    left_out: set[str] = field(default_factory=set)

    def as_json(self) -> dict[str, Any]:
        """For the page."""
        return {
            "positions": self.positions,
            "claims": self.claims,
            "pictures": self.pictures,
            "origins": self.origins,
            "captions": CAPTIONS,
            "titles": self.titles,
        }

    @property
    def titles(self) -> dict[str, str]:
        """Titles of all shares, in reading order."""
        names = (name for claim in self.claims.values() for name in claim["shares"])
        return {measure.name: measure.title for measure in in_reading_order(names)}


def evidence_of(contents: Contents, tables: Iterable[GridTable], room: int) -> Evidence:
    """Everything that the page shows of single cells.

    Args:
        contents: of the store.
        tables: positions whose evidence is wanted.
        room: bytes for pictures; further ones are left out and counted.
    """
    made = Evidence()
    for table in tables:
        for position in (*table.positions.values(), *table.before.values()):
            made.positions[position.link] = _position(position, table)
            for claim in position.claims.values():
                _add(made, claim, contents, room)
    return made


def _position(position: Position, table: GridTable) -> dict[str, Any]:
    victim = table.before.get(position.place.attack)
    means = {**before_defence(victim.means if victim else {}), **position.means}
    return {
        "title": position.title,
        "table": table.title,
        "runs": [[seed, claim.about.key] for seed, claim in position.claims.items()],
        "notRun": position.not_run,
        "means": {name: [mean.value, mean.low, mean.high] for name, mean in means.items()},
    }


def before_defence(means: Mapping[str, T]) -> dict[str, T]:
    """What a victim's cell says of it as it is; its rebound is not that of a repaired model."""
    return {name: mean for name, mean in means.items() if "_rebound" not in name}


def _add(made: Evidence, claim: Claim, contents: Contents, room: int) -> None:
    """Take in a claim and those before it, once each."""
    key = claim.about.key
    if key in made.claims:
        return
    before = ancestors(claim, contents)
    shares = shares_in(claim.record)
    beside = {f"{name}{end}" for name in shares for end in ("", "_low", "_high", "_n")}
    origin = _plain({k: v for k, v in claim.origin.items() if k != "created"})
    if origin not in made.origins:
        made.origins.append(origin)
    record = {name: value for name, value in claim.record.items() if name not in beside}
    made.claims[key] = {
        "kind": claim.about.kind,
        "names": _plain(claim.about.names),
        "settings": _plain(claim.about.settings),
        "before": [ancestor.about.key for ancestor in before],
        "outcome": claim.outcome,
        "reason": claim.reason,
        "doubts": claim.doubts,
        "shares": {n: [s.value, s.low, s.high, s.n] for n, s in shares.items()},
        "record": _plain(record),
        "cost": None if claim.cost is None else _plain(vars(claim.cost)),
        "passes": _plain(claim.passes),
        "origin": made.origins.index(origin),
        "created": _plain(claim.origin.get("created")),
        "traceback": claim.traceback[-MOST_CHARACTERS:],
        "log": "\n".join(claim.log[-MOST_LINES:]) or _log(contents.store, claim),
        "curves": _curves(contents.store, claim),
        "pictures": _pictures(made, contents.store, claim, room),
    }
    for ancestor in before:
        _add(made, ancestor, contents, room)


def ancestors(claim: Claim, contents: Contents) -> list[Claim]:
    """The claims that a claim rests on, furthest first."""
    found: dict[str, Claim] = {}
    open_keys = list(claim.about.parents)
    while open_keys:
        key = open_keys.pop()
        if key in contents.claims and key not in found and key != claim.about.key:
            found[key] = contents.claims[key]
            open_keys.extend(found[key].about.parents)
    return list(reversed(found.values()))


def _pictures(made: Evidence, store: Store, claim: Claim, room: int) -> list[list[Any]]:
    """(name, place in the list of pictures) of a cell; None as place where there was no room."""
    found: list[list[Any]] = []
    for name in claim.artefacts:
        if not name.endswith(".png"):
            continue
        content = _file(store, claim, name, MOST_OF_A_PICTURE)
        if not content.startswith(PNG):
            continue
        digest = hashlib.sha256(content).hexdigest()
        if digest not in made.shown and digest not in made.left_out:
            uri = f"data:image/png;base64,{base64.b64encode(content).decode()}"
            if sum(map(len, made.pictures)) + len(uri) <= room:
                made.shown[digest] = len(made.pictures)
                made.pictures.append(uri)
            else:
                made.left_out.add(digest)
        found.append([name.removesuffix(".png"), made.shown.get(digest)])
    order = list(CAPTIONS)
    return sorted(found, key=lambda p: order.index(p[0]) if p[0] in order else len(order))


def _curves(store: Store, claim: Claim) -> dict[str, Any]:
    if CURVES not in claim.artefacts:
        return {}
    try:
        found = Curves.validate_json(_file(store, claim, CURVES, MOST_OF_A_FILE))
    except ValidationError:
        return {}
    kept = list(found.items())[:MOST_CURVES]
    finite = {name: [p for p in points if math.isfinite(p[1])] for name, points in kept}
    return {name: points[:MOST_POINTS] for name, points in finite.items() if len(points) > 1}


def _log(store: Store, claim: Claim) -> str:
    """The last lines of a cell's log."""
    if LOG not in claim.artefacts:
        return ""
    text = _file(store, claim, LOG, MOST_OF_A_FILE).decode("utf-8", "replace")
    return "\n".join(text.splitlines()[-MOST_LINES:])[-MOST_CHARACTERS:]


def _file(store: Store, claim: Claim, name: str, most: int) -> bytes:
    """A file of a cell; nothing where it is gone, too large, or not inside the store."""
    if "\0" in name:
        return b""
    root = (store.root / "artefacts").resolve()
    path = (root / claim.about.key / name).resolve()
    if not path.is_relative_to(root) or not path.is_file() or path.stat().st_size > most:
        return b""
    return path.read_bytes()


def _plain(value: Any) -> Any:
    """The same as JSON has it: numbers that are none become None."""
    if isinstance(value, Mapping):
        return {str(name): _plain(v) for name, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
