"""Tables of the grids of ``invertune bench``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import yaml
from flare_tables import none_first
from rendering import Rows, crossed, distinct, markdown, mean, only, read

REPAIRS = ("none", "inver_tune", "fine_tuning", "clean_clip", "par")
FULL = Path(__file__).parent.parent / "configs" / "bench" / "full.yaml"
DEFENSES: list[str] = list(yaml.safe_load(FULL.read_text(encoding="utf-8"))["defenses"])
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
        rows = read("grid", kind="repair", base=base)
        victims = read("grid", kind="victim", base=base)
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
        rows = read("grid", kind="repair", base=base)
        victims = read("grid", kind="victim", base=base)
        attacks = none_first(rows)
        clean = ["clean model", *(mean(only(victims, attack=a), "asr_clean") for a in attacks)]
        cells = crossed(rows, "defense", DEFENSES, "attack", attacks, after)
        return markdown(["defence", *attacks], [clean, *cells])

    return made


def after(rows: Rows) -> str:
    """What a repair left; a suspect that was left as it is is marked."""
    if not rows:
        return "not run"
    if any("ca_after" not in row for row in rows):
        return detected(rows) or "; ".join(distinct(rows, "outcome"))
    told = f"{mean(rows, 'ca_after')} / {mean(rows, 'asr_after')}"
    if all("asr_rebound" in row for row in rows):
        told += f" → {mean(rows, 'asr_rebound')}"
    if rates := detected(rows):
        told += f" ({rates})"
    words = {"rejected": "nothing found", "failed": "repair failed"}
    missed = [words[name] for name in distinct(rows, "outcome") if name in words]
    return ", ".join([told, *missed])


def detected(rows: Rows) -> str:
    """TPR and FPR of a detector, what all of its rows have of them."""
    keys = [key for key in ("tpr", "fpr") if all(key in row for row in rows)]
    return ", ".join(f"{key.upper()} {mean(rows, key)}" for key in keys)
