"""``invertune evaluate``: CA and ASR of any checkpoint."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from invertune_plugin.benchmark.record import rate_fields, record
from invertune_plugin.benchmark.suspect import labelled_images, open_attack, open_suspect, rates
from invertune_plugin.checkpoints import refuse_existing, write_text
from invertune_plugin.console import table


@dataclass(frozen=True)
class EvaluateJob:
    """The options of ``invertune evaluate``."""

    checkpoint: str
    images: str
    classes: str
    model: str | None = None
    templates: str = "simple"
    trigger: Path | None = None
    target: str | None = None
    out: Path | None = None
    device: str = "auto"
    quick_gelu: bool | None = None
    overwrite: bool = False


def evaluate_checkpoint(job: EvaluateJob) -> None:
    """Measure, print and, where asked for, write the numbers.

    Raises:
        InputError: any of the options cannot be used.
    """
    if job.out is not None:
        refuse_existing(job.out, job.overwrite)
    suspect = open_suspect(
        job.checkpoint, job.model, job.classes, job.templates, job.device, job.quick_gelu
    )
    attack = open_attack(job.trigger, job.target, suspect.classifier)
    found = rates(suspect.classifier, labelled_images(job.images, suspect.classifier), attack)
    table(["metric", "value", "n"], [[n.upper(), _told(r), str(r.n)] for n, r in found.items()])
    if job.out is not None:
        row: dict[str, object] = {"checkpoint": suspect.loaded.source, "data": job.images}
        row["source_sha256"] = suspect.loaded.source_sha256
        if attack is not None:
            row |= {"attack": attack.trigger.fingerprint(), "target": job.target}
        for name, rate in found.items():
            row |= rate_fields(name, rate)
        command = f"invertune evaluate {job.checkpoint} --images {job.images}"
        write_text(job.out, json.dumps(record(command, [row]), indent=2), job.overwrite)


def _told(rate: object) -> str:
    return str(rate).rsplit(" of ", 1)[0]
