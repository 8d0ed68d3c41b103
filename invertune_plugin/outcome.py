"""The typed outcome of every stage of a defence."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Outcome(str, Enum):
    """How a stage ended. No stage goes on with a rejected or failed input."""

    OK = "ok"
    UNCERTAIN = "uncertain"
    REJECTED = "rejected"
    FAILED = "failed"


def diverged(loss: float) -> str:
    """Why a stage failed whose loss is no number any more, in a sentence."""
    return f"The loss ended as {loss}; a lower learning_rate may help."


@dataclass(frozen=True)
class Stage:
    """What one stage decided, and why.

    Attributes:
        name: stage name, for instance ``"target"``.
        outcome: how it ended.
        reason: one sentence for people.
        evidence: the numbers behind the decision; JSON values only.
        seconds: wall time of the stage.
        passes: work in encoder passes (forward = 1, forward + backward = 3), per image.
    """

    name: str
    outcome: Outcome
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    passes: int = 0
