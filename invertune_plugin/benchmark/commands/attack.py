"""``invertune attack``: a victim with its card, from a shipped attack or one's own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from invertune_plugin.adapters.open_clip import save_clip, zero_shot_classifier
from invertune_plugin.adapters.tracking import Tracker
from invertune_plugin.adapters.victim_cards import trigger_beside
from invertune_plugin.attacks.backdoors import Backdoor
from invertune_plugin.attacks.card import CARD_ENTRY, VictimCard
from invertune_plugin.attacks.victim_check import victim_card
from invertune_plugin.benchmark.commands.tracking import log_row, log_trigger, together, tracked
from invertune_plugin.benchmark.experiment.made_of import described
from invertune_plugin.benchmark.experiment.sources import TestSet
from invertune_plugin.benchmark.experiment.victims import (
    BuiltVictim,
    build_victim,
    poisoned_rate,
    victim_recipe,
)
from invertune_plugin.benchmark.provenance import versions
from invertune_plugin.benchmark.record import rate_fields
from invertune_plugin.console import say, table, training_progress
from invertune_plugin.data import content_sha256
from invertune_plugin.errors import InputError
from invertune_plugin.files import refuse_existing
from invertune_plugin.metrics import Rate, attack_success_rate, clean_accuracy
from invertune_plugin.processes import Processes
from invertune_plugin.triggers import save_trigger
from invertune_plugin.zero_shot import ZeroShotClassifier


@dataclass(frozen=True)
class AttackJob:
    """The options of ``invertune attack``."""

    victim: str
    on: str
    out: Path
    seed: int = 0
    device: str = "auto"
    overwrite: bool = False
    track: str | None = None


def attack_model(job: AttackJob) -> None:
    """Make a victim or take it from the cache, measure it, and write it with its card.

    Raises:
        InputError: any of the options cannot be used.
    """
    recipe = victim_recipe(job.victim, job.on)
    if job.out.suffix.lower() != ".safetensors":
        raise InputError(
            f"Expected an output that ends in .safetensors, got {job.out}. Rename the output."
        )
    for path in (job.out, trigger_beside(job.out)):
        refuse_existing(path, job.overwrite)
    settings = {"attack": described(recipe.attack), "on": job.on, "seed": job.seed}
    name = f"attack-{Path(job.victim).stem}"
    with together(job.device, job.track, name, settings) as (processes, tracker):
        with training_progress() as progress:
            built = build_victim(recipe, job.seed, tracked(progress, tracker), processes)
        if processes.is_main:
            _measure(job, built, processes, tracker)


def _measure(job: AttackJob, built: BuiltVictim, processes: Processes, tracker: Tracker) -> None:
    test = built.sources.tests()[0]
    clean, victim = (
        zero_shot_classifier(model, test.class_names, built.sources.templates, processes.device)
        for model in (built.clean, built.victim.loaded)
    )
    first, *further = built.victim.backdoors
    attack = Path(job.victim).stem
    card = victim_card(victim, test.images, attack, first.trigger, first.target)
    card = _with_provenance(card, built, test, job.seed)
    also = [(backdoor, _asr(victim, test, backdoor)) for backdoor in further]
    written = _write(job, built, card, also)
    rates = [
        ("clean CA", clean_accuracy(clean, test.images)),
        ("victim CA", _rate(card.ca, card.ca_n)),
        (_named(first), _rate(card.asr, card.asr_n)),
        *((_named(backdoor), rate) for backdoor, rate in also),
    ]
    for name, rate in rates:
        log_row(tracker, {name: rate.value}, "result")
    size = (built.clean.image_size, built.clean.image_size)
    log_trigger(tracker, "trigger", first.trigger, size)
    say(f"{attack} on {job.on}, measured on {test.name}")
    table(["metric", "value", "n"], [[name, *str(rate).rsplit(" of ", 1)] for name, rate in rates])
    say("written: " + ", ".join(map(str, written)))


def _with_provenance(card: VictimCard, built: BuiltVictim, test: TestSet, seed: int) -> VictimCard:
    """The card, and what the victim was made of."""
    attack, sources = built.recipe.attack, built.sources
    rate = None
    if attack.encoder is None:
        pairs = sources.pairs("attack")
        rate = poisoned_rate(attack, built.victim.backdoors, pairs, sources.templates, seed)
        data = content_sha256(pairs)
    else:
        data = content_sha256(sources.images("attack"))
    return replace(
        card,
        poisoned_rate=rate,
        data_sha256={"attack": data, "test": content_sha256(test.images)},
        seed=seed,
        parent_sha256=built.clean.source_sha256,
        versions=versions(),
    )


def _write(
    job: AttackJob, built: BuiltVictim, card: VictimCard, also: list[tuple[Backdoor[str], Rate]]
) -> list[Path]:
    """The tensors of the trigger first: a checkpoint that is there is complete."""
    trigger, beside = built.victim.backdoors[0].trigger, trigger_beside(job.out)
    if trigger.tensors():
        save_trigger(beside, trigger, job.overwrite)
    else:
        beside.unlink(missing_ok=True)
    content: dict[str, Any] = {CARD_ENTRY: card.as_dict(), "source": built.recipe.name}
    if also:
        content["also"] = [
            {
                "trigger": backdoor.trigger.parameters(),
                "fingerprint": backdoor.trigger.fingerprint(),
                "target": backdoor.target,
                **rate_fields("asr", rate),
            }
            for backdoor, rate in also
        ]
    save_clip(job.out, built.victim.loaded, content, job.overwrite)
    return [job.out, beside] if trigger.tensors() else [job.out]


def _asr(victim: ZeroShotClassifier, test: TestSet, backdoor: Backdoor[str]) -> Rate:
    label = victim.class_index(backdoor.target)
    return attack_success_rate(victim, test.images, backdoor.trigger, label)


def _rate(value: float | None, n: int | None) -> Rate:
    """A rate of a card that was measured here."""
    return Rate(round((value or 0.0) * (n or 0)), n or 0)


def _named(backdoor: Backdoor[str]) -> str:
    return f"ASR, {backdoor.target}, {backdoor.trigger.fingerprint()}"
