"""What ``accelerate launch`` or ``torchrun`` says about this process in its environment."""

from __future__ import annotations

import os


def launched() -> int:
    """How many processes were started; 1 without a launcher."""
    return max(1, _number("WORLD_SIZE", 1))


def rank() -> int:
    """The number of this process, from 0."""
    return _number("RANK", 0)


def _number(name: str, alone: int) -> int:
    """What a launcher wrote; what is no number was written by none."""
    text = os.environ.get(name, "").strip()
    return int(text) if text.isdecimal() else alone
