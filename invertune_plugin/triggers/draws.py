"""Random numbers of triggers: a function of seeds and keys, never of global state."""

from __future__ import annotations

import torch
from torch import Tensor

HASH_MULTIPLIERS = (2654435761, 2246822519, 3266489917, 668265263)
ROWS, COLUMNS, CHOICES = range(3)
DRAWN = 2**31
"""Integers are drawn from 0 to this, exclusive."""


def generator(seed: int) -> torch.Generator:
    """A generator of its own, on the CPU."""
    return torch.Generator().manual_seed(seed)


def draw_integers(keys: Tensor, seed: int, stream: int) -> Tensor:
    """One well-mixed integer in [0, 2 ** 31) per key, without a loop and without global state.

    Args:
        keys: integers ``[N]``.
        seed: another seed gives other numbers.
        stream: ``ROWS``, ``COLUMNS`` or ``CHOICES``; numbers of two streams are independent.
    """
    shifted = (int(seed) + 1) * HASH_MULTIPLIERS[1 + stream]
    wrapped = (shifted + 2**63) % 2**64 - 2**63
    mixed = (keys.long() + 1) * HASH_MULTIPLIERS[0] + wrapped
    for shift in (15, 13):
        mixed = ((mixed ^ (mixed >> shift)) * HASH_MULTIPLIERS[1]) & 0x7FFFFFFF
    return mixed ^ (mixed >> 16)
