"""A class most of which is poison, told by what its mean carries and no other class does."""

from __future__ import annotations

import numpy as np
import pytest
from test_transplants import CLASSES, COUNT, TARGET, Reader, pictures

from invertune_plugin.defenses.purifiers.completing import Readings
from invertune_plugin.defenses.purifiers.poisoned_classes import carrying_class, most_of_a_class
from invertune_plugin.defenses.purifiers.transplants import Transplants, beyond

OWN = 60
"""Samples of the target class without a trigger, of 400."""


def mostly_poison(by: float = 4.0) -> tuple[Readings, Transplants, np.ndarray]:
    """All of the target class but ``OWN`` has a white corner and lies apart, more or less."""
    rng = np.random.default_rng(0)
    predictions = np.arange(COUNT) % CLASSES
    mine = np.flatnonzero(predictions == TARGET)
    poison = mine[OWN:]
    values = rng.normal(size=(COUNT, 6))
    values[poison, 1] += by
    readings = Readings(values, predictions)
    return readings, Transplants(Reader(), pictures(poison.tolist(), []), predictions), poison


def test_a_class_of_poison_is_cut_where_what_is_left_carries_no_more() -> None:
    readings, transplants, poison = mostly_poison()
    assert carrying_class(readings, transplants, 0.4) == TARGET
    found = most_of_a_class(readings, transplants, 0.4)
    assert found is not None
    assert (found.label, found.depth) == (TARGET, 1.0)
    assert found.carried is not None
    assert found.carried > 0.6
    assert np.isin(poison, found.part).mean() > 0.95
    assert len(np.setdiff1d(found.part, poison)) < OWN / 2


def test_copies_of_one_sample_are_cut_as_one() -> None:
    """Cuts above which nothing is left are none."""
    readings, transplants, poison = mostly_poison()
    readings.values[poison] = readings.values[poison[0]]
    found = most_of_a_class(readings, transplants, 0.4)
    assert found is not None
    assert set(poison) <= set(found.part)
    readings.values[:] = 1.0
    assert most_of_a_class(readings, transplants, 0.4) is None


def test_no_class_carries_in_clean_images() -> None:
    readings, _, _ = mostly_poison()
    transplants = Transplants(Reader(), pictures([], []), readings.predictions)
    assert carrying_class(readings, transplants, 0.4) is None
    assert most_of_a_class(readings, transplants, 0.4) is None


class AllCarry(Transplants):
    """Objects that lie at one place in each image: each class carries by its mean."""

    def carried(self, part: np.ndarray) -> float:
        """Any class eight in ten, the target nine."""
        return 0.85 if self.predictions[part[0]] == TARGET else 0.8


def test_a_class_that_carries_little_more_than_the_next_one_is_natural() -> None:
    readings, transplants, _ = mostly_poison()
    same = AllCarry(transplants.model, transplants.dataset, readings.predictions)
    assert carrying_class(readings, same, 0.4) is None
    assert carrying_class(readings, same, 0.2) == TARGET
    one = Readings(readings.values, np.zeros(COUNT, dtype=np.int64))
    assert carrying_class(one, same, 0.2) is None, "there is no other class to compare with"


def test_what_is_carried_beyond_others_by_hand() -> None:
    assert beyond(0.9, 0.8) == pytest.approx(0.5)
    assert beyond(0.3, 0.8) == 0.0
    assert beyond(1.0, 1.0) == 0.0
