"""One contract for all repairs of a CLIP: a suspect and clean data in, a repaired copy out."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from torch import nn

from invertune_plugin.data import ImageSet, InMemory, Items, PairSet, in_memory, texts_of
from invertune_plugin.errors import InputError
from invertune_plugin.outcome import Outcome, Stage, diverged
from invertune_plugin.passes import count_passes
from invertune_plugin.processes import ALONE, Processes
from invertune_plugin.randomness import seeded
from invertune_plugin.triggers import MaskedPattern

Need = Literal["pairs", "images", "labels"]
Report = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class DefenderData:
    """The few clean data of a defender.

    Attributes:
        pairs: image-caption pairs.
        images: images; labelled by the suspect's classes for defences that need labels.
    """

    pairs: PairSet | None = None
    images: ImageSet | None = None

    def given_pairs(self, name: str, suspect: Any) -> PairSet:
        """The pairs, for a defence of a name.

        Raises:
            InputError: there are none, or their images are of another size than the suspect's.
        """
        return _given(self.pairs, name, suspect, "image-caption pairs", "pairs")

    def given_images(self, name: str, suspect: Any) -> ImageSet:
        """The images; labels are not needed.

        Raises:
            InputError: there are none, or they are of another size than the suspect's.
        """
        return _given(self.images, name, suspect, "images", "images")

    def labelled_images(self, name: str, suspect: Any) -> InMemory[int]:
        """The images, decoded, each with the index of a class.

        Raises:
            InputError: as for ``given_images``, or a label is that of no class.
        """
        self.check(name, ("labels",), suspect)
        return in_memory(self.given_images(name, suspect))

    def check(self, name: str, needs: tuple[Need, ...], suspect: Any) -> None:
        """Refuse data that a defence cannot work with, before it begins.

        Raises:
            InputError: something that it needs is missing.
        """
        if "pairs" in needs:
            self.given_pairs(name, suspect)
        if "images" in needs or "labels" in needs:
            images = self.given_images(name, suspect)
        if "labels" in needs:
            _check_labels(texts_of(images), name, len(suspect.class_names))


@dataclass(frozen=True)
class Repaired:
    """What a repair made.

    Attributes:
        classifier: the repaired copy, in eval mode and without gradients; a plain copy where there
            was nothing to repair, or where InverTune does not stand by its own repair (``failed``);
            None where the repair cannot work on the suspect, or broke it.
        stages: one or more, in order.
        found_target: the target label that was found, or None.
        losses: loss after each update, by what was fitted.
        inverted: the trigger that was inverted last; None where none was.
    """

    classifier: Any
    stages: tuple[Stage, ...]
    found_target: int | None = None
    losses: Mapping[str, Sequence[float]] = field(default_factory=dict)
    inverted: MaskedPattern | None = None

    @property
    def outcome(self) -> Outcome:
        """How the last stage ended."""
        return self.stages[-1].outcome


@dataclass(frozen=True)
class Tuned:
    """What one stage of tuning made.

    Attributes:
        classifier: the tuned copy, or another module around it; None where that failed.
        reason: what was done, in a sentence.
        evidence: numbers about it; JSON values only.
        outcome: how it ended.
        losses: loss after each update.
    """

    classifier: Any
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)
    outcome: Outcome = Outcome.OK
    losses: Sequence[float] = ()

    def if_finite(self, loss: float) -> Tuned:
        """The same with the last loss as evidence; ``failed`` where it is no number any more."""
        if math.isfinite(loss):
            return replace(self, evidence={**self.evidence, "loss": loss})
        return Tuned(None, diverged(loss), self.evidence, Outcome.FAILED, self.losses)


def repaired_copy(
    name: str,
    suspect: Any,
    seed: int,
    report: Report | None,
    tune: Callable[[Any, Report], Tuned],
    processes: Processes = ALONE,
) -> Repaired:
    """Tune a copy of the suspect in one stage that is timed and whose encoder passes are counted.

    The global random state comes back unchanged.

    Args:
        name: of the stage.
        suspect: a ``ZeroShotClassifier``; it is not changed.
        seed: of the global random state inside.
        report: called with a sentence when the stage begins, goes on or ends.
        tune: what to do with the copy.
        processes: that do it together; their encoder passes are added up.
    """
    say = report or (lambda _: None)
    say(f"{name} ...")
    start = time.perf_counter()
    mine = copy.deepcopy(suspect)
    with (
        seeded(seed),
        count_passes(suspect.visual) as of_suspect,
        count_passes(mine.visual) as of_copy,
    ):
        tuned = tune(mine, say)
    stage = Stage(
        name,
        tuned.outcome,
        tuned.reason,
        tuned.evidence,
        time.perf_counter() - start,
        sum(processes.gather_items([of_suspect.passes, of_copy.passes])),
    )
    say(f"{name}: {stage.outcome.value}. {stage.reason}")
    made = None if tuned.classifier is None else at_rest(tuned.classifier)
    return Repaired(made, (stage,), losses={name: tuned.losses} if tuned.losses else {})


def impossible(name: str, reason: str) -> Repaired:
    """A repair that cannot work on the suspect, and why."""
    return Repaired(None, (Stage(name, Outcome.REJECTED, reason),))


def at_rest(classifier: nn.Module) -> nn.Module:
    """The classifier itself, in eval mode, frozen and without gradients."""
    classifier.zero_grad(set_to_none=True)
    return classifier.eval().requires_grad_(False)


def steps_told(name: str, say: Report, times: int = 10) -> Callable[[int, int, float], None]:
    """A report of training steps that says a sentence about every tenth of them."""

    def report(done: int, steps: int, loss: float) -> None:
        if done * times // steps > (done - 1) * times // steps:
            say(f"{name}: {done} of {steps} steps, loss {loss:.3f}")

    return report


def _given(data: Items[T] | None, name: str, suspect: Any, what: str, attribute: str) -> Items[T]:
    if data is None or len(data) == 0:
        raise InputError(
            f"Expected clean {what} for {name}, got none. Give them as {attribute} of DefenderData."
        )
    shape, size = data[0][0].shape, suspect.image_size
    if shape != (3, size, size):
        raise InputError(
            f"Expected images of 3 x {size} x {size} for {name} on this model, got "
            f"{' x '.join(map(str, shape))}. Resize them."
        )
    return data


def _check_labels(labels: Sequence[int], name: str, classes: int) -> None:
    for index, label in enumerate(labels):
        if not 0 <= label < classes:
            raise InputError(
                f"Expected labels from 0 to {classes - 1} for {name}, got {label} for image "
                f"{index}. Label all images by the classes of the suspect."
            )
