"""Which of two heaps of a class is odd, by where its samples come from."""

from __future__ import annotations

import numpy as np
import pytest
from toys import noise_images, toy_classifier

from invertune_plugin.data import InMemory
from invertune_plugin.defenses.flare.features import Features
from invertune_plugin.defenses.purifiers.last_layer import all_heaps
from invertune_plugin.defenses.purifiers.origins import MIXED, spread
from invertune_plugin.defenses.purifiers.splitting import Directions, split
from invertune_plugin.defenses.purifiers.transplants import Transplants


class Silent(Transplants):
    """Nothing carries."""

    def carried(self, part: np.ndarray) -> float:
        """No image."""
        return 0.0

    beyond_its_class = carried


def two_heaps(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Class 0 has its own samples, which lean to class 1, and as many that lean to any other."""
    rng = np.random.default_rng(seed)
    predictions = np.repeat(np.arange(6), 400)
    last = rng.normal(size=(2400, 16)) + 12 * np.eye(16)[predictions]
    poison = np.arange(200)
    last[poison] += 12 * np.eye(16)[7] + 3 * np.eye(16)[1 + poison % 5]
    last[200:400] += 3 * np.eye(16)[1]
    return rng.normal(size=(2400, 6)), predictions, last, poison


def test_of_two_heaps_of_a_class_that_of_more_origins_is_odd() -> None:
    """Whatever lies farther from the other classes, and without anything that carries."""
    values, predictions, last, poison = two_heaps()
    values[200:400] += 1.0
    found = all_heaps(values, predictions, last, Directions())
    assert found is not None
    assert set(found.part) >= set(poison)
    assert len(found.part) <= 204
    assert found.mixed is not None
    assert found.mixed > MIXED
    features = Features(values.astype(np.float32), tuple("abcdef"), predictions, 2400, last)
    blind = Silent(toy_classifier("rn"), InMemory(noise_images(2400), [0] * 2400), predictions)
    shallow = Directions(sure_depth=1e9)
    assert set(split(features, shallow, transplants=blind).poisoned) >= set(poison)
    doubting = Directions(sure_depth=1e9, sure_significance=1e9)
    assert split(features, doubting, transplants=blind).poisoned == ()


def test_two_natural_heaps_of_a_class_are_doubted_where_they_carry_nothing() -> None:
    values, predictions, last, poison = two_heaps()
    last[poison] -= 3 * np.eye(16)[1 + poison % 5] - 3 * np.eye(16)[1]
    features = Features(values.astype(np.float32), tuple("abcdef"), predictions, 2400, last)
    blind = Silent(toy_classifier("rn"), InMemory(noise_images(2400), [0] * 2400), predictions)
    found = split(features, Directions(sure_depth=1e9), transplants=blind)
    assert found.poisoned == ()
    assert abs(found.evidence["mixed"][0]) < MIXED


def test_origins_by_hand() -> None:
    means = np.eye(4)
    assert spread(np.eye(4)[[0, 0, 0]], means) == 0.0
    assert spread(2 * np.eye(4)[[0, 1, 2, 3]], means) == pytest.approx(np.log(4))
