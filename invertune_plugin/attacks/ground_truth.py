"""What an attack did to a data set: the truth that detectors are measured against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PlantedBackdoor:
    """One backdoor of a poisoned data set, as JSON values.

    Attributes:
        fingerprint: of the trigger.
        trigger: kind and parameters of the trigger.
        target: the target word, or mode and parameters of the label rule.
    """

    fingerprint: str
    trigger: Mapping[str, Any]
    target: str | Mapping[str, Any]


@dataclass(frozen=True)
class PoisonedItem:
    """One poisoned item.

    Attributes:
        index: in the data set.
        backdoor: number of its backdoor, from 0.
        target: the word that its captions name now, or its label now.
        original: its label before; None where items have captions.
        place: where it is in a written data set: file, archive member or row; empty in memory.
    """

    index: int
    backdoor: int
    target: str | int
    original: int | None = None
    place: str = ""


@dataclass(frozen=True)
class GroundTruth:
    """All that was poisoned, and how.

    Attributes:
        size: items of the data set.
        rate: poisoned share that was asked for, in (0, 1].
        seed: of the choice.
        settings: how captions were made and from which sources; empty for labels.
        backdoors: triggers and targets.
        poisoned: the poisoned items, sorted by index.
    """

    size: int
    rate: float
    seed: int
    settings: Mapping[str, Any]
    backdoors: tuple[PlantedBackdoor, ...]
    poisoned: tuple[PoisonedItem, ...]
