"""Why ``directions`` misses poison: how deep the valley is that the truth itself would show.

    python benchmarks/valley_depth.py --on demo_vit --victim blended --victim badclip --seed 0

takes victims as ``benchmarks/flare_pairs.py`` does, and writes to
``benchmarks/results/valley_depth.json`` the best AUROC of an independent component; and AUROC,
depth and significance of the valley along the linear discriminant between poisoned and clean
pairs, which no search is given.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score

from invertune_plugin.benchmark.bench.opening import open_trained
from invertune_plugin.benchmark.bench.settings import settings_of_victim
from invertune_plugin.benchmark.bench.training import trained_on
from invertune_plugin.benchmark.record import Rows, merge_rows
from invertune_plugin.console import say
from invertune_plugin.data import in_memory
from invertune_plugin.defenses.flare.features import abnormal_features
from invertune_plugin.defenses.flare.sides import standardised
from invertune_plugin.defenses.purifiers.components import all_components, views_of
from invertune_plugin.defenses.purifiers.splitting import Directions
from invertune_plugin.defenses.purifiers.valleys import valley

RESULTS = Path(__file__).parent / "results" / "valley_depth.json"


def main(
    on: Annotated[list[str], typer.Option(help="Recipe; may be repeated.")],
    victim: Annotated[list[str], typer.Option(help="Attack; may be repeated.")],
    seed: Annotated[list[int], typer.Option(help="May be repeated.")] = [0],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Result file.")] = RESULTS,
) -> None:
    """One row per recipe, victim and seed."""
    for base in on:
        for attack in victim:
            for number in seed:
                row = {"recipe": base, "attack": attack, "seed": number}
                merge_rows(out, [row | measured(base, attack, number)], experiment, command_of)


def measured(base: str, attack: str, seed: int) -> dict[str, Any]:
    """How well poison can be told from what ``directions`` reads of a victim's pairs."""
    opened = open_trained(settings_of_victim(attack, base, seed), say)
    trained = trained_on(opened, seed, attacked=True)
    config = Directions()
    features = abnormal_features(opened.suspect, in_memory(trained.pairs), config.features, seed)
    poisoned = np.isin(np.arange(len(features.values)), list(trained.targets))
    values = standardised(features.values)
    components = all_components(values, views_of(features.layers), seed)
    best = max(abs(roc_auc_score(poisoned, found) - 0.5) + 0.5 for _, found in components)
    scores = LinearDiscriminantAnalysis().fit(values, poisoned).decision_function(values)
    found = valley(scores, replace(config, depth=1.0, significance=0.0))
    row = {
        "pairs": len(poisoned),
        "poisoned": int(poisoned.sum()),
        "component_auroc": round(float(best), 4),
        "discriminant_auroc": round(float(roc_auc_score(poisoned, scores)), 4),
        "depth": None if found is None else round(found.depth, 2),
        "significance": None if found is None else round(found.significance, 2),
        "depth_asked": config.depth,
        "significance_asked": config.significance,
    }
    say(f"{attack} on {base}, seed {seed}: {row}")
    return row


def experiment(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row belongs to."""
    return row["recipe"], row["attack"], row["seed"]


def command_of(rows: Rows) -> str:
    """The commands that give these rows."""
    return " && ".join(
        f"python benchmarks/valley_depth.py --on {row['recipe']} --victim {row['attack']} "
        f"--seed {row['seed']}"
        for row in rows
    )


if __name__ == "__main__":
    typer.run(main)
