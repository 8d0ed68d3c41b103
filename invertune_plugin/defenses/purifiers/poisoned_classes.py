"""A class most of which is poison: its mean carries, as that of no other class does.

Where all-to-one poison is most of what a model reads as a class, no part of the class stands apart
from the rest, and the rest carries as well. But the class as a whole carries images of others to
itself, and the other classes do not. Ordered along the discriminant between it and all else, its
own samples lie at the lower end, and the cut is where what is above carries most beyond what is
below. Not published; measured in docs/directions.md.
"""

from __future__ import annotations

import numpy as np

from invertune_plugin.defenses.flare.sides import discriminant_scores
from invertune_plugin.defenses.purifiers.completing import Readings
from invertune_plugin.defenses.purifiers.transplants import LEAST_REST, Transplants, beyond
from invertune_plugin.defenses.purifiers.valleys import Valley

MOST_CLASSES = 40
"""Classes that are asked what they carry, those of most samples."""
CUTS = tuple(share / 20 for share in range(1, 20))
"""Shares of a class that a cut may leave below it."""
ROUNDS = 2
"""Discriminants: the first between the class and all else, then of what is above the cut."""


def carrying_class(readings: Readings, transplants: Transplants, least: float) -> int | None:
    """The class that carries so much beyond what any other class does; None where none does.

    Args:
        readings: of all samples.
        transplants: of these samples.
        least: share of what the next class leaves, in (0, 1].
    """
    sizes = np.bincount(readings.predictions)
    asked = np.argsort(-sizes, kind="stable")[:MOST_CLASSES]
    asked = asked[sizes[asked] >= 2 * LEAST_REST]
    if len(asked) < 2:
        return None
    carried = [transplants.carried(readings.members(int(label))) for label in asked]
    second, first = np.argsort(carried, kind="stable")[-2:]
    enough = beyond(carried[first], carried[second]) >= least
    return int(asked[first]) if enough else None


def most_of_a_class(readings: Readings, transplants: Transplants, least: float) -> Valley | None:
    """The part of the carrying class that carries most beyond the rest of it.

    Args:
        readings: of all samples.
        transplants: of these samples.
        least: as ``carrying_class``.

    Returns:
        Without a valley, with what it carries; None where no class carries enough, or none can be
        cut. Copies of one sample stay on one side of a cut.
    """
    label = carrying_class(readings, transplants, least)
    if label is None:
        return None
    part = mine = readings.members(label)
    carried = 0.0
    for _ in range(ROUNDS):
        scores = discriminant_scores(readings.values, part)[mine]
        every = [mine[scores > cut] for cut in np.quantile(scores, CUTS)]
        above = [some for some in every if len(some)]
        if not above:
            return None
        shares = [transplants.beyond_its_class(some) for some in above]
        best = int(np.argmax(shares))
        part, carried = above[best], shares[best]
    return Valley(part, 1.0, 0.0, readings.values.shape[1], label, carried)
