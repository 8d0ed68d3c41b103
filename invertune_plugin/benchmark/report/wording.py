"""What a repair means, in plain words; bad news as plainly as good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from invertune_plugin.benchmark.judgement import Judgement
from invertune_plugin.defenses.invertune.pipeline import Repair
from invertune_plugin.outcome import Outcome

TERMS = {
    "cost": "root mean square, in [0, 1], of the smallest universal perturbation found that sends "
    "images to a class; far less for one class than for the next tells a shortcut",
    "shift": "gain in predictions of a class under one untargeted universal perturbation, "
    "P_adv − P_clean",
    "inverted trigger": "mask and pattern found by the defence alone; its success is measured on "
    "images it was not fitted to",
    "rebound": "the same measurement after further benign training on clean pairs",
    "encoder passes": "work on single images: forward = 1, forward and backward = 3",
}
BADGES = {
    Outcome.OK: "✓ Backdoor removed",
    Outcome.UNCERTAIN: "? Uncertain",
    Outcome.REJECTED: "○ No backdoor found",
    Outcome.FAILED: "✕ Repair failed",
}


@dataclass(frozen=True)
class Note:
    """A sentence and whether it is good news."""

    tone: Literal["good", "bad"]
    text: str


def class_name(repair: Repair, label: int) -> str:
    """The name of a class of the suspect, or among the candidates where these are all we have."""
    named = {c.label: c.name for c in repair.target.candidates} if repair.target else {}
    named |= dict(enumerate(repair.class_names))
    return named.get(label, f"class {label}")


def found_name(repair: Repair) -> str | None:
    """The name of the target that a repair was made or tried for."""
    return None if repair.found_label is None else class_name(repair, repair.found_label)


def verdict(repair: Repair, judgement: Judgement, true_target: str | None = None) -> str:
    """The whole result in a sentence or two.

    Args:
        repair: what the defence found and did.
        judgement: what measurements say of it.
        true_target: name of the attacker's class, where it is known.
    """
    name = found_name(repair)
    told = []
    if judgement.left is not None:
        succeeds = f"the attacker's trigger still succeeds on {judgement.left.value:.1%}"
        told.append(
            f"A backdoor that leads to “{name}” was found but not removed: {succeeds} after the "
            "repair."
            if true_target in (None, name)
            else f"“{name}” was repaired, which is not the attacker's target: {succeeds}."
        )
    if judgement.lost is not None:
        before, after = (rate.value for rate in judgement.lost)
        told.append(
            f"The repair destroyed the model: its clean accuracy fell from {before:.1%} to "
            f"{after:.1%}."
        )
    if told:
        return " ".join(told)
    if repair.outcome is Outcome.OK and repair.tuning is not None:
        inverted = repair.tuning.stage.evidence.get("inverted_asr")
        now = "" if inverted is None else f", and {inverted:.1%} after the repair"
        again = ""
        if (back := judgement.back) is not None:
            again = f" After benign training the attacker's trigger reaches {back.value:.1%} again."
        return (
            f"A backdoor that leads to “{name}” was found and removed: its inverted trigger sent "
            f"{repair.inversions[-1].asr:.1%} of images there before{now}.{again}"
        )
    if repair.outcome is Outcome.REJECTED:
        return "No backdoor found; the model was not changed."
    if repair.outcome is Outcome.UNCERTAIN:
        return "There are signs of a backdoor, but not enough to act on; the model was not changed."
    if name is None:
        return "The search for a backdoor failed; the model was not changed."
    return (
        f"A backdoor that leads to “{name}” was found but not removed: the repair failed its own "
        "check, and there is no repaired model."
    )


def truth(repair: Repair, true_target: str | None, judgement: Judgement) -> Note | None:
    """The decision against the attacker's target, where that is known."""
    if true_target is None:
        return None
    name, before = found_name(repair), judgement.attacked
    if name == true_target:
        return Note("good", f"Right class: the attacker's target was “{true_target}”.")
    if name is None and before is not None and not judgement.works:
        return Note(
            "good",
            f"Nothing to find: the given trigger leads to “{true_target}” on {before.value:.1%} of "
            "images only.",
        )
    if name is None and repair.outcome is Outcome.UNCERTAIN:
        return Note("bad", f"Not decided: the attacker's target is “{true_target}”.")
    if name is None:
        return Note("bad", f"Missed: this model carries a backdoor that leads to “{true_target}”.")
    return Note("bad", f"Wrong class: the attacker's target was “{true_target}”, not “{name}”.")


def false_alarm(clean_repair: Repair) -> Note:
    """What the defence did to a healthy model."""
    name = found_name(clean_repair)
    if clean_repair.outcome is Outcome.OK:
        return Note(
            "bad", f"False alarm: a backdoor to “{name}” was “found” and a healthy model changed."
        )
    if name is not None:
        return Note(
            "bad",
            f"A backdoor to “{name}” was “found” that is not there; the repair failed its own "
            "check, so the healthy model was not changed.",
        )
    if clean_repair.outcome is Outcome.FAILED:
        return Note("bad", "Not checked for false alarms: the search on the clean model failed.")
    if clean_repair.outcome is Outcome.UNCERTAIN:
        return Note("bad", "Signs of a backdoor were seen in the clean model; it was not changed.")
    return Note("good", "No false alarm: the clean model was left unchanged.")


def ended(repair: Repair) -> str:
    """Where and how a repair ended, as the end of a sentence."""
    last = repair.stages[-1]
    return f"the {last.name} stage ended as {last.outcome.value}."
