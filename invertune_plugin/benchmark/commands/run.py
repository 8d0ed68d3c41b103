"""``invertune run``: a whole experiment from a recipe."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from invertune_plugin.adapters.tracking import Tracker
from invertune_plugin.benchmark.commands.tracking import log_repair, log_row, together, tracked
from invertune_plugin.benchmark.experiment.recipe import load_recipe
from invertune_plugin.benchmark.experiment.run import Experiment, run_recipe
from invertune_plugin.benchmark.judgement import judged
from invertune_plugin.benchmark.record import record
from invertune_plugin.benchmark.report.page import render
from invertune_plugin.benchmark.report.pages import experiment_page
from invertune_plugin.benchmark.report.wording import verdict
from invertune_plugin.checkpoints import refuse_existing, write_text
from invertune_plugin.console import say, table, training_progress

OUTPUTS = ("report.html", "result.json")
ROLES = ("clean", "victim", "repaired", "rebound")


def run_experiment(
    name: str, out: Path, seed: int, device: str, overwrite: bool, track: str | None = None
) -> None:
    """Run a recipe, print its table, write ``report.html`` and ``result.json``.

    Raises:
        InputError: recipe, device or output cannot be used.
    """
    recipe = load_recipe(name)
    for path in OUTPUTS:
        refuse_existing(out / path, overwrite)
    settings = {"recipe": asdict(recipe), "seed": seed}
    with together(device, track, f"run-{recipe.name}", settings) as (processes, tracker):
        with training_progress() as progress:
            found = run_recipe(recipe, seed, tracked(progress, tracker), say, processes)
        if processes.is_main:
            _write(found, name, out, overwrite)
            _track(found, tracker)


def _write(found: Experiment, name: str, out: Path, overwrite: bool) -> None:
    page, result = (out / path for path in OUTPUTS)
    content = record(f"invertune run {name} --seed {found.seed}", found.rows())
    write_text(page, render(experiment_page(found, content)), overwrite)
    write_text(result, json.dumps(content, indent=2), overwrite)
    _print(found)
    say(f"written: {page}, {result}")


def _track(found: Experiment, tracker: Tracker) -> None:
    log_repair(tracker, found.repair, "repair of the victim")
    log_repair(tracker, found.clean_repair, "repair of the clean model")
    for row in found.rows():
        name = "result" if row["attack"] != "none" else "result of the clean model"
        log_row(tracker, row, f"{name}/{row['data']}/{row['defense']}")


def _print(found: Experiment) -> None:
    roles = [role for role in ROLES if role in found.models]
    rows = []
    for test in found.tests:
        for metric in ("ca", "asr"):
            rates = [getattr(found.measured[role, test.name], metric) for role in roles]
            count = str(rates[0].n)
            rows.append(
                [test.name, metric.upper(), *(f"{rate.value:.1%}" for rate in rates), count]
            )
    table(["test set", "metric", *roles, "n"], rows)
    target = found.repair.found_label
    name = "none" if target is None else found.models["victim"].class_names[target]
    judgement = judged(found.repair, found.compared())
    say(f"victim: {judgement.outcome.value}, target found: {name}")
    say(verdict(found.repair, judgement, found.backdoor.target))
    say(f"clean model: {found.clean_repair.outcome.value}. {found.clean_repair.stages[-1].reason}")
