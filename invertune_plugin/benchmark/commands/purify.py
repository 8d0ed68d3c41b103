"""``invertune purify``: which items of a training set are poisoned, by a CLIP trained on it."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from invertune_plugin.adapters.datasets import labelled_or_captioned, named_paths
from invertune_plugin.adapters.parquet_table import ParquetSet
from invertune_plugin.adapters.readable_rows import readable_rows
from invertune_plugin.adapters.writing.apart import refuse_inputs, refuse_inside_data
from invertune_plugin.adapters.writing.forms import FORMS, refuse_labels, refuse_place
from invertune_plugin.adapters.writing.truth import (
    poisoned_indices,
    read_ground_truth,
    truth_beside,
    truth_path,
)
from invertune_plugin.benchmark.commands.command_line import command_line
from invertune_plugin.benchmark.detection import search_fields
from invertune_plugin.benchmark.experiment.suspect import Suspect, open_suspect
from invertune_plugin.benchmark.record import record
from invertune_plugin.benchmark.report.removed_picture import write_removed
from invertune_plugin.config import named, parse, read_yaml
from invertune_plugin.console import item_progress, say, table
from invertune_plugin.data import Subset
from invertune_plugin.defenses.purifiers import Purified, purifier_of, run_purifier
from invertune_plugin.errors import InputError
from invertune_plugin.files import refuse_existing, replacing, write_text
from invertune_plugin.outcome import Outcome

OUTPUTS = ("scores.csv", "result.json")
PICTURE = "removed.png"
KEPT = {"folder": "kept", "parquet": "kept.parquet", "webdataset": "kept-shards"}


@dataclass(frozen=True)
class PurifyJob:
    """The options of ``invertune purify``."""

    data: str
    checkpoint: str
    classes: str
    out: Path
    by: str = "flare"
    model: str | None = None
    templates: str = "simple"
    config: Path | None = None
    keep: str | None = None
    size: int = 224
    seed: int = 0
    device: str = "auto"
    quick_gelu: bool | None = None
    overwrite: bool = False


def purify_data(job: PurifyJob) -> int:
    """Find, measure where the truth is beside the data, and write.

    Returns:
        Exit code: 1 where the purifier failed, else 0.

    Raises:
        InputError: any of the options cannot be used.
    """
    for name in (*OUTPUTS, PICTURE):
        refuse_existing(job.out / name, job.overwrite)
    place = _kept_path(job)
    _refuse_other_data(job.out, place)
    _refuse_inputs(job, place)
    purifier = purifier_of(job.by)
    options = read_yaml(job.config) if job.config else {}
    config = parse(purifier.config, options, job.by)
    suspect = open_suspect(
        job.checkpoint, job.model, job.classes, job.templates, job.device, job.quick_gelu
    )
    classifier = suspect.classifier
    data = labelled_or_captioned(job.data, classifier.image_size, classifier.class_names)
    kept = None if place is None else _data_to_keep(job, classifier.class_names)
    if isinstance(data, ParquetSet):
        data = readable = readable_rows(data)
        kept = None if kept is None else readable.same_rows(kept)
    truth = _truth(job.data, data)
    for path in getattr(data, "unreadable", []):
        say(f"skipped, not readable: {path}")
    found = run_purifier(job.by, classifier, data, options, job.seed, say)
    row = _row(job, suspect, found, truth)
    _write_scores(job.out / OUTPUTS[0], data, found)
    result = record(command_line("purify", job, "data"), [row], asdict(config))
    write_text(job.out / OUTPUTS[1], json.dumps(result, indent=2, default=str), job.overwrite)
    written = [job.out / name for name in OUTPUTS]
    picture = job.out / PICTURE
    if found.poisoned and found.kept:
        write_removed(picture, data, found, job.seed)
        written.append(picture)
    else:
        picture.unlink(missing_ok=True)
    if place is not None and found.outcome is not Outcome.FAILED:
        _write_kept(job, kept, place, found)
        written.append(place)
    elif place is not None and place.exists():
        say(f"left as it was, of an earlier run: {place}")
    _print(found, truth)
    say("written: " + ", ".join(map(str, written)))
    return int(found.outcome is Outcome.FAILED)


def _kept_path(job: PurifyJob) -> Path | None:
    if job.keep is None:
        return None
    form = named("format to keep", job.keep, FORMS)
    if job.size < 1:
        raise InputError(f"Expected a size of 1 pixel or more, got {job.size}. Raise it.")
    place = job.out / KEPT[job.keep]
    refuse_place(form, place, job.overwrite, "invertune purify")
    return place


def _refuse_other_data(out: Path, place: Path | None) -> None:
    """Refuse what other results have kept."""
    for path in (out / name for name in KEPT.values()):
        if path != place and path.exists():
            raise InputError(
                f"Expected no kept data beside results that they do not belong to, got {path}. "
                "Move or remove it, or choose another --out."
            )


def _refuse_inputs(job: PurifyJob, place: Path | None) -> None:
    """Refuse outputs that would replace what is read, or add images to it."""
    outputs = [job.out / name for name in (*OUTPUTS, PICTURE)]
    outputs += [] if place is None else [place, truth_path(place)]
    refuse_inputs(outputs, job.data, job.checkpoint, job.model, job.classes, job.config)
    refuse_inside_data(job.data, job.out)


def _data_to_keep(job: PurifyJob, class_names: Sequence[str]) -> Any:
    """The data as they are written, opened before anything is searched.

    Raises:
        InputError: the format cannot hold their labels.
    """
    try:
        data: Any = labelled_or_captioned(job.data, job.size)
    except InputError:
        data = None
    if data is None or not getattr(data, "class_names", True):
        data = labelled_or_captioned(job.data, job.size, class_names)
    refuse_labels(FORMS[job.keep or ""], data, getattr(data, "class_names", None))
    return data


def _truth(spec: str, data: Any) -> list[int] | None:
    """Indices of the poisoned items, where the data were written with their truth."""
    path = truth_beside(named_paths(spec)[0])
    return None if path is None else poisoned_indices(read_ground_truth(path), data)


def _row(
    job: PurifyJob, suspect: Suspect, found: Purified, truth: list[int] | None
) -> dict[str, Any]:
    stage = found.stages[-1]
    row: dict[str, Any] = {
        "checkpoint": suspect.loaded.source,
        "source_sha256": suspect.loaded.source_sha256,
        "tower": suspect.loaded.architecture,
        "data": job.data,
        "defense": job.by,
        "seed": job.seed,
        "outcome": found.outcome.value,
        "reason": stage.reason,
        "evidence": stage.evidence,
        "n": len(found.scores),
        "removed": len(found.poisoned),
        "seconds": round(stage.seconds, 3),
        "passes": stage.passes,
    }
    return row if truth is None else row | search_fields(found, truth)


def _write_scores(path: Path, data: Any, found: Purified) -> None:
    removed = set(found.poisoned)
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("index", "place", "score", "poisoned"))
        for index, score in enumerate(found.scores):
            writer.writerow((index, data.name(index), f"{score:.6g}", int(index in removed)))


def _write_kept(job: PurifyJob, data: Any, path: Path, found: Purified) -> None:
    names = getattr(data, "class_names", None)
    with item_progress("write") as report:
        FORMS[job.keep or ""].write(
            Subset(data, found.kept), path, names, overwrite=job.overwrite, report=report
        )


def _print(found: Purified, truth: list[int] | None) -> None:
    if truth is None or found.outcome is Outcome.FAILED:
        return
    rates = found.rates(truth)
    rows = [[name.upper(), str(rate)] for name, rate in rates.items() if rate.n]
    auroc = found.auroc(truth)
    rows += [] if auroc is None else [["AUROC", f"{auroc:.3f}"]]
    table(["metric", "value"], rows)
