"""``invertune toolbox run``: a comparison inside BackdoorBox, kept row by row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from invertune_plugin.adapters.backdoorbox.loader import load_toolbox
from invertune_plugin.benchmark.experiment.recipe import recipe_settings
from invertune_plugin.benchmark.provenance import commit
from invertune_plugin.benchmark.record import record
from invertune_plugin.benchmark.toolbox.grid import Row, key_of, run_grid
from invertune_plugin.benchmark.toolbox.recipe import ToolboxRecipe, load_toolbox_recipe
from invertune_plugin.console import say, table, training_progress
from invertune_plugin.errors import InputError
from invertune_plugin.files import refuse_existing, write_text
from invertune_plugin.outcome import Outcome


def run_comparison(
    name: str,
    out: Path,
    seeds: list[int],
    path: Path | None,
    overwrite: bool,
    again: bool = False,
) -> list[Row]:
    """Run a comparison, or go on with one that was stopped; print its table.

    Args:
        name: of a shipped comparison, or the path of a YAML file.
        out: folder for ``result.json``, images, logs and checkpoints. A row is kept there as soon
            as it is done, and only missing ones are run.
        seeds: of the runs.
        path: the clone; ``BACKDOORBOX_HOME`` where omitted.
        overwrite: start anew.
        again: run what failed once more.

    Returns:
        All rows, of earlier runs too.

    Raises:
        InputError: recipe, toolbox or output cannot be used, or another run works there.
    """
    recipe = load_toolbox_recipe(name)
    result = out / "result.json"
    settings = json.loads(json.dumps(asdict(recipe) | {"recipes": _recipes_of(recipe)}))
    command = f"invertune toolbox run {name} " + " ".join(f"--seed {seed}" for seed in seeds)
    with _alone(out):
        rows = [] if overwrite else _earlier(result, settings)
        if again:
            rows = [row for row in rows if row["outcome"] != Outcome.FAILED.value]
        refuse_existing(result, overwrite=True)
        core = load_toolbox(path)
        with _anew(result) if overwrite else nullcontext(), training_progress() as progress:
            for seed in seeds:
                done = {key_of(row) for row in rows}
                for row in run_grid(core, recipe, seed, out, done, progress, say):
                    rows.append(row | {"commit": commit()})
                    content = {"recipe": settings, **record(command, rows)}
                    write_text(result, json.dumps(content, indent=1), overwrite=True)
    print_comparison(rows)
    say(f"written: {result}")
    return rows


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Nobody else writes there; two runs would lose each other's rows."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Expected a folder to write to, got {out}: {error}.") from error
    try:
        with FileLock(out / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise InputError(
            f"Expected to be alone in {out}, but another run works there. Wait for it, name all "
            "seeds in one run, or choose another --out."
        ) from error


@contextmanager
def _anew(result: Path) -> Iterator[None]:
    """Forget an earlier result; bad input that allows no new row brings it back."""
    earlier = result.with_name(f".{result.name}.earlier")
    if result.exists():
        result.replace(earlier)
    try:
        yield
    except InputError:
        if earlier.exists() and not result.exists():
            earlier.replace(result)
        raise
    finally:
        earlier.unlink(missing_ok=True)


def print_comparison(rows: list[Row]) -> None:
    """Print CA and ASR per cell, means over seeds; what failed or cannot work, in words."""
    cells: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["tower"], row["attack"], row["defense"]), []).append(row)
    lines = [[*names, _told(cell)] for names, cell in cells.items()]
    table(["model", "attack", "defence", "CA / ASR"], lines)
    say("CA / ASR in %, means over seeds; detectors: TPR / FPR.")
    for row in rows:
        if row["outcome"] in ("failed", "impossible"):
            about = (
                f"{row['defense']} against {row['attack']} on {row['tower']}, seed {row['seed']}"
            )
            say(f"{row['outcome']}: {about}: {row['reason']}")


def _told(rows: list[Row]) -> str:
    for first, second in (("ca_after", "asr_after"), ("tpr", "fpr")):
        measured = [row for row in rows if first in row and second in row]
        if measured:
            means = [100 * sum(r[k] for r in measured) / len(measured) for k in (first, second)]
            return f"{means[0]:.1f} / {means[1]:.1f}"
    return str(rows[0]["outcome"])


def _recipes_of(recipe: ToolboxRecipe) -> dict[str, Any]:
    """What the recipes that a comparison names say of data and clean models."""
    named = {recipe.scenes, *(spec.recipe for spec in recipe.models.values() if spec.recipe)}
    read = {name: recipe_settings(name) for name in sorted(named)}
    shaping = ("data", "clean", "clean_seed")
    return {name: {key: raw[key] for key in shaping if key in raw} for name, raw in read.items()}


def _earlier(result: Path, settings: Row) -> list[Row]:
    """Rows of an earlier run of the same comparison."""
    if not result.is_file():
        return []
    try:
        content = json.loads(result.read_text(encoding="utf-8"))
        rows: list[Row] = content["rows"]
        same = content["recipe"] == settings
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"Expected the result of an earlier run in {result}, got something else ({error}). "
            "Pass --overwrite to replace it, or choose another folder."
        ) from error
    if not same:
        raise InputError(
            f"Expected in {result} an earlier run of the same comparison, got one with other "
            "settings. Pass --overwrite to replace it, or choose another folder."
        )
    return rows
