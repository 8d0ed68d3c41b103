"""Purifiers of image-caption pairs: what they find of the pairs that CLIP victims were trained on.

    python benchmarks/flare_pairs.py --on demo --on demo_vit --victim none --victim badnets \
        --by flare --by "flare {features: {measure: deviation}, refine: true}" --by k_distance

takes victims of ``invertune attack`` from the cache, or makes them, and writes
``benchmarks/results/flare_pairs.json``, each row as soon as it is done. Of ``none`` the model is
the clean one after the same fine-tuning on the same pairs without poison. ``--rate`` poisons
another share of the pairs than the recipe does.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from invertune_plugin.benchmark.bench.opening import Opened, open_trained
from invertune_plugin.benchmark.bench.settings import recipe_in, settings_of_victim
from invertune_plugin.benchmark.bench.training import trained_on
from invertune_plugin.benchmark.detection import check_purifier, name_and_options, search_fields
from invertune_plugin.benchmark.experiment.made_of import described
from invertune_plugin.benchmark.experiment.measuring import measure_all
from invertune_plugin.benchmark.experiment.victims import CLEAN
from invertune_plugin.benchmark.record import Rows, merge_rows, rate_fields
from invertune_plugin.benchmark.report.removed_picture import write_removed
from invertune_plugin.console import say
from invertune_plugin.data import in_memory
from invertune_plugin.defenses.purifiers import run_purifier

Group = tuple[str, str, float | None]
"""Recipe, purifier and poisoned share of a command."""
RESULTS = Path(__file__).parent / "results" / "flare_pairs.json"


def main(
    on: Annotated[list[str], typer.Option(help="Recipe; may be repeated.")],
    victim: Annotated[list[str], typer.Option(help="Attack, or none; may be repeated.")],
    by: Annotated[list[str], typer.Option(help="Purifier, with options in YAML after its name.")],
    seed: Annotated[list[int], typer.Option(help="May be repeated.")] = [0],  # noqa: B006
    rate: Annotated[
        list[float], typer.Option(help="Poisoned share; may be repeated. The recipe's own if none.")
    ] = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Result file.")] = RESULTS,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder for a picture of what each search removed.")
    ] = None,
) -> None:
    """One row per recipe, victim, seed and purifier."""
    for purifier in by:
        check_purifier(purifier)
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
    wanted = itertools.product(seed, on, victim, rate or [None])
    for number, base, attack, share in wanted:
        opened = open_trained(settings_of(attack, base, number, share), say)
        suspect = measure_all(opened.suspect, opened.tests[0], opened.backdoors)
        for purifier in by:
            row: dict[str, Any] = {"measure": "pairs", "recipe": base}
            row |= {"tower": opened.recipe.model, "attack": attack, "seed": number}
            row |= {"rate": share, "defense": purifier}
            row |= rate_fields("ca_before", suspect.ca) | rate_fields("asr_before", suspect.asr)
            row |= searched(opened, attack, number, purifier, pictures)
            merge_rows(out, [row], experiment, command_of)
            told = ("recipe", "attack", "rate", "defense", "outcome", "tpr", "fpr", "auroc")
            say(json.dumps({key: row.get(key) for key in told}))


def settings_of(attack: str, base: str, seed: int, rate: float | None) -> dict[str, Any]:
    """Settings of a victim with another poisoned share where one is given."""
    settings = settings_of_victim(attack, base, seed)
    if rate is None:
        return settings
    recipe = settings["recipe"]
    changed = settings | {"recipe": recipe | {"attack": recipe["attack"] | {"rate": rate}}}
    return changed | {"made_of": described(recipe_in(changed).attack)}


def searched(
    opened: Opened, attack: str, seed: int, purifier: str, pictures: Path | None
) -> dict[str, Any]:
    """Fields of a search by ``NAME`` or ``NAME {options}``; its picture where there is a folder."""
    name, options = name_and_options(purifier)
    trained = trained_on(opened, seed, attack != CLEAN)
    pairs = in_memory(trained.pairs)
    start = time.perf_counter()
    found = run_purifier(name, opened.suspect, pairs, options, seed, say)
    stage = found.stages[-1]
    if pictures is not None and found.poisoned:
        tower = Path(str(opened.recipe.model)).stem
        told = re.sub(r"\W+", "_", purifier).strip("_")
        write_removed(pictures / f"{tower}_{attack}_{seed}_{told}.png", pairs, found)
    return {
        "pairs": len(pairs),
        "poisoned": len(trained.targets),
        "seconds": round(time.perf_counter() - start, 1),
        "outcome": found.outcome.value,
        "reason": stage.reason,
        "evidence": stage.evidence,
        **search_fields(found, sorted(trained.targets)),
    }


def experiment(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row belongs to."""
    return row["recipe"], row["attack"], row["seed"], row.get("rate"), row["defense"]


def command_of(rows: Rows) -> str:
    """The commands that give these rows: one for seeds with the same victims."""
    victims: dict[tuple[Group, int], set[str]] = {}
    for row in rows:
        group = (row["recipe"], row["defense"], row.get("rate"))
        victims.setdefault((group, row["seed"]), set()).add(row["attack"])
    seeds: dict[tuple[Group, tuple[str, ...]], list[int]] = {}
    for (group, seed), names in sorted(victims.items(), key=str):
        seeds.setdefault((group, tuple(sorted(names))), []).append(seed)
    commands = []
    for ((recipe, by, rate), attacks), numbers in seeds.items():
        words = [f"--on {recipe}", *(f"--victim {name}" for name in attacks)]
        words += [*(f"--seed {number}" for number in numbers), f"--by '{by}'"]
        words += [] if rate is None else [f"--rate {rate}"]
        commands.append("python benchmarks/flare_pairs.py " + " ".join(words))
    return " && ".join(sorted(commands))


if __name__ == "__main__":
    typer.run(main)
