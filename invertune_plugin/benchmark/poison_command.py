"""``invertune poison``: a poisoned copy of a data set, with its ground truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from invertune_plugin.adapters.writing import folder, shards
from invertune_plugin.adapters.writing.apart import refuse_own_source
from invertune_plugin.adapters.writing.folder import write_folder
from invertune_plugin.adapters.writing.parquet import write_parquet
from invertune_plugin.adapters.writing.replacing import refuse_filled
from invertune_plugin.adapters.writing.shards import write_shards
from invertune_plugin.adapters.writing.truth import truth_path
from invertune_plugin.benchmark.poison_recipe import PoisonConfig, poisoned_set
from invertune_plugin.config import named, parse, read_yaml
from invertune_plugin.console import item_progress, say
from invertune_plugin.errors import InputError
from invertune_plugin.files import refuse_existing

PARQUET_FILE = "poisoned.parquet"
WRITERS: dict[str, Callable[..., Path]] = {
    "folder": write_folder,
    "parquet": write_parquet,
    "webdataset": write_shards,
}


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
    path = _output(job)
    refuse_own_source(job.data, path)
    if job.size < 1:
        raise InputError(f"Expected a size of 1 pixel or more, got {job.size}. Raise it.")
    config = parse(PoisonConfig, read_yaml(job.config))
    poisoned, names = poisoned_set(config, job.data, job.size)
    truth = poisoned.ground_truth()
    with item_progress("write") as report:
        WRITERS[job.form](poisoned, path, names, truth, job.overwrite, report)
    say(f"poisoned: {len(truth.poisoned)} of {truth.size}, the first backdoor is "
        f"{truth.backdoors[0].fingerprint}")  # fmt: skip
    say(f"written: {path}, {truth_path(path)}")


def _output(job: PoisonJob) -> Path:
    """Where the data goes, checked."""
    named("format", job.form, WRITERS)
    if job.form == "parquet":
        path = job.out / PARQUET_FILE
        for file in (path, truth_path(path)):
            refuse_existing(file, job.overwrite)
        return path
    own = folder.OWN if job.form == "folder" else shards.OWN
    refuse_filled(job.out, job.overwrite, own, "invertune poison", "--overwrite")
    return job.out
