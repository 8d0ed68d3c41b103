"""Defences side by side: one row each, over all attacks of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from invertune_plugin.benchmark.grid.rows import is_number
from invertune_plugin.benchmark.grid_report.tables import NONE, GridTable, Position


@dataclass(frozen=True)
class Standing:
    """One defence in one table; None where nothing was measured.

    Attributes:
        defense: its name.
        attacks: how many attacks were measured, the clean model not counted.
        asr: mean over these attacks after the defence, in [0, 1].
        worst: the attack that is left with most, and its ASR.
        rebound: mean ASR after rebound.
        ca_change: mean change of CA, in [-1, 1]: what each cell says that it cost, else against
            the mean of the victims.
        ca_change_clean: change of CA on the clean model.
        false_alarms: (alarms, clean models), for defences that say whether there is a backdoor.
        seconds: mean of its cells.
    """

    defense: str
    attacks: int
    asr: float | None
    worst: tuple[str, float] | None
    rebound: float | None
    ca_change: float | None
    ca_change_clean: float | None
    false_alarms: tuple[int, int] | None
    seconds: float | None


def standings(table: GridTable) -> list[Standing]:
    """One row per defence, lowest mean ASR first; none where a table has no ASR.

    Args:
        table: means of attacks are means over seeds.
    """
    rows = [_standing(table, defense) for defense in table.defenses]
    known = [row for row in rows if row.asr is not None]
    return sorted(known, key=lambda row: row.asr or 0.0)


def complete(table: GridTable, row: Standing) -> bool:
    """Whether a defence has an ASR of all attacks and seeds of a table."""
    cells = [table.positions[a, row.defense].claims for a in table.attacks if a != NONE]
    return bool(cells) and all(
        seed in claims and {"asr_after", "asr"} & claims[seed].record.keys()
        for claims in cells
        for seed in table.seeds
    )


def points(change: float) -> str:
    """A change of a share in percentage points."""
    return f"{100 * change:+.1f}".replace("-", "\N{MINUS SIGN}")


def _standing(table: GridTable, defense: str) -> Standing:
    attacked = {a: table.positions[a, defense] for a in table.attacks if a != NONE}
    every = [table.positions[a, defense] for a in table.attacks]
    left = {a: found for a, p in attacked.items() if (found := _after(p, "asr")) is not None}
    worst = max(left.items(), key=lambda item: item[1], default=None)
    return Standing(
        defense=defense,
        attacks=len(left),
        asr=_mean(list(left.values())),
        worst=worst,
        rebound=_mean(
            [p.means["asr_rebound"].value for p in attacked.values() if "asr_rebound" in p.means]
        ),
        ca_change=_mean([c for a in attacked if (c := _change(table, a, defense)) is not None]),
        ca_change_clean=_change(table, NONE, defense) if NONE in table.attacks else None,
        false_alarms=_false_alarms(every),
        seconds=_mean([c.cost.seconds for p in every for c in p.claims.values() if c.cost]),
    )


def _after(position: Position, kind: str) -> float | None:
    """CA or ASR after a defence; grids of one's own may call it just that."""
    for name in (f"{kind}_after", kind):
        if name in position.means:
            return position.means[name].value
    return None


def _change(table: GridTable, attack: str, defense: str) -> float | None:
    position = table.positions[attack, defense]
    told = [claim.record.get("ca_lost") for claim in position.claims.values()]
    lost = [float(one) for one in told if one is not None and is_number(one)]
    if lost:
        return -fmean(lost)
    after = _after(position, "ca")
    before = table.before.get(attack)
    if after is None or before is None or "ca_before" not in before.means:
        return None
    return after - before.means["ca_before"].value


def _false_alarms(positions: Sequence[Position]) -> tuple[int, int] | None:
    claims = [claim for position in positions for claim in position.claims.values()]
    alarms = [a for c in claims if isinstance(a := c.record.get("false_alarm"), bool)]
    return (sum(alarms), len(alarms)) if alarms else None


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if is_number(value)]
    return fmean(known) if known else None
