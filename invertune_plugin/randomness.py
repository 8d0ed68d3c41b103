"""The random state of Python, numpy and torch: seeded for a while, then as it was."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from invertune_plugin.errors import InputError

MOST = 2**32 - 1
"""The largest seed that numpy takes."""


def check_seed(seed: int) -> None:
    """Refuse a seed that not all generators take.

    Raises:
        InputError: it is below 0 or above ``MOST``.
    """
    if not 0 <= seed <= MOST:
        raise InputError(f"Expected a seed from 0 to {MOST}, got {seed}. Choose another one.")


@contextmanager
def seeded(seed: int, deterministic: bool = False) -> Iterator[None]:
    """Seed all three inside; the caller's random state comes back unchanged.

    Args:
        seed: of all global generators.
        deterministic: ask torch for deterministic algorithms inside.

    Raises:
        InputError: it is no seed; see ``check_seed``.
    """
    check_seed(seed)
    python, legacy = random.getstate(), np.random.get_state()
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng():
        try:
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            torch.use_deterministic_algorithms(
                deterministic or algorithms, warn_only=warn_only and not deterministic
            )
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)
            torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
