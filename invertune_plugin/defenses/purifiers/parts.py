"""Parts of a set: the deepest valley of some components, one decided anew, and what parts carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from invertune_plugin.defenses.flare.sides import (
    commonest_class,
    discriminant_scores,
    refined,
    share_of_classes,
)
from invertune_plugin.defenses.purifiers.class_parts import SAME
from invertune_plugin.defenses.purifiers.completing import Readings, completed
from invertune_plugin.defenses.purifiers.odd_side import LARGEST_SIDE
from invertune_plugin.defenses.purifiers.origins import more_mixed
from invertune_plugin.defenses.purifiers.poisoned_classes import most_of_a_class
from invertune_plugin.defenses.purifiers.tails import pure_tails
from invertune_plugin.defenses.purifiers.transplants import LEAST_REST, Transplants
from invertune_plugin.defenses.purifiers.valleys import (
    Valley,
    ValleyConfig,
    most_significant,
    valley,
)

CONFIRMED = 2 / 3
"""Least significance of the valley of a discriminant between a part and the rest, as a share."""


def deepest_valley(
    components: Sequence[tuple[int, np.ndarray]], config: ValleyConfig
) -> Valley | None:
    """The most significant valley of some components; None where there is none.

    Args:
        components: ``[N]`` each, with the rank among which it was found.
        config: what counts as a valley.
    """
    return most_significant(valley(component, config, rank) for rank, component in components)


def decided(found: Valley, values: np.ndarray, config: ValleyConfig) -> Valley | None:
    """A part decided anew by its discriminant, and with it what lies beyond the valley of that.

    None where the discriminant shows no valley, for then nothing bounds the part.

    Args:
        found: along a component.
        values: standardised features ``[N, L]``.
        config: what counts as a valley; two thirds of its significance are enough here.
    """
    side = refined(values, found.part)
    enough = replace(config, significance=CONFIRMED * config.significance)
    bound = valley(discriminant_scores(values, side), enough)
    if bound is None or np.isin(bound.part, side).mean() < SAME:
        return None
    return replace(found, part=np.union1d(side, bound.part))


def asked(
    found: Valley | None,
    readings: Readings,
    components: Sequence[tuple[int, np.ndarray]],
    transplants: Transplants,
    least: float,
) -> Valley | None:
    """A part with what it carries, completed where that is enough.

    Where there is no part, most of a class, if that alone carries; else what grows from the end of
    a component and carries other images to its class best; None where that is not enough. An end
    that grew to most of its class (``LARGEST_SIDE``) is none: that class, asked before, would carry
    as a whole.

    Args:
        found: with a valley.
        readings: of all samples.
        components: ``[N]`` each, with the rank among which it was found.
        transplants: of these samples.
        least: share of images of other classes that is enough.
    """
    if found is not None:
        whole = grown(found, readings, transplants, least)
        return whole or with_origins(with_carried(found, transplants), readings)
    most = most_of_a_class(readings, transplants, least)
    if most is not None and (most := counted(most, readings, least)) is not None:
        return most
    ends = (
        grown(tail, readings, transplants, least)
        for tail in pure_tails(components, readings.predictions)
    )
    faint = (
        end
        for end in ends
        if end is not None and share_of_classes(readings.predictions, end.part) <= LARGEST_SIDE
    )
    return max(faint, key=lambda one: one.carried or 0.0, default=None)


def with_carried(found: Valley, transplants: Transplants) -> Valley:
    """A part with what it carries beyond the rest of its class."""
    return replace(found, carried=transplants.beyond_its_class(found.part))


def grown(
    found: Valley,
    readings: Readings,
    transplants: Transplants,
    least: float,
) -> Valley | None:
    """A part that carries enough, completed; None where it does not, or the completed one.

    What a few samples have in common by chance fades from the mean of all of their kind; a trigger
    stays. Only the completed one is compared with the rest of its class: before, that holds poison,
    too. Images of one object carry as well where it lies at one place, but come from fewer classes
    than the rest (``LEAST_MIXED``), poison from more.

    Args:
        found: any part.
        readings: of all samples.
        transplants: of these samples.
        least: share of images of other classes that is enough.
    """
    if transplants.carried(found.part) < least:
        return None
    return counted(with_carried(completed(found, readings), transplants), readings, least)


def counted(found: Valley, readings: Readings, least: float) -> Valley | None:
    """A part that was asked what it carries, with its origins; None where either is too little."""
    if not found.carries(least):
        return None
    found = with_origins(found, readings)
    return found if found.carries(least) else None


def with_origins(found: Valley, readings: Readings) -> Valley:
    """A part with how mixed its origins are, where the last layer was read and it has a rest."""
    if readings.last is None:
        return found
    label = commonest_class(readings.predictions, found.part)
    members = readings.members(label)
    part, rest = np.intersect1d(found.part, members), np.setdiff1d(members, found.part)
    if len(rest) < LEAST_REST or len(members) == len(readings.values):
        return found
    return replace(found, mixed=more_mixed(part, rest, readings.last, readings.predictions))
