"""A set by its features: the parts that stand apart, taken away one after the other.

What is no part of poison is told by what the model reads: whole classes, and parts that are shallow
or most of their classes and carry no other image to these. Not published; measured in
docs/directions.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from invertune_plugin.defenses.flare.features import FeatureConfig, Features
from invertune_plugin.defenses.flare.sides import (
    discriminant_scores,
    share_of_classes,
    standardised,
    suspicion,
)
from invertune_plugin.defenses.purifiers.class_parts import part_of_a_class
from invertune_plugin.defenses.purifiers.completing import Readings
from invertune_plugin.defenses.purifiers.components import all_components, views_of
from invertune_plugin.defenses.purifiers.last_layer import all_heaps
from invertune_plugin.defenses.purifiers.mixtures import half_of_a_class
from invertune_plugin.defenses.purifiers.odd_side import LARGEST_SIDE
from invertune_plugin.defenses.purifiers.origins import MIXED
from invertune_plugin.defenses.purifiers.parts import (
    asked,
    decided,
    deepest_valley,
    with_carried,
)
from invertune_plugin.defenses.purifiers.transplants import Transplants
from invertune_plugin.defenses.purifiers.valleys import (
    Valley,
    ValleyConfig,
    most_significant,
)
from invertune_plugin.defenses.purify import Found
from invertune_plugin.errors import InputError
from invertune_plugin.outcome import Outcome

MOST_PARTS = 8
"""Taken away one after the other, whole classes among them."""


@dataclass(frozen=True)
class Directions(ValleyConfig):
    """Settings, beside what counts as a valley.

    Attributes:
        features: how the model is read.
        most_of_classes: a small part that holds more than this share of the classes that the model
            reads in it is one of classes, and no poison; unless it carries what the rest of its
            class does not: where classes are small, poison is nearly all that is read as one.
        by_class: look at each class by itself where the whole set shows no part.
        most_elsewhere: a part of one class counts where the others have at most so much of it,
            relative to the class: natural attributes occur in several.
        last_layer: look for second heaps of the classes before the last layer first, and complete
            parts of a class by it, too. The embeddings of a CLIP do the latter only, as they hold
            what captions say beside the class.
        least_carried: a part that carries this share of images of other classes to its own, and
            still does with all of its kind, is completed; where nothing shows a valley, so are
            ends of components. None does not ask.
        sure_depth: a valley of less depth counts only where its part carries, too: natural parts of
            a class have shallow ones. So does a part that is most of its classes.
        sure_significance: a second heap of more origins (``by_origins``) whose valley has so many
            standard deviations counts without that, too, however shallow.
    """

    features: FeatureConfig = field(default_factory=lambda: FeatureConfig("mean-and-largest"))
    most_of_classes: float = 0.9
    by_class: bool = True
    most_elsewhere: float = 0.03
    last_layer: bool = True
    least_carried: float | None = 0.4
    sure_depth: float = 25.0
    sure_significance: float = 15.0

    def __post_init__(self) -> None:
        """Refuse settings without a meaning."""
        super().__post_init__()
        if not 0 < self.most_of_classes <= 1:
            raise InputError(f"Expected most_of_classes in (0, 1], got {self.most_of_classes}.")
        if not 0 <= self.most_elsewhere < 1:
            raise InputError(
                f"Expected most_elsewhere from 0 to below 1, got {self.most_elsewhere}."
            )
        if self.least_carried is not None and not 0 < self.least_carried <= 1:
            raise InputError(f"Expected least_carried in (0, 1] or none, got {self.least_carried}.")
        if self.sure_depth < 1 or self.sure_significance < 0:
            raise InputError(
                "Expected sure_depth of 1 or more and sure_significance of 0 or more, got "
                f"{self.sure_depth} and {self.sure_significance}."
            )

    def doubts(self, part: Valley, share: float) -> bool:
        """Whether a part was asked and does not carry, and is shallow or most of its classes."""
        if part.carried is None or self.least_carried is None:
            return False
        mixed = part.mixed is not None and part.mixed >= MIXED
        sure = mixed and part.significance >= self.sure_significance
        shallow = part.depth < self.sure_depth and not sure
        return (shallow or share > LARGEST_SIDE) and not self.carries(part)

    def carries(self, part: Valley) -> bool:
        """Whether a part was asked and carries enough beyond the rest of its class."""
        return self.least_carried is not None and part.carries(self.least_carried)


def split(
    features: Features, config: Directions, seed: int = 0, transplants: Transplants | None = None
) -> Found:
    """The parts that stand apart, one after the other, each decided anew by a discriminant.

    Second heaps before the last layer are looked for first, where it was read, then a part of the
    whole set, then one of a class, then most of a class or an end of a component that carries.

    Args:
        features: ``[N, L]``, with predictions.
        config: settings.
        seed: of the component analysis.
        transplants: of the model and the set; without them nothing is carried.
    """
    values, views = standardised(features.values), views_of(features.layers)
    readings = Readings(values, features.predictions, features.last, features.embeddings)
    rest, sides, valleys, shares = np.arange(len(values)), [], [], []
    heaps = all_heaps(values, features.predictions, features.last, config)
    if transplants is not None and heaps is not None and heaps.label is not None:
        heaps = with_carried(heaps, transplants)
    for _ in range(MOST_PARTS):
        if len(rest) < 2 * config.least_samples:
            break
        some = readings.within(rest)
        ask = None if transplants is None else transplants.within(rest)
        found = heaps or searched(some, views, config, seed, ask)
        heaps = None
        if found is None:
            break
        valleys.append(found)
        shares.append(share_of_classes(some.predictions, found.part))
        poison = shares[-1] <= config.most_of_classes or config.carries(found)
        if poison and not config.doubts(found, shares[-1]):
            sides.append(rest[found.part])
        rest = np.delete(rest, found.part)
    evidence: dict[str, Any] = {
        "features": len(features.layers),
        "depths": [round(one.depth, 2) for one in valleys],
        "significances": [round(one.significance, 2) for one in valleys],
        "components": [one.rank for one in valleys],
        "parts": [len(one.part) for one in valleys],
        "classes": [one.label for one in valleys],
        "carried": [one.carried for one in valleys],
        "mixed": [None if one.mixed is None else round(one.mixed, 2) for one in valleys],
        "share_of_classes": [round(share, 4) for share in shares],
    }
    if not sides:
        whole = sum(share > config.most_of_classes for share in shares)
        others = len(valleys) - whole
        reason = f"No part of the {len(values)} samples stands apart in any direction" + (
            (f"; {whole} of its parts are whole classes" if whole else "")
            + (
                f"; {others} doubtful part(s) carry no other images to their class"
                if others
                else ""
            )
            + "."
        )
        scores = suspicion(values, np.empty(0, dtype=np.int64))
        return Found(scores, (), reason, evidence, Outcome.REJECTED)
    chosen = np.sort(np.concatenate(sides))
    scores = np.max([discriminant_scores(values, side) for side in sides], axis=0)
    reason = f"{len(chosen)} of {len(values)} samples stand apart in {len(sides)} direction(s)."
    return Found(scores, tuple(chosen.tolist()), reason, evidence)


def searched(
    readings: Readings,
    views: Sequence[list[int]],
    config: Directions,
    seed: int,
    transplants: Transplants | None = None,
) -> Valley | None:
    """One part of a set, or of one of its classes, by FLARE's features; None where none is left.

    Args:
        readings: of these samples.
        views: columns that are searched together.
        config: settings.
        seed: of components and mixtures.
        transplants: of these samples; without them nothing is carried.
    """
    values, predictions = readings.values, readings.predictions
    components = all_components(values, views, seed)
    found = deepest_valley(components, config)
    if found is not None:
        found = decided(found, values, config)
    if config.by_class:
        half = half_of_a_class(values, predictions, config, config.most_elsewhere, seed)
        found = most_significant([found, half]) or part_of_a_class(
            values, predictions, components, config, config.most_elsewhere
        )
    if transplants is None or config.least_carried is None:
        return found
    return asked(found, readings, components, transplants, config.least_carried)
