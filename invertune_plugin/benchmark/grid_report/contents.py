"""A store as a report reads it: the newest claim of every cell of the grid, by its place."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from invertune_plugin.benchmark.grid.claims import Claim
from invertune_plugin.benchmark.grid.rows import identity, rank
from invertune_plugin.benchmark.grid.store import Store

SETTINGS = ("tower", "data", "base", "rebound")
PLACE = ("attack", "attack_file", "defense", "seed")
FILES = (".yaml", ".yml", ".json")
Names = Mapping[str, Any]


@dataclass(frozen=True, order=True)
class Place:
    """Where a cell stands in the tables of a grid, whatever its seed.

    Attributes:
        group: what a table is for: tower, data and benign steps, as (name, value).
        attack: row.
        defense: column.
    """

    group: tuple[tuple[str, str], ...]
    attack: str
    defense: str


@dataclass(frozen=True)
class Contents:
    """A store.

    Attributes:
        store: where files of cells are.
        cells: claims and marks of cells with attack and defence, by place and seed.
        claims: all claims and marks, parents included, by key.
        older: how many claims a newer one about the same cell replaces.
        fingerprint: SHA-256 of all claims and marks, as
            ``cat claims/*.json failures/*.json | sha256sum`` gives it.
        keys: of cells whose claims count more than newer ones of other settings or code.
    """

    store: Store
    cells: Mapping[Place, Mapping[str, Claim]]
    claims: Mapping[str, Claim]
    older: int
    fingerprint: str
    keys: frozenset[str] = frozenset()


def place_of(names: Names) -> Place | None:
    """The place of a cell; None where it has no attack or no defence, like a clean model."""
    if "attack" not in names or "defense" not in names:
        return None
    return Place(group_of(names), str(names["attack"]), str(names["defense"]))


def group_of(names: Names) -> tuple[tuple[str, str], ...]:
    """What the table of a cell is for: all names but those of the place in it, and of the seed.

    Files of one's own are called by their stem.
    """
    told = [name for name in SETTINGS if name in names]
    told += sorted(set(names) - {*SETTINGS, *PLACE})
    return tuple((name, _short(str(names[name]))) for name in told)


def read_contents(store: Store, keys: Iterable[str] = ()) -> Contents:
    """Read all claims of a store, and the marks of cells without one.

    Args:
        store: where they are.
        keys: of cells whose claims count more than newer ones of other settings or code.

    Raises:
        InputError: a file is no claim.
    """
    keys = frozenset(keys)
    every = sorted(store.standing(), key=lambda claim: rank_of(claim, keys))
    newest = {
        identity({"kind": claim.about.kind, "about": claim.about.names}): claim for claim in every
    }
    cells: dict[Place, dict[str, Claim]] = {}
    for claim in newest.values():
        place = place_of(claim.about.names)
        if place is not None:
            cells.setdefault(place, {})[seed_of(claim.about.names)] = claim
    claims = {claim.about.key: claim for claim in every}
    older = len(every) - len(newest)
    return Contents(store, cells, claims, older, _fingerprint(store), keys)


def rank_of(claim: Claim, keys: Container[str] = ()) -> tuple[bool, bool, str]:
    """``rank`` of a claim."""
    return rank(claim.outcome, claim.about.key in keys, claim.origin.get("created", ""))


def seed_of(names: Names) -> str:
    """The seed of a cell as text, "" where it has none."""
    return str(names.get("seed", ""))


def _fingerprint(store: Store) -> str:
    digest = hashlib.sha256()
    for folder in ("claims", "failures"):
        for key in sorted(store.keys(folder)):
            with suppress(FileNotFoundError):
                digest.update((store.root / folder / f"{key}.json").read_bytes())
    return digest.hexdigest()


def _short(value: str) -> str:
    path = PurePath(value)
    return path.stem if path.suffix in FILES else value
