"""Repairs of the shipped recipes: CA and ASR before and after, work, overhead, time and memory.

    python benchmarks/repair.py --recipe demo --recipe real --seed 0 --seed 1 --seed 2 --costs

writes ``benchmarks/results/repair.json``. Rows of recipes and seeds that are not run again stay.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from invertune_plugin.benchmark.experiment.recipe import Recipe, load_recipe
from invertune_plugin.benchmark.experiment.run import run_recipe
from invertune_plugin.benchmark.experiment.sources import Sources
from invertune_plugin.benchmark.experiment.victims import build_victim
from invertune_plugin.benchmark.record import Rows, experiment, merge_rows
from invertune_plugin.console import say, training_progress
from invertune_plugin.defenses.invertune import repair_classifier
from invertune_plugin.passes import bare_seconds
from invertune_plugin.training import train_contrastive
from invertune_plugin.zero_shot import ZeroShotClassifier

RESULTS = Path(__file__).parent / "results" / "repair.json"


def main(
    recipe: Annotated[list[str], typer.Option(help="Recipe; may be repeated.")],
    seed: Annotated[list[int], typer.Option(help="Seed; may be repeated.")] = [0],  # noqa: B006
    rebound: Annotated[int, typer.Option(help="Benign steps after each repair.")] = 300,
    repairs: Annotated[bool, typer.Option(help="Run the recipes.")] = True,
    costs: Annotated[bool, typer.Option(help="Overhead, memory and wall time.")] = False,
    out: Annotated[Path, typer.Option(help="Result file.")] = RESULTS,
    memory_of: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Run recipes and write their rows."""
    chosen = load_recipe(recipe[0])
    if memory_of:
        print(json.dumps(peak(chosen, seed[0], memory_of)))
        return
    for name in recipe if repairs else []:
        for number in seed:
            with training_progress() as progress:
                job = replace(load_recipe(name), rebound_steps=rebound)
                found = run_recipe(job, number, progress, say)
            rows = [{**row, "measure": "repair"} for row in found.rows()]
            merge_rows(out, rows, experiment, command_of)
    if costs:
        for name in recipe:
            merge_rows(
                out, [overhead(name, seed[0]), memory(name, seed[0])], experiment, command_of
            )
        merge_rows(out, [wall(recipe[0])], experiment, command_of)


def command_of(rows: Rows) -> str:
    """The command that gives these rows."""
    recipes = sorted({row["recipe"] for row in rows})
    seeds = sorted({row["seed"] for row in rows if row["measure"] == "repair"})
    options = [f"--recipe {name}" for name in recipes] + [f"--seed {number}" for number in seeds]
    return " ".join(["python benchmarks/repair.py", *options, "--costs"])


def wall(name: str) -> dict[str, Any]:
    """Seconds of ``invertune run`` with an empty cache and with its models cached."""
    row: dict[str, Any] = {"measure": "wall", "recipe": name, "seed": 0}
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "INVERTUNE_CACHE": folder}
        for key in ("seconds_cold", "seconds_cached"):
            start = time.perf_counter()
            command = [sys.executable, "-m", "invertune_plugin", "run", name]
            command += ["--out", f"{folder}/out", "--overwrite"]
            subprocess.run(command, env=environment, check=True)
            row[key] = round(time.perf_counter() - start, 1)
    return row


def overhead(name: str, seed: int, turns: int = 3) -> dict[str, Any]:
    """Seconds of a repair over seconds of its bare encoder passes, least of alternating turns.

    The machine may be shared, so that single timings of seconds differ by half; the least ones of
    turns close together are the steadiest.
    """
    recipe = load_recipe(name)
    victim, sources = prepared(recipe, seed)
    images = sources.images("defence")
    seconds: dict[str, list[float]] = {}
    bare: dict[str, list[float]] = {}
    passes: dict[str, int] = {}
    for _ in range(turns):
        found = repair_classifier(victim, images, recipe.defence, seed)
        for stage in found.stages:
            work = found.work[stage.name]
            seconds.setdefault(stage.name, []).append(stage.seconds)
            bare.setdefault(stage.name, []).append(
                bare_seconds(victim.visual, work, victim.image_size)
            )
            passes[stage.name] = work.passes
    row: dict[str, Any] = {"measure": "overhead", "recipe": name, "seed": seed}
    for stage, least in ((name, min(values)) for name, values in seconds.items()):
        row[f"seconds_{stage}"] = round(least, 2)
        row[f"bare_seconds_{stage}"] = round(min(bare[stage]), 2)
        row[f"overhead_{stage}"] = round(least / min(bare[stage]), 3)
        row[f"passes_{stage}"] = passes[stage]
    row["seconds"] = round(sum(min(values) for values in seconds.values()), 2)
    row["bare_seconds"] = round(sum(min(values) for values in bare.values()), 2)
    row["overhead"] = round(row["seconds"] / row["bare_seconds"], 3)
    return row


def memory(name: str, seed: int) -> dict[str, Any]:
    """Peak memory of a repair and of a plain training step, each in a process of its own."""
    row: dict[str, Any] = {"measure": "memory", "recipe": name, "seed": seed}
    for what in ("loaded", "training_step", "repair"):
        command = [sys.executable, __file__, "--recipe", name, "--seed", str(seed)]
        done = subprocess.run(
            [*command, "--memory-of", what], capture_output=True, text=True, check=True
        )
        row[f"peak_mb_{what}"] = json.loads(done.stdout.splitlines()[-1])
    return row


def peak(recipe: Recipe, seed: int, what: str) -> float:
    """Peak resident memory of this process in MB after one of the tasks, models cached."""
    victim, sources = prepared(recipe, seed)
    if what == "training_step":
        train_contrastive(victim, sources.pairs("attack"), replace(recipe.clean, max_steps=3))
    else:
        images = sources.images("defence")
        if what == "repair":
            repair_classifier(victim, images, recipe.defence, seed)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def prepared(recipe: Recipe, seed: int) -> tuple[ZeroShotClassifier, Sources]:
    """The victim of a recipe, from the cache or trained, and the data."""
    with training_progress() as progress:
        built = build_victim(recipe, seed, progress)
    return built.classifier(built.victim.loaded), built.sources


if __name__ == "__main__":
    typer.run(main)
