"""``invertune poison``: a poisoned copy of a data set, with its ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from invertune_plugin.adapters.writing.apart import refuse_inputs, refuse_inside_data
from invertune_plugin.adapters.writing.forms import FORMS, refuse_labels, refuse_place
from invertune_plugin.adapters.writing.truth import truth_path
from invertune_plugin.benchmark.commands.poison_recipe import PoisonConfig, poisoned_set
from invertune_plugin.config import named, parse, read_yaml
from invertune_plugin.console import item_progress, say
from invertune_plugin.errors import InputError

PARQUET_FILE = "poisoned.parquet"


@dataclass(frozen=True)
class PoisonJob:
    """The options of ``invertune poison``."""

    config: Path
    data: str
    out: Path
    form: str
    size: int = 224
    overwrite: bool = False


def poison_data(job: PoisonJob) -> None:
    """Poison and write; the output is complete or absent.

    Raises:
        InputError: any of the options cannot be used.
    """
    form = named("format", job.form, FORMS)
    path = job.out / PARQUET_FILE if job.form == "parquet" else job.out
    refuse_place(form, path, job.overwrite, "invertune poison")
    refuse_inputs((path, truth_path(path)), job.data, job.config)
    refuse_inside_data(job.data, path)
    if job.size < 1:
        raise InputError(f"Expected a size of 1 pixel or more, got {job.size}. Raise it.")
    config = parse(PoisonConfig, read_yaml(job.config))
    poisoned, names = poisoned_set(config, job.data, job.size)
    refuse_labels(form, poisoned, names)
    truth = poisoned.ground_truth()
    with item_progress("write") as report:
        form.write(poisoned, path, names, truth, job.overwrite, report)
    say(f"poisoned: {len(truth.poisoned)} of {truth.size}, the first backdoor is "
        f"{truth.backdoors[0].fingerprint}")  # fmt: skip
    say(f"written: {path}, {truth_path(path)}")
