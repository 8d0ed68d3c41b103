"""Tables of the grids of ``invertune bench``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from flare_tables import none_first
from rendering import Rows, crossed, distinct, markdown, mean, only, read

REPAIRS = ("none", "inver_tune", "fine_tuning", "clean_clip", "par")
FULL = Path(__file__).parent.parent / "configs" / "bench" / "full.yaml"
GRID = yaml.safe_load(FULL.read_text(encoding="utf-8"))
DEFENSES: list[str] = list(GRID["defenses"])
PURIFIERS = [name for name in DEFENSES if name.startswith("purify:")]
TOOLBOX = [name for name in DEFENSES if name.startswith("toolbox:")]


def bench(
    base: str, *defenses: str, attacks: Sequence[str] = (), floor: bool = False
) -> Callable[[], str]:
    """Table of a grid: CA / ASR afterwards, ASR after benign steps, rates of what was found.

    Args:
        base: recipe of the models.
        defenses: columns.
        attacks: lines; all that are there where none are named.
        floor: also the share of triggered images that the clean model reads as the target, below
            which no repair is expected to come.
    """

    def made() -> str:
        rows, victims = cells_of("repair", base), cells_of("victim", base)
        lines = attacks or none_first(rows)
        cells = crossed(rows, "attack", lines, "defense", defenses, after)
        head = ["attack", *defenses]
        if floor:
            head.insert(1, "clean model")
            for cell in cells:
                cell.insert(1, mean(only(victims, attack=cell[0]), "asr_clean"))
        return markdown(head, cells)

    return made


def by_defense(base: str) -> Callable[[], str]:
    """Table of a grid of few attacks: a line for each defence, and the clean model's own first."""

    def made() -> str:
        rows, victims = cells_of("repair", base), cells_of("victim", base)
        attacks = none_first(rows)
        clean = ["clean model", *(mean(only(victims, attack=a), "asr_clean") for a in attacks)]
        cells = crossed(rows, "defense", DEFENSES, "attack", attacks, after)
        return markdown(["defence", *attacks], [clean, *cells])

    return made


def rates() -> str:
    """Baselines on the drawn ResNet at their own rate and at a higher one."""
    usual, higher = cells_of("repair", "demo"), read("rates", kind="repair")
    defenses = distinct(higher, "defense")
    columns = {f"{name}{told}": name for name in defenses for told in ("", ", higher rate")}
    lines = [
        [
            attack,
            *(
                after(only(higher if "," in title else usual, attack=attack, defense=name))
                for title, name in columns.items()
            ),
        ]
        for attack in none_first(higher)
    ]
    return markdown(["attack", *columns], lines)


def cells_of(kind: str, base: str) -> Rows:
    """Rows of victims or repairs of a recipe, at the benign steps of the full grid."""
    return read("grid", kind=kind, base=base, rebound=GRID["rebound"])


def after(rows: Rows) -> str:
    """What a repair left, over its seeds; where a suspect was left as it was, that is told."""
    if not rows:
        return "not run"
    measured = [row for row in rows if "ca_after" in row]
    told = [f"{mean(measured, 'ca_after')} / {mean(measured, 'asr_after')}"] if measured else []
    again = [row for row in measured if "asr_rebound" in row]
    if again:
        told[0] += f" → {mean(again, 'asr_rebound')}"
    if rates := detected(rows):
        told = [f"{told[0]} ({rates})" if told else rates]
    words = {"rejected": "nothing found", "failed": "repair failed"} if told else {}
    for outcome in distinct(rows, "outcome"):
        if outcome != "ok":
            count = len(only(rows, outcome=outcome))
            share = "" if count == len(rows) else f" {count} of {len(rows)}"
            told.append(words.get(outcome, outcome) + share)
    return ", ".join(told)


def detected(rows: Rows) -> str:
    """TPR and FPR of a detector, over the seeds that have them."""
    found = {key: [row for row in rows if key in row] for key in ("tpr", "fpr")}
    return ", ".join(f"{key.upper()} {mean(of, key)}" for key, of in found.items() if of)
