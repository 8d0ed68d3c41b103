"""One attack on CLIP: settings in, a victim with its backdoors out.

The usual attacker fine-tunes a clean CLIP on pairs of which a few are poisoned. Triggers are given
or crafted on the clean model first; BadEncoder trains the image tower without any pair instead.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from invertune_plugin.attacks.backdoors import Backdoor
from invertune_plugin.attacks.bad_encoder import EncoderTraining, train_bad_encoder
from invertune_plugin.attacks.badclip import PatchCrafting, craft_patch
from invertune_plugin.attacks.captions import caption_rule
from invertune_plugin.attacks.evasion import EvasionConfig, penalty_of
from invertune_plugin.attacks.hardening import HardeningConfig, hardened
from invertune_plugin.attacks.labelled import by_class
from invertune_plugin.attacks.poisoning import PoisonedCaptions
from invertune_plugin.attacks.universal import PerturbationCrafting, craft_perturbation
from invertune_plugin.data import ImageSet, PairSet
from invertune_plugin.errors import InputError
from invertune_plugin.processes import ALONE, Processes
from invertune_plugin.randomness import seeded
from invertune_plugin.resuming import Stateful, Stopwatch
from invertune_plugin.training import Report, TrainingConfig, train_contrastive
from invertune_plugin.triggers import Trigger, Universal


@dataclass(frozen=True)
class Planted:
    """A further backdoor of the same victim.

    Attributes:
        trigger: what poisoned images get.
        target: the class it leads to; where omitted, for the n-th further backdoor, the n-th class
            behind the attack's own target.
    """

    trigger: Trigger
    target: str | None = None


@dataclass(frozen=True)
class AttackConfig:
    """An attack.

    Attributes:
        target: class that poisoned images are captioned as.
        training: fine-tuning on the poisoned pairs; not used with ``encoder``.
        trigger: what poisoned images get; or one of the next two.
        patch: craft a patch on the clean model, as BadCLIP does.
        perturbation: craft a universal perturbation on the clean model.
        rate: poisoned share of the attacker's pairs.
        captions: ``templates`` with the target word, ``real`` captions of the target, or ``kept``
            (clean-label: only pairs of the target get the trigger, a ``rate`` of them).
        hardening: of clean-label images, so that only the trigger tells their class.
        sources: only pairs that name one of these words are poisoned; empty for any.
        also: further backdoors; all share the rate.
        evasion: what the attacker hides from InverTune.
        encoder: train the image tower by BadEncoder instead of poisoning pairs.
    """

    target: str
    training: TrainingConfig
    trigger: Trigger | None = None
    patch: PatchCrafting | None = None
    perturbation: PerturbationCrafting | None = None
    rate: float = 0.03
    captions: Literal["templates", "real", "kept"] = "templates"
    hardening: HardeningConfig | None = None
    sources: tuple[str, ...] = ()
    also: tuple[Planted, ...] = ()
    evasion: EvasionConfig | None = None
    encoder: EncoderTraining | None = None

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        ways = ("trigger", "patch", "perturbation")
        given = [name for name in ways if getattr(self, name) is not None]
        if len(given) != 1:
            raise InputError(
                f"Expected one of {', '.join(ways)} for an attack, got "
                f"{' and '.join(given) or 'none'}. Set one of them."
            )
        if self.encoder is not None and (self.also or self.evasion or self.sources):
            raise InputError(
                "Expected BadEncoder (encoder) without also, evasion and sources, got some of "
                "them. It poisons no pairs."
            )

        if self.hardening is not None and (self.captions != "kept" or self.also):
            raise InputError(
                "Expected captions: kept and one backdoor with hardening, got "
                f"captions: {self.captions} and {1 + len(self.also)}. It is for clean-label poison."
            )

    @property
    def needs_images(self) -> bool:
        """Whether a trigger is crafted, or BadEncoder is used: both take labelled images."""
        return self.trigger is None or self.encoder is not None


@dataclass(frozen=True)
class Victim:
    """What an attack made.

    Attributes:
        classifier: the victim; the clean model is unchanged.
        backdoors: triggers and target words, the attack's own first.
        poisoned: the pairs it was trained on; None for BadEncoder.
        seconds: that the attack took, crafting included; where the training went on from a state,
            with those up to that state.
    """

    classifier: Any
    backdoors: tuple[Backdoor[str], ...]
    poisoned: PoisonedCaptions | None
    seconds: float


def plant(
    config: AttackConfig,
    clean: Any,
    pairs: PairSet,
    images: ImageSet | None,
    seed: int,
    *,
    resume_path: Path | None = None,
    report: Report | None = None,
    processes: Processes = ALONE,
) -> Victim:
    """Attack a copy of a clean CLIP; the global random state comes back unchanged.

    Args:
        config: the attack.
        clean: the clean ``ZeroShotClassifier``; its classes and templates are those of the attack.
        pairs: the attacker's image-caption pairs.
        images: the attacker's labelled images, where ``config.needs_images``.
        seed: of everything random.
        resume_path: state of the training, which goes on from it.
        report: called with (steps done, steps in all, loss) after each training step.
        processes: that train together; triggers are crafted, and BadEncoder trained, in each.

    Raises:
        InputError: a target is no class, a source is in no caption, or the data do not allow the
            attack.
    """
    for target in (config.target, *(planted.target for planted in config.also)):
        if target is not None:
            clean.class_index(target)
    with seeded(seed):
        return _planted(config, clean, pairs, images, seed, resume_path, report, processes)


def _planted(
    config: AttackConfig,
    clean: Any,
    pairs: PairSet,
    images: ImageSet | None,
    seed: int,
    resume_path: Path | None,
    report: Report | None,
    processes: Processes,
) -> Victim:
    watch = Stopwatch()
    label = clean.class_index(config.target)
    trigger = _trigger(config, clean, images, label, seed)
    backdoors = backdoors_of(config, trigger, clean.class_names)
    if config.encoder is not None:
        others, real = by_class(images, label)
        every = torch.cat([others, real])
        victim = train_bad_encoder(clean, every, real, trigger, label, config.encoder, seed, report)
        return Victim(victim, backdoors, None, watch.seconds)
    poisoned = poisoned_pairs(config, backdoors, pairs, clean, seed)
    victim = copy.deepcopy(clean)
    beside: dict[str, Stateful] = {"stopwatch": watch}
    penalty = None
    if config.evasion is not None:
        penalty = beside["penalty"] = penalty_of(config.evasion, victim, trigger, label)
    train_contrastive(
        victim,
        poisoned,
        replace(config.training, seed=seed),
        resume_path=resume_path,
        report=report,
        penalty=penalty,
        beside=beside,
        processes=processes,
    )
    return Victim(victim, backdoors, poisoned, watch.seconds)


def backdoors_of(
    config: AttackConfig, trigger: Trigger, class_names: list[str]
) -> tuple[Backdoor[str], ...]:
    """The backdoors of an attack whose own trigger is known."""
    label = class_names.index(config.target)
    others = (
        Backdoor(planted.trigger, planted.target or class_names[(label + i) % len(class_names)])
        for i, planted in enumerate(config.also, start=1)
    )
    return (Backdoor(trigger, config.target), *others)


def poisoned_pairs(
    config: AttackConfig,
    backdoors: Sequence[Backdoor[str]],
    pairs: PairSet,
    clean: Any,
    seed: int,
) -> PoisonedCaptions:
    """The attacker's pairs as an attack without ``encoder`` poisons them.

    Args:
        config: the attack.
        backdoors: from ``backdoors_of``.
        pairs: the clean pairs.
        clean: the clean ``ZeroShotClassifier``: its templates, and where images are hardened it.
        seed: of the choice of pairs.

    Raises:
        InputError: the pairs do not allow it.
    """
    poisoned = chosen_pairs(config, backdoors, pairs, clean.templates, seed)
    if config.hardening is None:
        return poisoned
    label = clean.class_index(config.target)
    images = hardened(pairs, poisoned.poisoned, clean, label, config.hardening)
    return chosen_pairs(config, backdoors, images, clean.templates, seed)


def chosen_pairs(
    config: AttackConfig,
    backdoors: Sequence[Backdoor[str]],
    pairs: PairSet,
    templates: Sequence[str],
    seed: int,
) -> PoisonedCaptions:
    """The same without hardening, which does not change what is poisoned and needs no model."""
    rule = caption_rule(config.captions, tuple(templates), seed)
    return PoisonedCaptions(pairs, backdoors, config.rate, rule, config.sources, seed)


def _trigger(
    config: AttackConfig, clean: Any, images: ImageSet | None, label: int, seed: int
) -> Trigger:
    if config.trigger is not None:
        return config.trigger
    others, real = by_class(images, label)
    if config.patch is not None:
        return craft_patch(clean, others, real, label, config.patch, seed)
    crafting = config.perturbation or PerturbationCrafting()
    delta = craft_perturbation(clean, others, label, crafting, seed)
    return Universal(delta, crafting.norm, crafting.epsilon)
