"""Between step 1 and step 2: which class's inverted trigger is believed?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from invertune_plugin.defenses.invertune.inversion import InversionResult
from invertune_plugin.defenses.invertune.target import TargetResult
from invertune_plugin.outcome import Outcome, Stage

Invert = Callable[[int], InversionResult]
Look = Callable[[Sequence[InversionResult]], tuple[Stage, InversionResult]]
Choice = tuple[Stage, list[InversionResult]]


def first_accepted(labels: Sequence[int], invert: Invert) -> Choice:
    """Invert classes in order until a trigger is accepted; it comes last.

    Returns:
        The stage of that trigger, or of the first where none is accepted, and all inversions.
    """
    inversions: list[InversionResult] = []
    for label in labels:
        inversions.append(invert(label))
        if inversions[-1].stage.outcome is Outcome.OK:
            return inversions[-1].stage, inversions
    return inversions[0].stage, inversions


def compared(
    target: TargetResult, classes: int, share: float, invert: Invert, look: Look
) -> Choice:
    """Invert all classes in question and compare them; the one that is decided on comes last.

    Args:
        target: step 1, which left the target uncertain or saw no class stand out.
        classes: that are looked at where none stands out, beside the candidates of an uncertain
            target; 0 for no closer look.
        share: of the next one's area that the smallest trigger of uncertain candidates may cover.
        invert: step 2 for a class index.
        look: the closer look at inversions of two or more classes.
    """
    inversions: list[InversionResult] = []
    if target.stage.outcome is Outcome.UNCERTAIN:
        inversions = [invert(candidate.label) for candidate in target.candidates]
        inversions.sort(key=_accepted_area, reverse=True)
        stage = _second_opinion(inversions[-1], inversions[-2], share)
        if stage.outcome is Outcome.OK or not classes:
            return stage, inversions
    known = [inversion.label for inversion in inversions]
    inversions += [invert(label) for label in target.ranking[:classes] if label not in known]
    stage, decided = look(inversions)
    return stage, [*(each for each in inversions if each is not decided), decided]


def _accepted_area(inversion: InversionResult) -> float:
    """Area of an accepted trigger; where none was accepted, no small one leads to the class."""
    return inversion.area if inversion.stage.outcome is Outcome.OK else float("inf")


def _second_opinion(small: InversionResult, large: InversionResult, share: float) -> Stage:
    if small.stage.outcome is not Outcome.OK:
        return small.stage
    if large.stage.outcome is not Outcome.OK:
        return small.stage
    ratio = small.area / max(large.area, 1e-9)
    evidence = {**small.stage.evidence, "area_ratio": ratio}
    if ratio <= share:
        return replace(small.stage, evidence=evidence)
    reason = (
        f"The target was uncertain, and the smallest trigger of the candidates covers {ratio:.2f} "
        f"of the next one's area; at most {share:.2f} would tell a backdoor."
    )
    return Stage("inversion", Outcome.REJECTED, reason, evidence)
