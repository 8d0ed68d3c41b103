"""What ``invertune poison`` shall do, as one YAML file, and the poisoned set that it means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from invertune_plugin.adapters.class_names import match_names
from invertune_plugin.adapters.class_sets import templates
from invertune_plugin.adapters.datasets import image_set, pair_set
from invertune_plugin.attacks.backdoors import Backdoor
from invertune_plugin.attacks.captions import caption_rule
from invertune_plugin.attacks.label_rules import (
    AllToAll,
    AllToOne,
    CleanLabel,
    LabelRule,
    Untargeted,
)
from invertune_plugin.attacks.labels import PoisonedLabels
from invertune_plugin.attacks.poisoning import PoisonedCaptions
from invertune_plugin.config import nearest
from invertune_plugin.data import with_labels
from invertune_plugin.errors import InputError
from invertune_plugin.triggers import Trigger

CAPTION_MODES = ("templates", "real-captions", "kept-captions")
TARGETLESS_MODES = ("all-to-all", "untargeted")
Mode = Literal[
    "templates",
    "real-captions",
    "kept-captions",
    "all-to-one",
    "clean-label",
    "all-to-all",
    "untargeted",
]


@dataclass(frozen=True)
class BackdoorConfig:
    """A further backdoor.

    Attributes:
        trigger: what poisoned images get.
        target: word or class name; empty for all-to-all and untargeted.
    """

    trigger: Trigger
    target: str = ""


@dataclass(frozen=True)
class PoisonConfig:
    """One poisoning.

    Attributes:
        trigger: what poisoned images get.
        rate: poisoned share; of the items of the target in the modes kept-captions and clean-label.
        mode: for captions templates, real-captions or kept-captions; for labels all-to-one,
            clean-label, all-to-all or untargeted.
        target: word or class name; empty for all-to-all and untargeted.
        sources: words of which poisoned pairs name one; empty for any. For captions only.
        templates: of the mode templates, as ``class_sets.templates`` takes them.
        more: further backdoors, by any name; all get equal shares.
        seed: of everything random.
    """

    trigger: Trigger
    rate: float
    mode: Mode = "templates"
    target: str = ""
    sources: tuple[str, ...] = ()
    templates: str | tuple[str, ...] = "single"
    more: Mapping[str, BackdoorConfig] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that contradict the mode."""
        for backdoor in self.backdoors():
            if bool(backdoor.target) == (self.mode in TARGETLESS_MODES):
                wanted = "no target" if backdoor.target else "a target"
                raise InputError(
                    f"Expected {wanted} in the mode {self.mode}, got {backdoor.target!r}. "
                    "Correct target or mode."
                )
        if self.sources and self.mode not in CAPTION_MODES:
            raise InputError(
                f"Expected no sources in the mode {self.mode}, got {list(self.sources)}. "
                f"They are for {', '.join(CAPTION_MODES)}."
            )

    def backdoors(self) -> list[BackdoorConfig]:
        """All triggers and targets."""
        return [BackdoorConfig(self.trigger, self.target), *self.more.values()]


def poisoned_set(
    config: PoisonConfig, spec: str, size: int
) -> tuple[PoisonedCaptions | PoisonedLabels, Sequence[str] | None]:
    """The images of a specification, poisoned, and the class names that labels count in.

    Args:
        config: the mode decides whether captions or labels are read.
        spec: as ``pair_set`` or ``image_set`` take it. Images without a label are left out.
        size: side of the images in pixels.

    Raises:
        InputError: data or settings cannot be used.
    """
    for backdoor in config.backdoors():
        backdoor.trigger(torch.zeros(1, 3, size, size))
    if config.mode in CAPTION_MODES:
        return _pairs(config, spec, size), None
    return _images(config, spec, size)


def _pairs(config: PoisonConfig, spec: str, size: int) -> PoisonedCaptions:
    texts = tuple(templates(config.templates)) if config.mode == "templates" else ()
    captions = caption_rule(config.mode.removesuffix("-captions"), texts, config.seed)
    backdoors = [Backdoor(each.trigger, each.target) for each in config.backdoors()]
    pairs = pair_set(spec, size)
    return PoisonedCaptions(pairs, backdoors, config.rate, captions, config.sources, config.seed)


def _images(config: PoisonConfig, spec: str, size: int) -> tuple[PoisonedLabels, Sequence[str]]:
    images = image_set(spec, size)
    names: list[str] = getattr(images, "class_names", [])
    if not names:
        raise InputError(
            f"Expected labelled images in {spec} for the mode {config.mode}, got images without "
            f"labels. Use sub-folders by class, or a mode for captions: {', '.join(CAPTION_MODES)}."
        )
    backdoors = [Backdoor(each.trigger, _rule(config, each, names)) for each in config.backdoors()]
    return PoisonedLabels(with_labels(images), backdoors, config.rate, config.seed), names


def _rule(config: PoisonConfig, backdoor: BackdoorConfig, names: list[str]) -> LabelRule:
    if config.mode == "all-to-all":
        return AllToAll(len(names))
    if config.mode == "untargeted":
        return Untargeted(len(names), config.seed)
    target = match_names([backdoor.target], names)[0]
    if target < 0:
        raise InputError(
            f"Expected a target among {len(names)} classes, got {backdoor.target!r}. "
            f"{nearest(backdoor.target, names)}"
        )
    return CleanLabel(target) if config.mode == "clean-label" else AllToOne(target)
