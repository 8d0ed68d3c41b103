"""Poison of classes that are too small to show a heap of their own before the last layer."""

from __future__ import annotations

import numpy as np

from invertune_plugin.defenses.purifiers.last_layer import all_heaps
from invertune_plugin.defenses.purifiers.splitting import Directions

LARGE, SMALL = 4, 10
"""Classes of 400 samples, a tenth of them poison, and of 20, of which twelve are."""


def of_unequal_classes(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """What the layers and the last one say, classes, and which samples are poison."""
    rng = np.random.default_rng(seed)
    sizes, poisoned = [400] * LARGE + [20] * SMALL, [40] * LARGE + [12] * SMALL
    predictions = np.repeat(np.arange(LARGE + SMALL), sizes)
    poison = np.concatenate(
        [np.arange(size) < few for size, few in zip(sizes, poisoned, strict=True)]
    )
    last = rng.normal(size=(len(predictions), 32)) + 10 * np.eye(32)[predictions]
    last += 8 * np.outer(poison, np.eye(32)[31])
    return rng.normal(size=(len(predictions), 6)), predictions, last, np.flatnonzero(poison)


def test_poison_of_small_classes_is_found_by_what_it_shares_with_that_of_large_ones() -> None:
    """Less the mean of its class, most of which it is, it would lie near it."""
    values, predictions, last, poison = of_unequal_classes()
    found = all_heaps(values, predictions, last, Directions())
    assert found is not None
    assert found.label is None
    assert np.isin(poison, found.part).mean() >= 0.99
    assert np.isin(found.part, poison).mean() >= 0.99
