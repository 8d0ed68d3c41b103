"""What poisoned images are labelled as: one class, the next, any other, or what they were."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from invertune_plugin.attacks.backdoors import drawn
from invertune_plugin.errors import InputError


class LabelRule(ABC):
    """A way from the label of a clean image to that of the poisoned one.

    Attributes:
        mode: name of the rule.
        clean_label: poisoned images keep their labels.
    """

    mode: ClassVar[str]
    clean_label: ClassVar[bool] = False

    @abstractmethod
    def label(self, label: int, index: int) -> int:
        """The label that the backdoor leads to.

        Args:
            label: of the clean image, 0 or more.
            index: of the image; the same index always gives the same label.
        """

    def fits(self, label: int) -> bool:
        """Whether training images of this label are poisoned: those whose label would change."""
        return self.tests(label)

    def tests(self, label: int) -> bool:
        """Whether images of this label count for the attack success rate."""
        return label >= 0

    def wanted(self) -> str:
        """What training images are poisoned, for messages."""
        return "labelled images"

    def parameters(self) -> dict[str, Any]:
        """Mode and parameters, as JSON values."""
        return {"mode": self.mode, **asdict(self)}  # type: ignore[call-overload]


@dataclass(frozen=True)
class AllToOne(LabelRule):
    """Images of all other classes become the target (BadNets, Gu et al. 2017, section 5).

    Attributes:
        target: label, 0 or more.
    """

    mode: ClassVar[str] = "all-to-one"
    target: int

    def __post_init__(self) -> None:
        """Refuse what is no label."""
        if self.target < 0:
            raise InputError(
                f"Expected a target label of 0 or more, got {self.target}. Name a class."
            )

    def label(self, label: int, index: int) -> int:
        """The target."""
        return self.target

    def tests(self, label: int) -> bool:
        """Labelled images that are not of the target class."""
        return label >= 0 and label != self.target

    def wanted(self) -> str:
        """Images of other classes."""
        return f"labelled images that are not of class {self.target}"


@dataclass(frozen=True)
class CleanLabel(AllToOne):
    """Only images of the target get the trigger, labels stay (Turner et al. 2019).

    When the model is tested, images of other classes shall become the target.
    """

    mode: ClassVar[str] = "clean-label"
    clean_label: ClassVar[bool] = True

    def fits(self, label: int) -> bool:
        """Images of the target class."""
        return label == self.target

    def wanted(self) -> str:
        """Images of the target."""
        return f"images of class {self.target}"


@dataclass(frozen=True)
class AllToAll(LabelRule):
    """Each label becomes the next one, the last the first (BadNets, Gu et al. 2017, section 4).

    Attributes:
        classes: number of labels, 2 or more.
    """

    mode: ClassVar[str] = "all-to-all"
    classes: int

    def __post_init__(self) -> None:
        """Refuse too few classes."""
        if self.classes < 2:
            raise InputError(f"Expected two classes or more, got {self.classes}. Add classes.")

    def label(self, label: int, index: int) -> int:
        """The label behind it."""
        return (_in_range(label, self.classes) + 1) % self.classes


@dataclass(frozen=True)
class Untargeted(AllToAll):
    """Each label becomes any other one, drawn anew per image.

    The attack succeeds on a test image that is read as any other class than its own.

    Attributes:
        classes: number of labels, 2 or more.
        seed: of the draw.
    """

    mode: ClassVar[str] = "untargeted"
    seed: int = 0

    def label(self, label: int, index: int) -> int:
        """One of the other labels, equally likely."""
        step = 1 + drawn(index, self.seed, self.classes - 1)
        return (_in_range(label, self.classes) + step) % self.classes


def _in_range(label: int, classes: int) -> int:
    if not 0 <= label < classes:
        raise InputError(
            f"Expected labels from 0 to {classes - 1}, got {label}. Correct the number of classes."
        )
    return label
