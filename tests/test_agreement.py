"""Sides of classes that are chosen together."""

from __future__ import annotations

import numpy as np
import pytest

from invertune_plugin.defenses.purifiers.agreement import MANY, agreeing_sides
from invertune_plugin.defenses.purifiers.odd_side import Classes
from invertune_plugin.defenses.purifiers.valleys import Valley

COUNT, LAYERS = 200, 10
"""Samples of a class, and features."""


def halves(poison: list[int], by: float = 2.0) -> tuple[Classes, list[np.ndarray]]:
    """Classes each with so many poisoned samples, moved alike, and a natural difference beside."""
    rng = np.random.default_rng(0)
    predictions = np.repeat(np.arange(len(poison)), COUNT)
    values = rng.normal(size=(len(predictions), LAYERS)) + 5 * rng.normal(
        size=(len(poison), LAYERS)
    ).repeat(COUNT, axis=0)
    parts = [label * COUNT + np.arange(size) for label, size in enumerate(poison)]
    for part in parts:
        values[part, 0] += by
        values[part] += by / 4 * rng.normal(size=LAYERS)
    return Classes.of(values, predictions), parts


@pytest.mark.parametrize("poison", [[20] * MANY, [20, 30, 40, 140, 60], [90] * 12])
@pytest.mark.parametrize("seed", range(3))
def test_the_sides_that_differ_alike_are_odd(poison: list[int], seed: int) -> None:
    """Whichever side was given; one may be most of its class, as long as all are not."""
    classes, parts = halves(poison)
    turned = np.random.default_rng(seed).random(len(poison)) < 0.5
    given = [
        Valley(np.setdiff1d(classes.members(label), part) if other else part, 3.0, 5.0, label=label)
        for label, (part, other) in enumerate(zip(parts, turned, strict=True))
    ]
    found = agreeing_sides(given, classes)
    assert [one.part.tolist() for one in found] == [part.tolist() for part in parts]
    assert [(one.depth, one.label) for one in found] == [(3.0, i) for i in range(len(poison))]


def test_without_any_difference_no_class_is_odd() -> None:
    classes, parts = halves([20] * MANY)
    nothing = Classes.of(np.zeros_like(classes.values), classes.places)
    assert agreeing_sides([Valley(part, 3.0, 5.0) for part in parts], nothing) == []


def test_a_class_that_differs_in_another_way_is_left_out() -> None:
    classes, parts = halves([20] * 6)
    classes.values[parts[2], 0] -= 2.0
    classes.values[parts[2], 1] += 4.0
    given = [Valley(part, 3.0, 5.0, label=label) for label, part in enumerate(parts)]
    assert [one.label for one in agreeing_sides(given, classes)] == [0, 1, 3, 4, 5]
