"""The tables of README and docs, made from the committed results.

    python benchmarks/tables.py

rewrites what stands between ``<!-- table: NAME -->`` and ``<!-- end -->`` in README.md and docs/.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from bench_tables import PURIFIERS, REPAIRS, TOOLBOX, bench, by_defense, detected, rates
from flare_tables import (
    BOUNDS,
    SELECTIONS,
    clean_sizes,
    directions,
    labelled,
    pairs,
    shares,
    speed,
    trained_again,
    variants,
)
from rendering import Rows, crossed, distinct, markdown, mean, only, read, spread

ROOT = Path(__file__).parent.parent
MARKED = re.compile(r"(<!-- table: (.+?) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def main() -> None:
    """Rewrite the tables of all pages."""
    for page in pages():
        page.write_text(rewritten(page.read_text(encoding="utf-8")), encoding="utf-8")


def pages() -> list[Path]:
    """README and docs."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def rewritten(text: str) -> str:
    """A page with its marked tables made anew."""
    return MARKED.sub(lambda found: found[1] + TABLES[found[2]]() + "\n" + found[4], text)


def repairs() -> str:
    """InverTune on the shipped recipes: means over seeds, with their range."""
    head = ["recipe, test set", "model", "CA before", "CA after", "ASR before", "ASR after"]
    lines = []
    for recipe, data, told in (
        ("demo", "shapes", "demo, drawn scenes"),
        ("demo_vit", "shapes", "demo_vit, drawn scenes"),
        ("real", "tinyimagenet32-validation", "real, Tiny-ImageNet validation"),
        ("real", "cifar10-test", "real, CIFAR-10 test, zero-shot"),
    ):
        one = [
            row
            for row in read("repair", measure="repair", recipe=recipe, data=data)
            if row["attack"] != "none"
        ]
        none, ours = only(one, defense="none"), only(one, defense="invertune")
        lines += [
            [told, "clean", spread(none, "ca_clean"), "", spread(none, "asr_clean"), "", ""],
            [
                "",
                "victim, no defence",
                spread(none, "ca_before"),
                "",
                spread(none, "asr_before"),
                "",
                spread(none, "asr_rebound"),
            ],
            ["", "victim, InverTune", *repaired(ours), spread(ours, "asr_rebound")],
        ]
    return markdown([*head, "rebound"], lines)


def repaired(rows: Rows) -> list[str]:
    """CA before and after, ASR before and after; what was not repaired is counted."""
    keys = ("ca_before", "ca_after", "asr_before", "asr_after")
    told = [spread(rows, key) for key in keys]
    missed = len([row for row in rows if "asr_after" not in row])
    if missed:
        told[-1] = f"{told[-1]} missed {missed} of {len(rows)}".strip()
    return told


def toolbox(recipe: str, line: str, column: str) -> Callable[[], str]:
    """Table of a comparison inside the toolbox: CA / ASR afterwards, means over seeds."""

    def made() -> str:
        rows = read("toolbox", measure="comparison", recipe=recipe)
        lines, columns = distinct(rows, line), distinct(rows, column)
        return markdown([line, *columns], crossed(rows, line, lines, column, columns, cell))

    return made


def grid(*recipes: str) -> Callable[[], str]:
    """Table of comparisons inside the toolbox: a line per model and attack."""

    def made() -> str:
        rows = [
            row for name in recipes for row in read("toolbox", measure="comparison", recipe=name)
        ]
        defenses = distinct(rows, "defense")
        lines = []
        for tower in distinct(rows, "tower"):
            found, every = only(rows, tower=tower), distinct(rows, "attack")
            told = crossed(found, "attack", every, "defense", defenses, cell)
            lines += [[tower, *cells] for cells in told]
        return markdown(["model", "attack", *defenses], lines)

    return made


def cell(rows: Rows) -> str:
    """What came of the seeds of one pair: CA / ASR, or TPR and FPR, or why there is nothing."""
    if not rows:
        return "not run"
    told = []
    if all("ca_after" in row for row in rows):
        told.append(f"{mean(rows, 'ca_after')} / {mean(rows, 'asr_after')}")
    if rates := detected(rows):
        told.append(rates)
    other = [row for row in rows if row["outcome"] != "ok"]
    for outcome in distinct(other, "outcome"):
        share = f" {len(only(other, outcome=outcome))} of {len(rows)}" if len(rows) > 1 else ""
        reason = "" if told else f": {other[0]['reason']}"
        told.append(f"{outcome}{share}{reason}")
    return "; ".join(told)


MAIN_SETS = {
    "demo": "shapes",
    "demo_vit": "shapes",
    "real": "tinyimagenet32-validation",
    "real_vit": "tinyimagenet32-validation",
}
LEAST_ASR = {"wanet": 0.85, "badencoder": 0.85}


def attacks() -> str:
    """Victims of the bench: CA (difference to the clean reference) / ASR, means over seeds."""
    rows = read("attacks", measure="attack")
    recipes = [name for name in MAIN_SETS if only(rows, recipe=name)]
    lines = []
    for name in sorted(distinct(rows, "attack")):
        found = only(rows, attack=name)
        for number in sorted(set(distinct(found, "backdoor"))):
            same = only(found, backdoor=number)
            told = [victim(only(same, recipe=r, data=MAIN_SETS[r])) for r in recipes]
            lines.append([f"{name}, trigger {number + 1}" if number else name, *told])
    return markdown(["attack", *recipes], lines)


def victim(rows: Rows) -> str:
    """One attack on one model; a rate that misses its target is bold."""
    if not rows:
        return "not run"
    tuned = rows[0]["poisoned_rate"] > 0
    reference = "ca_benign" if tuned else "ca_clean"
    loss = sum(row[reference] - row["ca_before"] for row in rows) / len(rows)
    asr = sum(row["asr_before"] for row in rows) / len(rows)
    cost, told = f"{mean(rows, 'ca_before')} ({-100 * loss:+.1f})", spread(rows, "asr_before")
    least = LEAST_ASR.get(rows[0]["attack"], 0.9)
    return " / ".join(
        f"**{text}**" if missed else text
        for text, missed in ((cost, loss > 0.02), (told, asr < least))
    )


CIFAR_TRAINING = {"tower": "resnet18_narrow", "images": 10000, "epochs": 15}
TABLES: Mapping[str, Callable[[], str]] = {
    "repair": repairs,
    "attacks": attacks,
    "flare": labelled(
        CIFAR_TRAINING,
        *("flare", "directions", "spectral_signatures", "activation_clustering"),
    ),
    "flare retrained": trained_again(CIFAR_TRAINING),
    "flare selections": variants(CIFAR_TRAINING, SELECTIONS),
    "flare published": variants(CIFAR_TRAINING, BOUNDS),
    "flare clean": clean_sizes(
        {"data": "cifar10", "tower": "resnet18_narrow"}, "flare", "directions"
    ),
    "flare pairs": pairs,
    "flare shares": shares("real", "real_vit"),
    "flare speed": speed,
    "directions": directions,
    "bench": bench("demo", *REPAIRS, attacks=("none", "badclip", "badnets", "blended")),
    "rates": rates,
    "bench demo": bench("demo", *REPAIRS, "linear_probe", floor=True),
    "bench demo_vit": bench("demo_vit", *REPAIRS, "linear_probe", "rvpt", floor=True),
    "bench demo purifiers": bench("demo", *PURIFIERS, floor=True),
    "bench demo toolbox": bench("demo", *TOOLBOX),
    "bench demo_vit purifiers": bench("demo_vit", *PURIFIERS, floor=True),
    "bench demo_vit toolbox": bench("demo_vit", *TOOLBOX),
    "bench real": by_defense("real"),
    "toolbox attacks": toolbox("attacks", "attack", "tower"),
    "toolbox defenses": toolbox("defenses", "defense", "tower"),
    "toolbox table": grid("table", "table_resnet18"),
}

if __name__ == "__main__":
    main()
