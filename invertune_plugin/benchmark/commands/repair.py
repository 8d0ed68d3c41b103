"""``invertune repair``: a user's own checkpoint and images in, a repaired checkpoint out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from invertune_plugin.adapters.datasets import image_set
from invertune_plugin.adapters.open_clip import save_clip
from invertune_plugin.adapters.tracking import Tracker
from invertune_plugin.adapters.writing.apart import refuse_inputs
from invertune_plugin.benchmark.commands.command_line import command_line
from invertune_plugin.benchmark.commands.tracking import log_repair, log_row, together
from invertune_plugin.benchmark.experiment.suspect import (
    Attack,
    Suspect,
    labelled_images,
    open_attack,
    open_suspect,
    rates,
    unseen,
)
from invertune_plugin.benchmark.judgement import HIGHER, LOWER, BeforeAfter, Judgement, judged
from invertune_plugin.benchmark.provenance import versions
from invertune_plugin.benchmark.record import rate_fields, record
from invertune_plugin.benchmark.report.page import ReportPage, render
from invertune_plugin.benchmark.report.pages import repair_page
from invertune_plugin.benchmark.report.wording import verdict
from invertune_plugin.checkpoints import refuse_existing, write_text
from invertune_plugin.config import parse, read_yaml
from invertune_plugin.console import say, table
from invertune_plugin.data import ImageSet
from invertune_plugin.defenses.invertune import InverTune, InverTuneConfig, Repair
from invertune_plugin.errors import InputError
from invertune_plugin.metrics import Rate
from invertune_plugin.outcome import Outcome
from invertune_plugin.processes import Processes

EXIT_CODES = {Outcome.FAILED: 1, Outcome.UNCERTAIN: 3}
OUTPUTS = ("repaired.safetensors", "report.html", "result.json")


@dataclass(frozen=True)
class RepairJob:
    """The options of ``invertune repair``."""

    checkpoint: str
    images: str
    classes: str
    out: Path
    model: str | None = None
    templates: str = "simple"
    test: str | None = None
    trigger: Path | None = None
    target: str | None = None
    config: Path | None = None
    seed: int = 0
    device: str = "auto"
    quick_gelu: bool | None = None
    overwrite: bool = False
    track: str | None = None


def repair_checkpoint(job: RepairJob) -> int:
    """Repair, measure, write; nothing is written before all inputs have been checked.

    Returns:
        Exit code: 0 where a backdoor was removed or none was found, 1 where the repair failed or
        measurements show that it did not help, 3 where there are signs of a backdoor that are not
        enough to act on.

    Raises:
        InputError: any of the options cannot be used.
    """
    for name in OUTPUTS:
        refuse_existing(job.out / name, job.overwrite)
    _refuse_inputs(job)
    config = parse(InverTuneConfig, read_yaml(job.config)) if job.config else InverTuneConfig()
    settings = {"command": command_line("repair", job, "checkpoint"), **asdict(config)}
    with together(job.device, job.track, "repair", settings) as (processes, tracker):
        return _repaired(job, config, processes, tracker)


def _refuse_inputs(job: RepairJob) -> None:
    read = (job.checkpoint, job.model, job.images, job.classes, job.test, job.trigger, job.config)
    refuse_inputs((job.out / name for name in OUTPUTS), *read)


def _repaired(
    job: RepairJob, config: InverTuneConfig, processes: Processes, tracker: Tracker
) -> int:
    device = str(processes.device)
    suspect = open_suspect(
        job.checkpoint, job.model, job.classes, job.templates, device, job.quick_gelu
    )
    classifier = suspect.classifier
    attack = open_attack(job.trigger, job.target, classifier)
    if attack is not None and job.test is None:
        raise InputError(
            "Expected --test with --trigger and --target, got none: the attack is measured on "
            "labelled images. Add --test."
        )
    images = image_set(
        job.images, classifier.image_size, classifier.class_names, config.least_images
    )
    skipped = list(getattr(images, "unreadable", []))
    for path in skipped:
        say(f"skipped, not readable: {path}")
    test = unseen(labelled_images(job.test, classifier), images) if job.test else None
    defense = InverTune(
        images, test, classifier, seed=job.seed, config=config, report=say, processes=processes
    )
    repair = defense.repair()
    if not processes.is_main:
        return EXIT_CODES.get(repair.outcome, 0)
    judgement = _conclude(job, config, suspect, images, test, attack, repair, skipped, tracker)
    return EXIT_CODES.get(judgement.outcome, 0)


def _conclude(
    job: RepairJob,
    config: InverTuneConfig,
    suspect: Suspect,
    images: ImageSet,
    test: ImageSet | None,
    attack: Attack | None,
    repair: Repair,
    skipped: list[Path],
    tracker: Tracker,
) -> Judgement:
    """Measure before and after, write, track and print."""
    before = rates(suspect.classifier, test, attack) if test else {}
    after = rates(repair.classifier, test, attack) if test and repair.classifier else {}
    measured = [
        BeforeAfter(
            name.upper(),
            before=rate,
            after=after.get(name),
            better=HIGHER if name == "ca" else LOWER,
        )
        for name, rate in before.items()
    ]
    judgement = judged(repair, measured)
    row = _row(job, suspect, repair, judgement, before, after, skipped)
    result = record(command_line("repair", job, "checkpoint"), [row], asdict(config))
    page = repair_page(suspect, images, test, attack, repair, measured, result)
    _write(job, config, suspect, repair, page, result)
    log_repair(tracker, repair, "repair")
    log_row(tracker, row, "result")
    _print(job, repair, judgement, measured)
    return judgement


def _row(
    job: RepairJob,
    suspect: Suspect,
    repair: Repair,
    judgement: Judgement,
    before: dict[str, Rate],
    after: dict[str, Rate],
    skipped: list[Path],
) -> dict[str, Any]:
    label = repair.found_label
    row: dict[str, Any] = {
        "checkpoint": suspect.loaded.source,
        "source_sha256": suspect.loaded.source_sha256,
        "tower": suspect.loaded.architecture,
        "data": job.images,
        "defense": "invertune",
        "seed": job.seed,
        "outcome": judgement.outcome.value,
        "reason": repair.stages[-1].reason,
        "target": job.target,
        "found_target": None if label is None else suspect.classifier.class_names[label],
        "seconds": round(sum(stage.seconds for stage in repair.stages), 3),
        "passes": sum(stage.passes for stage in repair.stages),
        "skipped_images": [str(path) for path in skipped],
    }
    for name, rate in before.items():
        row |= rate_fields(f"{name}_before", rate)
    for name, rate in after.items():
        row |= rate_fields(f"{name}_after", rate)
    return row


def _write(
    job: RepairJob,
    config: InverTuneConfig,
    suspect: Suspect,
    repair: Repair,
    page: ReportPage,
    result: dict[str, Any],
) -> None:
    if repair.classifier is not None:
        card = {
            "repaired_by": "InverTune",
            "found_target": result["rows"][0]["found_target"],
            "seed": job.seed,
            "settings": asdict(config),
            "versions": versions(),
        }
        fixed = replace(suspect.loaded, model=repair.classifier.clip.cpu())
        save_clip(job.out / OUTPUTS[0], fixed, card, job.overwrite)
    else:
        (job.out / OUTPUTS[0]).unlink(missing_ok=True)
    write_text(job.out / OUTPUTS[1], render(page), job.overwrite)
    write_text(job.out / OUTPUTS[2], json.dumps(result, indent=2), job.overwrite)


def _print(
    job: RepairJob, repair: Repair, judgement: Judgement, measured: list[BeforeAfter]
) -> None:
    if measured:
        rows = [[row.metric, str(row.before), str(row.after or "-")] for row in measured]
        table(["metric", "before", "after"], rows)
    written = OUTPUTS if repair.classifier is not None else OUTPUTS[1:]
    say(f"{judgement.outcome.value}: {repair.stages[-1].reason}")
    say(verdict(repair, judgement, job.target))
    say("written: " + ", ".join(str(job.out / name) for name in written))
