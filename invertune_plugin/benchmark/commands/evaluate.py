"""``invertune evaluate``: CA and ASR of any checkpoint, and whether they are what its card says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from invertune_plugin.adapters.victim_cards import (
    card_beside,
    read_victim_card,
    trigger_beside,
)
from invertune_plugin.adapters.writing.apart import refuse_inputs
from invertune_plugin.attacks.card import VictimCard
from invertune_plugin.attacks.victim_check import VictimCheck, check_victim
from invertune_plugin.benchmark.commands.command_line import command_line
from invertune_plugin.benchmark.experiment.suspect import (
    Suspect,
    labelled_images,
    open_attack,
    open_suspect,
    open_trigger,
    rates,
)
from invertune_plugin.benchmark.record import rate_fields, record
from invertune_plugin.checkpoints import refuse_existing, write_text
from invertune_plugin.console import say, table
from invertune_plugin.errors import InputError
from invertune_plugin.metrics import Rate
from invertune_plugin.outcome import Outcome
from invertune_plugin.triggers import Trigger, needs_tensors


@dataclass(frozen=True)
class EvaluateJob:
    """The options of ``invertune evaluate``."""

    checkpoint: str
    images: str
    classes: str | None = None
    model: str | None = None
    templates: str | None = None
    trigger: Path | None = None
    target: str | None = None
    card: Path | None = None
    out: Path | None = None
    device: str = "auto"
    quick_gelu: bool | None = None
    overwrite: bool = False


def evaluate_checkpoint(job: EvaluateJob) -> int:
    """Measure, print and, where asked for, compare with a card and write the numbers.

    Returns:
        The exit code: 1 where the checkpoint is not what its card says, else 0.

    Raises:
        InputError: any of the options cannot be used.
    """
    if job.out is not None:
        refuse_existing(job.out, job.overwrite)
        _refuse_inputs(job, job.out)
    card = None if job.card is None else _card(job.card, job.target)
    suspect = _suspect(job, card)
    found, attack, check = _measured(job, suspect, card)
    table(["metric", "value", "n"], [[n.upper(), _told(r), str(r.n)] for n, r in found.items()])
    if check is not None:
        say(check.reason)
    if job.out is not None:
        row: dict[str, object] = {"checkpoint": suspect.loaded.source, "data": job.images}
        row["source_sha256"] = suspect.loaded.source_sha256
        row |= attack
        for name, rate in found.items():
            row |= rate_fields(name, rate)
        if check is not None:
            row |= {"outcome": check.outcome.value, "reason": check.reason}
        command = command_line("evaluate", job, "checkpoint")
        write_text(job.out, json.dumps(record(command, [row]), indent=2), job.overwrite)
    return int(check is not None and check.outcome is not Outcome.OK)


def _refuse_inputs(job: EvaluateJob, out: Path) -> None:
    """Refuse an output that would replace what is read, be it named or beside the weights."""
    beside = [trigger_beside(job.checkpoint)] if Path(job.checkpoint).is_file() else []
    beside += [card_beside(job.card)] if job.card and job.card.is_file() else []
    read = (job.checkpoint, job.model, job.images, job.classes, job.trigger, job.card)
    refuse_inputs([out], *read, *beside)


def _card(path: Path, target: str | None) -> VictimCard:
    card = read_victim_card(path)
    if target not in (None, card.target):
        raise InputError(
            f"Expected the card's target {card.target!r}, got --target {target!r}. Leave --target "
            "out; the card names it."
        )
    return card


def _suspect(job: EvaluateJob, card: VictimCard | None) -> Suspect:
    if job.classes is None and card is None:
        raise InputError(
            "Expected --classes or a --card that names them, got neither. Add --classes imagenet, "
            "or a text file with one class per line."
        )
    return open_suspect(
        job.checkpoint,
        job.model,
        job.classes or (card.class_names if card else ()),
        job.templates or (card.templates if card else "simple"),
        job.device,
        job.quick_gelu,
    )


def _measured(
    job: EvaluateJob, suspect: Suspect, card: VictimCard | None
) -> tuple[dict[str, Rate], dict[str, object], VictimCheck | None]:
    """The rates, the attack's fields for the record, and the check where there is a card."""
    classifier = suspect.classifier
    if card is None:
        attack = open_attack(job.trigger, job.target, classifier)
        found = rates(classifier, labelled_images(job.images, classifier), attack)
        told = {"attack": attack.trigger.fingerprint(), "target": job.target} if attack else {}
        return found, dict(told), None
    trigger = card.attack_trigger(_trigger(job, card))
    images = labelled_images(job.images, classifier)
    check = check_victim(classifier, card, images, trigger=trigger)
    told = {"attack": trigger.fingerprint(), "target": card.target}
    return {"ca": check.ca, "asr": check.asr}, dict(told), check


def _trigger(job: EvaluateJob, card: VictimCard) -> Trigger | None:
    """The trigger's file, where one is given or the card's parameters are not enough."""
    if job.trigger is not None:
        return open_trigger(job.trigger)
    if not needs_tensors(card.trigger):
        return None
    beside = trigger_beside(job.checkpoint)
    if not beside.is_file():
        raise InputError(
            f"Expected the tensors of the card's trigger in {beside.name} beside the "
            "checkpoint, got no such file. Put it there, or pass it with --trigger."
        )
    return open_trigger(beside)


def _told(rate: object) -> str:
    return str(rate).rsplit(" of ", 1)[0]
