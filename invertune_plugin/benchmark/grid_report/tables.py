"""Heat tables: attacks x defences, one table per tower and data, with means over seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import quote

from invertune_plugin.benchmark.grid.claims import Claim
from invertune_plugin.benchmark.grid.lineage import lineage
from invertune_plugin.benchmark.grid.summary import seed_order
from invertune_plugin.benchmark.grid_report.contents import (
    Contents,
    Names,
    Place,
    place_of,
    rank_of,
    seed_of,
)
from invertune_plugin.benchmark.grid_report.shares import Mean, mean_shares, shares_in
from invertune_plugin.outcome import Outcome

NOT_RUN = "not run"
NONE = "none"
BEFORE = "before any defence"


@dataclass(frozen=True)
class Position:
    """One place of a table: the cells of all its seeds.

    Attributes:
        place: where.
        claims: what the store has, by seed.
        not_run: seeds that it has nothing on.
        means: of all shares over the seeds that have them.
        mixed: whether its seeds, or what they rest on, were run with different settings.
    """

    place: Place
    claims: Mapping[str, Claim]
    not_run: tuple[str, ...]
    means: Mapping[str, Mean]
    mixed: bool

    @property
    def link(self) -> str:
        """The part of an address behind ``#``."""
        parts = [value for _, value in self.place.group]
        return "/".join(quote(p, safe="") for p in (*parts, self.place.attack, self.place.defense))

    @property
    def title(self) -> str:
        """Attack and defence, for people."""
        between = ", " if self.place.defense == BEFORE else " × "
        return f"{self.place.attack}{between}{self.place.defense}"

    @cached_property
    def states(self) -> Counter[str]:
        """How many cells ended how, those that were not run among them."""
        return Counter(c.outcome for c in self.claims.values()) + Counter(
            {NOT_RUN: len(self.not_run)}
        )

    @property
    def doubtful(self) -> bool:
        """Whether any of its cells is."""
        return any(claim.doubts for claim in self.claims.values())

    @property
    def remarks(self) -> list[str]:
        """Outcomes other than ok, with their share of the seeds, and doubt, in few words."""
        every = self.states.total()
        told = [
            name if count == every else f"{name} {count}/{every}"
            for name, count in self.states.items()
            if name != Outcome.OK.value
        ]
        return [*told, "⚠ doubtful"] if self.doubtful or self.mixed else told

    @property
    def words(self) -> str:
        """What a filter finds it by: ``name=value`` words of all its cells."""
        return self._words([*self.claims, *self.not_run], list(self.states), self.doubtful)

    def words_of(self, seed: str) -> str:
        """What a filter finds the cell of one seed by."""
        claim = self.claims[seed]
        return self._words([seed], [claim.outcome], bool(claim.doubts))

    def _words(self, seeds: Sequence[str], states: Sequence[str], doubtful: bool) -> str:
        names = [("attack", self.place.attack), ("defense", self.place.defense), *self.place.group]
        names += [("outcome", state) for state in states] + [("seed", seed) for seed in seeds]
        told = [f"{name}={'-'.join(value.split())}" for name, value in names]
        return " ".join([*told, "doubtful"] if doubtful else told).lower()


@dataclass(frozen=True)
class GridTable:
    """The table of one tower and data.

    Attributes:
        group: tower, data and benign steps, as (name, value).
        attacks: rows, the clean model first.
        defenses: columns, no defence first.
        seeds: of all cells.
        positions: by (attack, defence).
        before: the victim of each attack, as it was measured before any defence.
    """

    group: tuple[tuple[str, str], ...]
    attacks: tuple[str, ...]
    defenses: tuple[str, ...]
    seeds: tuple[str, ...]
    positions: Mapping[tuple[str, str], Position]
    before: Mapping[str, Position]

    @property
    def title(self) -> str:
        """Values of the group; steps with their unit."""
        told = [
            f"{value} benign steps" if name == "rebound" else value for name, value in self.group
        ]
        return ", ".join(told) or "the grid"


def tables_of(contents: Contents, planned: Iterable[Names] = ()) -> list[GridTable]:
    """All tables of a store.

    Every attack of a table meets every defence with every seed; what the store lacks of that was
    not run.

    Args:
        contents: of the store.
        planned: names of further cells of the grid, in the store or not.
    """
    wanted = {(place, seed) for place, seeds in contents.cells.items() for seed in seeds}
    for names in planned:
        place = place_of(names)
        if place is not None:
            wanted.add((place, seed_of(names)))
    groups = sorted({place.group for place, _ in wanted})
    return [_table(group, contents, wanted) for group in groups]


def _table(
    group: tuple[tuple[str, str], ...], contents: Contents, wanted: set[tuple[Place, str]]
) -> GridTable:
    mine = [(place, seed) for place, seed in wanted if place.group == group]
    attacks = _in_order(place.attack for place, _ in mine)
    defenses = _in_order(place.defense for place, _ in mine)
    seeds = tuple(sorted({seed for _, seed in mine}, key=seed_order))
    positions = {}
    for attack in attacks:
        for defense in defenses:
            place = Place(group, attack, defense)
            positions[attack, defense] = _position(place, contents, seeds)
    before = {attack: _before(attack, group, defenses, positions, contents) for attack in attacks}
    kept = {attack: found for attack, found in before.items() if found.claims}
    return GridTable(group, attacks, defenses, seeds, positions, kept)


def _position(place: Place, contents: Contents, seeds: tuple[str, ...]) -> Position:
    claims = contents.cells.get(place, {})
    known = {seed: claims[seed] for seed in seeds if seed in claims}
    missing = tuple(seed for seed in seeds if seed not in claims)
    return _positioned(place, known, missing, contents)


def _positioned(
    place: Place, known: Mapping[str, Claim], missing: tuple[str, ...], contents: Contents
) -> Position:
    shares = {seed: shares_in(claim.record) for seed, claim in known.items()}
    measured = [known[seed] for seed, found in shares.items() if found]
    settings = {lineage(claim, contents.claims) for claim in measured}
    return Position(place, known, missing, mean_shares(shares.values()), len(settings) > 1)


def _before(
    attack: str,
    group: tuple[tuple[str, str], ...],
    defenses: tuple[str, ...],
    positions: Mapping[tuple[str, str], Position],
    contents: Contents,
) -> Position:
    """What was measured before any defence: the nearest such steps of a row's cells, by seed."""
    found: dict[str, Claim] = {}
    for defense in defenses:
        for claim in positions[attack, defense].claims.values():
            seed = seed_of(claim.about.names)
            for before in _undefended(claim, contents):
                if before.about.names.get("attack") == attack:
                    known = found.get(seed, before)
                    found[seed] = max(known, before, key=lambda one: rank_of(one, contents.keys))
    return _positioned(Place(group, attack, BEFORE), found, (), contents)


def _undefended(claim: Claim, contents: Contents) -> list[Claim]:
    """The nearest steps before a cell that are about no defence."""
    found: list[Claim] = []
    for key in claim.about.parents:
        if (parent := contents.claims.get(key)) is not None:
            defended = "defense" in parent.about.names
            found += _undefended(parent, contents) if defended else [parent]
    return found


def _in_order(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(names), key=lambda name: (name != NONE, name)))
