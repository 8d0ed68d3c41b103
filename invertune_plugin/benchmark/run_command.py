"""``invertune run``: a whole experiment from a recipe."""

from __future__ import annotations

import json
from pathlib import Path

from invertune_plugin.benchmark.pages import experiment_page
from invertune_plugin.benchmark.recipe import load_recipe
from invertune_plugin.benchmark.record import record
from invertune_plugin.benchmark.report import render
from invertune_plugin.benchmark.run import Experiment, run_recipe
from invertune_plugin.checkpoints import refuse_existing, write_text
from invertune_plugin.console import say, table, training_progress
from invertune_plugin.devices import pick_device

ROLES = ("clean", "victim", "repaired", "rebound")


def run_experiment(name: str, out: Path, seed: int, device: str, overwrite: bool) -> None:
    """Run a recipe, print its table, write ``report.html`` and ``result.json``.

    Raises:
        InputError: recipe, device or output cannot be used.
    """
    recipe = load_recipe(name)
    place = pick_device(device)
    page, result = out / "report.html", out / "result.json"
    for path in (page, result):
        refuse_existing(path, overwrite)
    with training_progress() as progress:
        found = run_recipe(recipe, seed, progress, say, str(place))
    content = record(f"invertune run {name} --seed {seed}", found.rows())
    write_text(page, render(experiment_page(found, content)), overwrite)
    write_text(result, json.dumps(content, indent=2), overwrite)
    _print(found)
    say(f"written: {page}, {result}")


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
    say(f"victim: {found.repair.outcome.value}, target found: {name}")
    say(f"clean model: {found.clean_repair.outcome.value}. {found.clean_repair.stages[-1].reason}")
