"""Is a poisoned model what its card says? Measured, not believed."""

from __future__ import annotations

from dataclasses import dataclass

from invertune_plugin.attacks.card import VictimCard
from invertune_plugin.data import ImageSet
from invertune_plugin.errors import InputError
from invertune_plugin.metrics import (
    Rate,
    attack_success_rate,
    clean_accuracy,
    refuse_target_only,
)
from invertune_plugin.outcome import Outcome
from invertune_plugin.triggers import Trigger
from invertune_plugin.zero_shot import ZeroShotClassifier

TOLERANCE = 0.02
_TRIGGER_CAUSES = (
    "the trigger (its place and size, and whether it goes on before or after resizing)"
)
_MODEL_CAUSES = (
    "the preprocessing (mean, std, image size), the activation (QuickGELU or not), and class names "
    "and templates"
)


@dataclass(frozen=True)
class VictimCheck:
    """What was measured of a victim, and whether it is what its card says.

    Attributes:
        ca: measured clean accuracy.
        asr: measured attack success rate, with the declared trigger.
        outcome: ``OK``, or ``REJECTED`` where a number contradicts the card.
        reason: one sentence for people; with both numbers and likely causes where rejected.
    """

    ca: Rate
    asr: Rate
    outcome: Outcome
    reason: str

    def accepted(self) -> VictimCheck:
        """The check itself, where the model is what its card says.

        Raises:
            InputError: it is not.
        """
        if self.outcome is not Outcome.OK:
            raise InputError(self.reason)
        return self


def victim_card(
    classifier: ZeroShotClassifier,
    test_images: ImageSet,
    attack: str,
    trigger: Trigger,
    target: str,
) -> VictimCard:
    """Measure a poisoned model and write its card; add provenance with ``dataclasses.replace``.

    Args:
        classifier: the victim, with the classes that the card shall name.
        test_images: labelled clean images that nobody trained on.
        attack: name of the attack.
        trigger: the attacker's.
        target: the attacker's class.

    Raises:
        InputError: the target is no class, or all images are of it.
    """
    ca, asr = _measured(classifier, test_images, trigger, target)
    return VictimCard(
        attack=attack,
        trigger=trigger.parameters(),
        target=target,
        class_names=tuple(classifier.class_names),
        templates=tuple(classifier.templates),
        fingerprint=trigger.fingerprint(),
        ca=ca.value,
        ca_n=ca.n,
        asr=asr.value,
        asr_n=asr.n,
    )


def check_victim(
    classifier: ZeroShotClassifier,
    card: VictimCard,
    test_images: ImageSet,
    tolerance: float = TOLERANCE,
    *,
    trigger: Trigger | None = None,
) -> VictimCheck:
    """Measure a victim with the trigger its card declares, and compare.

    A declared number stands where the measured one is within ``tolerance`` of it, or where the
    Wilson intervals at 95 % of the two touch (a declared number without n is taken as exact).

    Args:
        classifier: the model, with the classes and templates of the card.
        card: what its publisher says.
        test_images: labelled clean images of the card's classes.
        tolerance: absolute, in [0, 1); for differences in decoding and resizing.
        trigger: the attacker's, for kinds that the card's parameters do not rebuild.

    Returns:
        Both measured rates and the verdict; ``accepted()`` raises where it is no.

    Raises:
        InputError: nothing can be compared: the card declares no number, it was measured with other
            classes or templates, or there is no image outside the target class.
    """
    if not 0 <= tolerance < 1:
        raise InputError(
            f"Expected a tolerance in [0, 1), got {tolerance}. Write 0.02 for 2 points."
        )
    if card.ca is None and card.asr is None:
        raise InputError(
            "Expected a card that declares ca or asr, got one without either. Add the publisher's "
            "numbers, or evaluate without a card."
        )
    _refuse_other_texts(classifier, card)
    ca, asr = _measured(classifier, test_images, card.attack_trigger(trigger), card.target)
    wrong = [
        f"{name} {declared:.1%}, got {rate}"
        for name, declared, n, rate in (
            ("CA", card.ca, card.ca_n, ca),
            ("ASR", card.asr, card.asr_n, asr),
        )
        if declared is not None and not _agrees(declared, n, rate, tolerance)
    ]
    if not wrong:
        return VictimCheck(ca, asr, Outcome.OK, f"It is what the card says: CA {ca}, ASR {asr}.")
    only_asr = card.ca is not None and len(wrong) == 1 and wrong[0].startswith("ASR")
    causes = (_TRIGGER_CAUSES, _MODEL_CAUSES) if only_asr else (_MODEL_CAUSES, _TRIGGER_CAUSES)
    reason = f"Expected, as the card says, {'; and '.join(wrong)}. Check first {causes[0]}"
    return VictimCheck(ca, asr, Outcome.REJECTED, f"{reason}, then {causes[1]}.")


def _measured(
    classifier: ZeroShotClassifier, images: ImageSet, trigger: Trigger, target: str
) -> tuple[Rate, Rate]:
    label = classifier.class_index(target)
    refuse_target_only(images, label, target)
    asr = attack_success_rate(classifier, images, trigger, label)
    return clean_accuracy(classifier, images), asr


def _agrees(declared: float, n: int | None, measured: Rate, tolerance: float) -> bool:
    low, high = measured.interval
    lowest, highest = (declared, declared) if n is None else Rate(round(declared * n), n).interval
    return abs(measured.value - declared) <= tolerance or (lowest <= high and low <= highest)


def _refuse_other_texts(classifier: ZeroShotClassifier, card: VictimCard) -> None:
    for what, ours, declared in (
        ("class_names", classifier.class_names, card.class_names),
        ("templates", classifier.templates, card.templates),
    ):
        if list(ours) != list(declared):
            raise InputError(
                f"Expected the {len(declared)} {what} of the card ({', '.join(declared[:3])}, "
                f"...), got {len(ours)} ({', '.join(ours[:3])}, ...). Make the classifier with "
                "those of the card: other texts give other numbers."
            )
