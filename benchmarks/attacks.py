"""The bench of victims: does each attack take, and what does it cost in clean accuracy?

    python benchmarks/attacks.py --on demo --on demo_vit --seed 0 --seed 1 --seed 2

builds every victim of ``configs/victims`` on the clean model of each recipe (cached, resumable) and
writes ``benchmarks/results/attacks.json``. Rows of pairs that are not run again stay.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from invertune_plugin.benchmark.experiment.measuring import measure
from invertune_plugin.benchmark.experiment.models import benign_model
from invertune_plugin.benchmark.experiment.victims import BuiltVictim, build_victim, shipped_victims
from invertune_plugin.benchmark.experiment.victims import victim_recipe as recipe_of
from invertune_plugin.benchmark.record import Rows, merge_rows, rate_fields
from invertune_plugin.console import say, training_progress

RESULTS = Path(__file__).parent / "results" / "attacks.json"


def main(
    on: Annotated[list[str], typer.Option(help="Recipe; may be repeated.")],
    victim: Annotated[list[str], typer.Option(help="Only these victims.")] = [],  # noqa: B006
    seed: Annotated[list[int], typer.Option(help="May be repeated.")] = [0],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Result file.")] = RESULTS,
) -> None:
    """Build victims and write their rows."""
    for number in seed:
        for base in on:
            for name in victim or shipped_victims():
                with training_progress() as progress:
                    built = build_victim(recipe_of(name, base), number, progress)
                    benign = benign_model(
                        built.recipe, built.sources, built.clean, number, progress
                    )
                    models = {
                        "clean": built.classifier(built.clean),
                        "benign": built.classifier(benign),
                        "before": built.classifier(built.victim.loaded),
                    }
                found = rows(built, models, name, base, number)
                merge_rows(out, found, experiment, command_of)
                for row in found:
                    ca, asr = row["ca_before"], row["asr_before"]
                    say(f"{name} on {base}, seed {number}: CA {ca:.1%}, ASR {asr:.1%}")


def rows(built: BuiltVictim, models: dict[str, Any], name: str, base: str, seed: int) -> Rows:
    """One row per test set and backdoor."""
    found = []
    attack = built.recipe.attack
    for test in built.sources.tests():
        for number, backdoor in enumerate(built.victim.backdoors):
            row: dict[str, Any] = {
                "measure": "attack",
                "recipe": base,
                "attack": name,
                "tower": built.recipe.model,
                "data": test.name,
                "defense": "none",
                "seed": seed,
                "clean_seed": built.recipe.seed_of_clean(seed),
                "poisoned_rate": 0.0 if attack.encoder else attack.rate,
                "backdoor": number,
                "trigger": backdoor.trigger.fingerprint(),
                "target": backdoor.target,
                "seconds": built.victim.seconds,
            }
            for role, model in models.items():
                measured = measure(model, test, backdoor)
                row |= rate_fields(f"ca_{role}", measured.ca)
                row |= rate_fields(f"asr_{role}", measured.asr)
            found.append(row)
    return found


def experiment(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row belongs to: rows of one experiment are replaced together."""
    return row["recipe"], row["attack"], row["seed"]


def command_of(rows: Rows) -> str:
    """The commands that give these rows: recipes with the same seeds go together."""
    recipes: dict[tuple[int, ...], list[str]] = {}
    for name in sorted({row["recipe"] for row in rows}):
        seeds = sorted({row["seed"] for row in rows if row["recipe"] == name})
        recipes.setdefault(tuple(seeds), []).append(name)
    return " && ".join(
        " ".join(
            ["python benchmarks/attacks.py"]
            + [f"--on {name}" for name in names]
            + [f"--seed {number}" for number in seeds]
        )
        for seeds, names in recipes.items()
    )


if __name__ == "__main__":
    typer.run(main)
