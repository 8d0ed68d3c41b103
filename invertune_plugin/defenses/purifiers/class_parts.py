"""A part of one class: what stands apart among samples that a model reads alike, and only there.

All-to-one poison is read as one class. Of that class it is a large part, so that a direction in
which the whole set hides it shows a valley there. Natural attributes split classes, too, but they
occur in several: a part of poison lies in one. Not published; measured in docs/directions.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from invertune_plugin.defenses.flare.sides import discriminant_scores
from invertune_plugin.defenses.purifiers.valleys import (
    Valley,
    ValleyConfig,
    most_significant,
    valley,
)

SHALLOW_DEPTH, SHALLOW_SIGNIFICANCE = 1.1, 0.8
"""Of what may become a valley once a discriminant has looked for a better direction."""
MOST_OF_CLASS = 0.5
"""Largest share of its class that a part may be."""
LEAST_CLASS = 3
"""Samples of a class that is looked at, as a multiple of those of a part."""
NEAR = 0.3
"""Largest share of the other classes that a candidate may have, relative to its own."""
SAME = 0.8
"""Share of two parts in common that makes them one."""
CANDIDATES, ROUNDS = 12, 10


@dataclass(frozen=True, eq=False)
class ClassPart:
    """A part of one class.

    Attributes:
        valley: in the class, with the part as indices of the whole set.
        label: the class.
        elsewhere: share of the other classes beyond the valley, over the share of the part in its
            own class.
    """

    valley: Valley
    label: int
    elsewhere: float


def part_of_a_class(
    values: np.ndarray,
    predictions: np.ndarray,
    components: Sequence[tuple[int, np.ndarray]],
    config: ValleyConfig,
    most_elsewhere: float,
) -> Valley | None:
    """The most significant part of one class that other classes have not; None without one.

    The best candidates are looked for again along the linear discriminant between them and the
    rest of the set, as often as that changes them.

    Args:
        values: standardised features ``[N, L]``.
        predictions: class that the model reads, ``[N]``.
        components: directions, ``[N]`` each with its rank.
        config: what counts as a valley; ``most_share`` is of whole sets and means nothing here.
        most_elsewhere: largest ``elsewhere`` of a part.
    """
    least = shallow(config, MOST_OF_CLASS)
    counts = np.bincount(predictions)
    classes = np.flatnonzero(counts >= LEAST_CLASS * config.least_samples)
    candidates = [
        part
        for rank, component in components
        for label in classes
        if (part := inside(component, predictions, int(label), least, rank)) is not None
        and part.elsewhere <= NEAR
    ]
    found = [
        part
        for candidate in distinct(candidates, CANDIDATES)
        for part in (candidate, sharpened(candidate, values, predictions, least))
        if part.valley.counts(config) and part.elsewhere <= most_elsewhere
    ]
    return most_significant(part.valley for part in found)


def shallow(config: ValleyConfig, most_share: float) -> ValleyConfig:
    """What may become a valley, of so much of a class at most."""
    return replace(
        config,
        depth=min(config.depth, SHALLOW_DEPTH),
        significance=min(config.significance, SHALLOW_SIGNIFICANCE),
        most_share=most_share,
    )


def inside(
    component: np.ndarray, predictions: np.ndarray, label: int, config: ValleyConfig, rank: int = 1
) -> ClassPart | None:
    """The valley of a component within one class; None where there is none."""
    mine = np.flatnonzero(predictions == label)
    found = valley(component[mine], config, rank)
    if found is None:
        return None
    within = component[mine]
    part, rest = within[found.part], np.delete(within, found.part)
    others = component[predictions != label]
    above = part.min() > rest.max()
    beyond = others >= part.min() if above else others <= part.max()
    elsewhere = float(beyond.mean()) if len(others) else 0.0
    whole = replace(found, part=mine[found.part], label=label)
    return ClassPart(whole, label, elsewhere / (len(part) / len(mine)))


def sharpened(
    part: ClassPart, values: np.ndarray, predictions: np.ndarray, config: ValleyConfig
) -> ClassPart:
    """A part decided anew along its discriminant until it stays the same; else as it was."""
    found = part
    for _ in range(ROUNDS):
        scores = discriminant_scores(values, found.valley.part)
        new = inside(scores, predictions, part.label, config, part.valley.rank)
        if new is None:
            return part
        same = np.array_equal(new.valley.part, found.valley.part)
        found = new
        if same:
            break
    return found


def distinct(parts: Iterable[ClassPart], most: int) -> Iterator[ClassPart]:
    """So many of the most significant parts, each once."""
    kept: list[np.ndarray] = []
    for part in sorted(parts, key=lambda one: -one.valley.significance):
        mine = part.valley.part
        if any(common(mine, other) > SAME for other in kept):
            continue
        kept.append(mine)
        yield part
        if len(kept) == most:
            return


def common(one: np.ndarray, other: np.ndarray) -> float:
    """What two sets of indices share, over the larger one."""
    return len(np.intersect1d(one, other)) / max(len(one), len(other))
