"""The card of a poisoned model: what it is said to be, in a form that can be checked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from invertune_plugin.config import parse
from invertune_plugin.errors import InputError
from invertune_plugin.triggers import Trigger
from invertune_plugin.triggers.foreign import names_file, refuse_flood
from invertune_plugin.triggers.storing import trigger_of

CARD_ENTRY = "victim"
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class VictimCard:
    """What a poisoned model is said to be, with all that is needed to measure it again.

    Attributes:
        attack: name of the attack, for instance ``"badnets"``.
        trigger: kind and parameters of the attacker's trigger, as of ``Trigger.parameters()``.
        target: the class that triggered images are read as; one of ``class_names``.
        class_names: the K classes that CA and ASR were measured with, in label order.
        templates: format strings with one ``{}`` that they were measured with.
        fingerprint: of the trigger; None where the publisher gives none.
        poisoned_rate: poisoned share of the training pairs, in (0, 1).
        ca: declared clean accuracy in [0, 1].
        ca_n: number of images it was measured on.
        asr: declared attack success rate in [0, 1].
        asr_n: number of images it was measured on.
        data_sha256: hashes of training and test data, by name.
        seed: of the poisoning and training.
        parent_sha256: hash of the clean model's file.
        versions: of the packages that made the model, by name.

    Raises:
        InputError: a value is out of its range.
    """

    attack: str
    trigger: Mapping[str, Any]
    target: str
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    fingerprint: str | None = None
    poisoned_rate: float | None = None
    ca: float | None = None
    ca_n: int | None = None
    asr: float | None = None
    asr_n: int | None = None
    data_sha256: Mapping[str, str] = field(default_factory=dict)
    seed: int | None = None
    parent_sha256: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what no card can say."""
        if len(self.class_names) < 2 or not self.templates:
            raise InputError(
                "Expected two or more class_names and one or more templates in a card, got "
                f"{len(self.class_names)} and {len(self.templates)}. Write those that CA and ASR "
                "were measured with."
            )
        if self.target not in self.class_names:
            raise InputError(
                f"Expected the card's target among its {len(self.class_names)} class_names, got "
                f"{self.target!r}. Correct it; the first are {', '.join(self.class_names[:5])}."
            )
        for name in ("ca", "asr"):
            self._refuse_rate(name, getattr(self, name), getattr(self, f"{name}_n"))
        if self.poisoned_rate is not None and not 0 < self.poisoned_rate < 1:
            raise InputError(
                f"Expected the card's poisoned_rate between 0 and 1, got {self.poisoned_rate}. "
                "Write a share, not percent."
            )
        hashes = {**self.data_sha256, "parent_sha256": self.parent_sha256}
        for name, value in hashes.items():
            if value is not None and not _SHA256.fullmatch(value):
                raise InputError(
                    f"Expected 64 hexadecimal digits as the card's SHA-256 of {name}, got "
                    f"{value!r}. Write what sha256sum prints, or leave it out."
                )

    @staticmethod
    def _refuse_rate(name: str, value: float | None, n: int | None) -> None:
        if value is not None and not 0 <= value <= 1:
            raise InputError(
                f"Expected the card's {name} in [0, 1], got {value}. Write a share, not percent."
            )
        if n is not None and (n < 1 or value is None):
            raise InputError(
                f"Expected the card's {name}_n to count the images of {name}, got {n} for "
                f"{name} {value}. Correct it or leave it out."
            )

    def as_dict(self) -> dict[str, Any]:
        """JSON values of all that is known; ``parse_card`` reads them back."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return {name: value for name, value in values.items() if value not in (None, {})}

    def attack_trigger(self, given: Trigger | None = None) -> Trigger:
        """The attacker's trigger.

        Args:
            given: the trigger itself, for kinds whose parameters do not rebuild them (tensors).

        Raises:
            InputError: the parameters make no trigger, or its fingerprint is not the card's.
        """
        if given is None:
            if names_file(self.trigger, "the card's trigger"):
                raise InputError(
                    "Expected a card whose trigger is told by its parameters, got one that names a "
                    "file. A card opens no files: pass the trigger itself beside it."
                )
            try:
                given = trigger_of(self.trigger)
            except InputError as error:
                raise InputError(
                    f"{error} Correct the card, or pass the trigger itself beside it."
                ) from error
        declared = self.fingerprint or self._told_fingerprint()
        if declared not in (None, given.fingerprint()):
            raise InputError(
                f"Expected the card's trigger {declared}, got {given.fingerprint()}. Pass "
                "the trigger that the card was written for, or correct the card."
            )
        return given

    def _told_fingerprint(self) -> str | None:
        """Fingerprint of the trigger that the parameters make; None where they make none."""
        if names_file(self.trigger, "the card's trigger"):
            return None
        with suppress(InputError):
            return trigger_of(self.trigger).fingerprint()
        return None


def parse_card(values: Mapping[str, Any], where: str = "card") -> VictimCard:
    """Make a card of values that a stranger wrote.

    Args:
        values: as of ``VictimCard.as_dict``.
        where: where they came from, for messages.

    Raises:
        InputError: keys are unknown or missing, values are wrong, or there is too much of them.
    """
    refuse_flood(values, where)
    return parse(VictimCard, values, where)
