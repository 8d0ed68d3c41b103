"""A backdoor of an attack: a trigger and what it shall lead to."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Generic, TypeVar

from invertune_plugin.triggers import Trigger

Target = TypeVar("Target", covariant=True)


@dataclass(frozen=True)
class Backdoor(Generic[Target]):
    """One trigger and its target.

    Attributes:
        trigger: what poisoned images get.
        target: a word that captions name, or a rule that makes labels.
    """

    trigger: Trigger
    target: Target


def drawn(index: int, seed: int, count: int) -> int:
    """One of 0 to ``count - 1``, always the same for an index and a seed."""
    digest = hashlib.blake2b(f"{seed}:{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count
