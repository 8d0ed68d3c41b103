"""The three steps in order, each gated by the outcome of the one before."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from invertune_plugin.data import ImageSet
from invertune_plugin.defenses.invertune.choice import Choice, compared, first_accepted
from invertune_plugin.defenses.invertune.inversion import (
    InversionConfig,
    InversionResult,
    invert_trigger,
)
from invertune_plugin.defenses.invertune.rounds import tune_in_rounds
from invertune_plugin.defenses.invertune.squares import SquareConfig, closer_look
from invertune_plugin.defenses.invertune.target import (
    Candidate,
    TargetConfig,
    TargetResult,
    find_target,
    stands_out,
)
from invertune_plugin.defenses.invertune.tuning import TuningConfig, TuningResult
from invertune_plugin.errors import InputError
from invertune_plugin.modes import channels_last, frozen
from invertune_plugin.outcome import Outcome, Stage
from invertune_plugin.passes import Work, count_passes, without_counters
from invertune_plugin.processes import ALONE, Processes

Report = Callable[[str], None]


@dataclass(frozen=True)
class InverTuneConfig:
    """Settings of InverTune.

    Attributes:
        target: step 1, which class.
        inversion: step 2, which trigger.
        tuning: step 3, the repair.
        images: most clean images that are used.
        least_images: fewer are refused.
        held_back: share of them that judges triggers and repairs and is not fitted to.
        tries: most candidates that are inverted; behind the first only such as are themselves much
            cheaper than the next one.
        second_opinion: where the target is uncertain, all candidates are inverted, and the smallest
            accepted trigger must cover at most this share of the next one's area; where no other
            is accepted it stands alone.
        squares: the closer look where no class stands out otherwise.
    """

    target: TargetConfig = field(default_factory=TargetConfig)
    inversion: InversionConfig = field(default_factory=InversionConfig)
    tuning: TuningConfig = field(default_factory=TuningConfig)
    images: int = 1000
    least_images: int = 64
    held_back: float = 0.25
    tries: int = 2
    second_opinion: float = 0.5
    squares: SquareConfig = field(default_factory=SquareConfig)

    def __post_init__(self) -> None:
        """Refuse settings that leave a step without images or candidates."""
        if not 0 < self.held_back < 1:
            raise InputError(f"Expected held_back between 0 and 1, got {self.held_back}.")
        if self.tries < 1 or self.images < self.least_images or self.least_images < 8:
            raise InputError(
                "Expected tries >= 1 and images >= least_images >= 8, got "
                f"{self.tries}, {self.images} and {self.least_images}."
            )


@dataclass
class Repair:
    """What InverTune found and did.

    Attributes:
        stages: one per stage that ran, in order.
        classifier: the repaired copy, or None where nothing was repaired.
        target: ranked candidates.
        inversions: triggers inverted; the one that was gone on with, or decided on, is the last.
        tuning: what was tuned.
        work: encoder calls per stage.
        class_names: of the suspect.
    """

    stages: list[Stage] = field(default_factory=list)
    classifier: Any = None
    target: TargetResult | None = None
    inversions: list[InversionResult] = field(default_factory=list)
    tuning: TuningResult | None = None
    work: dict[str, Work] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """How the last stage ended: ``ok`` is repaired, ``rejected`` is no backdoor found."""
        return self.stages[-1].outcome

    @property
    def found_label(self) -> int | None:
        """The target label a repair was made for."""
        return self.inversions[-1].label if self.tuning else None


def repair_classifier(
    suspect: Any,
    dataset: ImageSet,
    config: InverTuneConfig,
    seed: int = 0,
    report: Report | None = None,
    processes: Processes = ALONE,
) -> Repair:
    """Find, invert and remove a backdoor.

    Args:
        suspect: a ``ZeroShotClassifier``; it is not changed.
        dataset: clean images of any kind; labels are not needed.
        config: settings.
        seed: of all steps.
        report: called with a sentence when a stage begins or ends.
        processes: that repair together; all get the same result.

    Raises:
        InputError: too few clean images, none to fit to or to judge by, or the processes cannot
            share a batch of the tuning.
    """
    processes.refuse_uneven(config.tuning.batch_size)
    images, held_back = _defender_images(dataset, suspect.image_size, config, seed)
    say = report or (lambda _: None)
    repair = Repair(class_names=tuple(suspect.class_names))
    with frozen(suspect), channels_last(suspect.visual):
        device = next(suspect.parameters()).device
        images, held_back = images.to(device), held_back.to(device)
        with _stage(repair, suspect, "target", say, processes):
            repair.target = find_target(suspect, images, config.target, seed, processes)
            repair.stages.append(repair.target.stage)
        comparable = config.squares.classes and len(repair.target.ranking) > 1
        hopeless = repair.outcome is Outcome.REJECTED and not comparable
        if hopeless or repair.outcome is Outcome.FAILED:
            return repair
        with _stage(repair, suspect, "inversion", say, processes):
            stage, repair.inversions = _invert(
                suspect, repair.target, images, held_back, config, seed, processes
            )
            repair.stages.append(stage)
        if repair.outcome is not Outcome.OK:
            return repair
        found = repair.inversions[-1]
        with _stage(repair, suspect, "tuning", say, processes):
            repair.tuning = tune_in_rounds(
                suspect,
                images,
                held_back,
                found,
                config.inversion,
                config.tuning,
                seed,
                processes,
            )
            repair.stages.append(repair.tuning.stage)
    if repair.outcome is Outcome.OK:
        repair.classifier = repair.tuning.classifier
        repair.classifier.to(memory_format=torch.contiguous_format)
        without_counters(repair.classifier.visual)
        pairs = zip(repair.classifier.parameters(), suspect.parameters(), strict=True)
        for parameter, before in pairs:
            parameter.requires_grad_(before.requires_grad)
    return repair


def _invert(
    suspect: Any,
    target: TargetResult,
    images: Tensor,
    held_back: Tensor,
    config: InverTuneConfig,
    seed: int,
    processes: Processes,
) -> Choice:
    """Step 2 for the target, or for all classes in question where it is not clear."""

    def invert(label: int) -> InversionResult:
        return invert_trigger(suspect, images, held_back, label, config.inversion, seed, processes)

    def look(inversions: Sequence[InversionResult]) -> tuple[Stage, InversionResult]:
        return closer_look(suspect, images, held_back, inversions, config.squares, seed, processes)

    if target.stage.outcome is Outcome.OK:
        return first_accepted(_worth_a_try(target.candidates, config), invert)
    return compared(target, config.squares.classes, config.second_opinion, invert, look)


def _worth_a_try(candidates: Sequence[Candidate], config: InverTuneConfig) -> list[int]:
    """The first candidate, and those behind it for which the evidence speaks as well."""
    published = config.target.variant == "published"
    return [
        candidate.label
        for i, candidate in enumerate(candidates[: config.tries])
        if i == 0 or published or stands_out(candidates[i:], config.target)
    ]


def _defender_images(
    dataset: ImageSet, size: int, config: InverTuneConfig, seed: int
) -> tuple[Tensor, Tensor]:
    if len(dataset) < config.least_images:
        raise InputError(
            f"Expected at least {config.least_images} clean images, got {len(dataset)}. "
            "Add images; labels are not needed."
        )
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(dataset), generator=generator)[: config.images].tolist()
    found = [dataset[i][0] for i in chosen]
    shapes = (tuple(each.shape) for each in found)
    if other := next((shape for shape in shapes if shape != (3, size, size)), None):
        raise InputError(
            f"Expected images of 3 x {size} x {size} for this model, got "
            f"{' x '.join(map(str, other))}. Resize them."
        )
    images = torch.stack(found)
    held_back = round(len(images) * config.held_back)
    if not 0 < held_back < len(images):
        raise InputError(
            f"Expected images to fit to and images to judge by, got {len(images)} in all of which "
            f"{held_back} are held back. Change held_back ({config.held_back}), or add images."
        )
    return images[held_back:], images[:held_back]


@contextmanager
def _stage(
    repair: Repair, suspect: Any, name: str, say: Report, processes: Processes
) -> Iterator[None]:
    """Time a stage and count the encoder passes of all processes."""
    say(f"{name} ...")
    start = time.perf_counter()
    with count_passes(suspect.visual) as work:
        yield
    repair.work[name] = work
    passes = sum(processes.gather_items([work.passes]))
    seconds = time.perf_counter() - start
    repair.stages[-1] = replace(repair.stages[-1], seconds=seconds, passes=passes)
    say(f"{name}: {repair.stages[-1].outcome.value}. {repair.stages[-1].reason}")
