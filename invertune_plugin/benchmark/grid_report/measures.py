"""What the shares of a grid are called, what they mean, and which way is good."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from invertune_plugin.benchmark.report.wording import TERMS
from invertune_plugin.metrics import DEFINITIONS
from invertune_plugin.retrieval import DEFINITIONS as RETRIEVAL

SECOND = "_second"
TRIGGER = "_trigger"
STAGES = {
    "clean": (" of the clean model", "on the clean model that the victim was made of"),
    "before": (" before the defence", "on the victim, before any defence"),
    "after": ("", "on the model that the defence leaves"),
    "rebound": (" after rebound", "on that model after further benign training on clean pairs"),
}
Better = Literal["higher", "lower", ""]


@dataclass(frozen=True)
class Kind:
    """A kind of share: how it is called, what it means, which way is good."""

    title: str
    meaning: str
    better: Better


KINDS = {
    "asr": Kind("ASR", DEFINITIONS["asr"], "lower"),
    "ca": Kind("CA", DEFINITIONS["ca"], "higher"),
    "retrieval_asr": Kind("Retrieval ASR@", RETRIEVAL["retrieval_asr"], "lower"),
    "i2t_r": Kind("Image-to-text R@", RETRIEVAL["i2t_r"], "higher"),
    "t2i_r": Kind("Text-to-image R@", RETRIEVAL["t2i_r"], "higher"),
    "tpr": Kind("TPR", "share of poisoned images that a detector flags", "higher"),
    "fpr": Kind("FPR", "share of clean images that a detector flags", "lower"),
}
_FIELD = re.compile(f"(?P<kind>{'|'.join(KINDS)})(?P<k>[0-9]*)(_(?P<stage>{'|'.join(STAGES)}))?")


@dataclass(frozen=True)
class Measure:
    """A share of images, by the name of its field.

    Attributes:
        name: of the field.
        title: for people.
        meaning: what is measured, in a sentence without a full stop.
        better: which way is good; "" where that is not known.
        before: field of the same share before the defence.
    """

    name: str
    title: str
    meaning: str
    better: Better = ""
    before: str = ""


def measure_of(name: str) -> Measure:
    """What a field means: which share, of which model, on which test set; else its name is all."""
    base, second, trigger = _taken_apart(name)
    parts = _FIELD.fullmatch(base)
    if parts is None:
        return Measure(name, name, "a share of images, as the cell names it")
    kind, k, stage = parts["kind"], parts["k"], parts["stage"]
    known = KINDS[kind]
    what, where = STAGES[stage or "after"]
    title, meaning = f"{known.title}{k}{what}", f"{known.meaning}; {where}"
    if second:
        title, meaning = (
            f"{title}, second test set",
            f"{meaning}; on the other test set of the recipe",
        )
    if trigger:
        number = trigger.removeprefix(TRIGGER)
        title, meaning = f"{title}, trigger {number}", f"{meaning}; of trigger {number} alone"
    return Measure(name, title, meaning, known.better, f"{kind}{k}_before{second}{trigger}")


def is_of_one_trigger(name: str) -> bool:
    """Whether a field is about one of several triggers."""
    return bool(_taken_apart(name)[2])


def _taken_apart(name: str) -> tuple[str, str, str]:
    """A field without its ends, which say: on the second test set, of one of several triggers."""
    found = re.search(f"{TRIGGER}[0-9]+$", name)
    trigger = found.group() if found else ""
    whole = name.removesuffix(trigger)
    base = whole.removesuffix(SECOND)
    return base, whole[len(base) :], trigger


def in_reading_order(names: Iterable[str]) -> list[Measure]:
    """Measures of fields in the order of ``KINDS``, the first test set before the second."""
    kinds, stages = list(KINDS), ["", *STAGES]

    def place(name: str) -> tuple[object, ...]:
        base, second, trigger = _taken_apart(name)
        parts = _FIELD.fullmatch(base)
        if parts is None:
            return trigger, second, len(kinds), "", 0
        stage = stages.index(parts["stage"] or "")
        return trigger, second, kinds.index(parts["kind"]), parts["k"], stage

    return [measure_of(name) for name in sorted(dict.fromkeys(names), key=place)]


TERMS_OF_THE_PAGE = {
    "interval": f"of one seed: {DEFINITIONS['interval']}; of several seeds: percentile bootstrap "
    "of their mean, 95 %, which with three seeds is about their range",
    "n": "test images that a share is of",
    "rebound": TERMS["rebound"],
    "false alarm": "a defence that searches for a target names one in a clean model",
    "inverted trigger": TERMS["inverted trigger"],
    "encoder passes": TERMS["encoder passes"],
    "seconds": "wall time of the whole cell, data, repair and measurements included",
    "memory": "most resident memory of the cell's process, and most on the GPU where there is one",
    "ok": "the defence did what it is for",
    "uncertain": "it saw signs, but not enough to act on",
    "rejected": "it found no backdoor, or cannot work on this model; the model is as it was",
    "failed": "it or its own check failed, or the cell ended in an error",
    "impossible": "the pair cannot work, known before anything ran",
    "not run": "the grid has this cell, and the store has nothing on it yet",
    "doubtful": "the cell itself says why its numbers are not to be relied on",
}
