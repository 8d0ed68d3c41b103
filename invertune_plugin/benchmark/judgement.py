"""What measurements say of a repair that took itself for complete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from invertune_plugin.defenses.invertune.pipeline import Repair
from invertune_plugin.metrics import Rate
from invertune_plugin.outcome import Outcome

MOST_ASR = 0.1
MOST_LOST = 0.1

HIGHER: Literal["higher is better"] = "higher is better"
LOWER: Literal["lower is better"] = "lower is better"


@dataclass(frozen=True)
class BeforeAfter:
    """One measurement around a repair; None is shown as not measured.

    Attributes:
        metric: what was measured on what, for instance ``"CA on shapes"``.
        clean: on the clean model.
        before: on the suspect.
        after: on the repaired model.
        rebound: after benign training of the repaired model.
        better: which way is good; what is better lower is the attacker's success, what is better
            higher the clean accuracy.
    """

    metric: str
    clean: Rate | None = None
    before: Rate | None = None
    after: Rate | None = None
    rebound: Rate | None = None
    better: Literal["", "higher is better", "lower is better"] = ""

    @property
    def floor(self) -> float:
        """An attack success that proves nothing: 10 %, or what a clean model has anyway."""
        return max(MOST_ASR, self.clean.interval[1] if self.clean else 0.0)


@dataclass(frozen=True)
class Judgement:
    """The outcome of a repair, measurements included.

    Attributes:
        outcome: the repair's own, and failed where one of the next two is there.
        left: attack success after a repair, where the attacker's trigger still works.
        lost: clean accuracy before and after a repair, where it lost more than ten points.
        back: attack success after benign training, where the trigger works again.
        attacked: highest attack success before the repair; None where none was measured.
        works: whether that is more than a clean model may have.
    """

    outcome: Outcome
    left: Rate | None = None
    lost: tuple[Rate, Rate] | None = None
    back: Rate | None = None
    attacked: Rate | None = None
    works: bool = True


def judged(repair: Repair, rows: Sequence[BeforeAfter]) -> Judgement:
    """Hold a repair against what was measured of it.

    Args:
        repair: what the defence found and did.
        rows: measurements; those without images say nothing.
    """
    attacks = [row for row in rows if row.better == LOWER]
    before = [(row.before, row.floor) for row in attacks if row.before and row.before.n]
    attacked = max((rate for rate, _ in before), key=_value, default=None)
    works = not before or any(rate.value > floor for rate, floor in before)
    if repair.outcome is not Outcome.OK:
        return Judgement(repair.outcome, attacked=attacked, works=works)
    left = _largest([(row.after, row.floor) for row in attacks])
    lost = [
        (row.before, row.after)
        for row in rows
        if row.better == HIGHER and row.before and row.after and row.before.n and row.after.n
    ]
    most = max(lost, key=lambda pair: pair[0].value - pair[1].value, default=None)
    if most is not None and most[0].value - most[1].value <= MOST_LOST:
        most = None
    outcome = repair.outcome if left is None and most is None else Outcome.FAILED
    back = _largest([(row.rebound, row.floor) for row in attacks])
    return Judgement(outcome, left, most, back, attacked, works)


def _largest(rates: Sequence[tuple[Rate | None, float]]) -> Rate | None:
    """The largest rate above its floor."""
    above = [rate for rate, floor in rates if rate is not None and rate.n and rate.value > floor]
    return max(above, key=_value, default=None)


def _value(rate: Rate) -> float:
    return rate.value
