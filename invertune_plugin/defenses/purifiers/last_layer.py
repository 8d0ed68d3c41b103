"""A second heap of a class before the last layer: samples that are read alike for another reason.

A network that was trained on labels moves each class together there (neural collapse, Papyan et al.
2020). Images of other classes that a trigger brings to it stay a heap of their own, which lies
along the main direction of the class, where spectral signatures (Tran et al. 2018) look for it, and
there is a valley between the two. A CLIP is trained on captions: its embeddings keep apart all that
they tell apart, so that each class has many heaps and this is not looked at. Not published;
measured in docs/directions.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from invertune_plugin.defenses.flare.sides import standardised
from invertune_plugin.defenses.purifiers.agreement import MANY, agreeing_sides
from invertune_plugin.defenses.purifiers.class_parts import LEAST_CLASS, shallow
from invertune_plugin.defenses.purifiers.mixtures import lighter_half, settled, whitened
from invertune_plugin.defenses.purifiers.odd_side import LARGEST_SIDE, Classes, class_means
from invertune_plugin.defenses.purifiers.origins import by_origins
from invertune_plugin.defenses.purifiers.parts import decided
from invertune_plugin.defenses.purifiers.valleys import (
    Valley,
    ValleyConfig,
    most_significant,
    valley,
)

RANKS = (2, 3, 6, 12)
"""Principal components of a class that a mixture is fitted to where the first has no valley."""
LEAST_DEPTH = 10.0
"""Of the valley of such a half: 24 or more for poison, at most 5.6 for others (CIFAR-10)."""
PER_DIRECTION = 5
"""Samples of a class for each direction that a discriminant within it sees; with fewer samples than
directions it parts any halves of them."""
CONFIRMED = 2 / 3
"""Least share of a heap that the common discriminant takes, for it to stay whole."""


def all_heaps(
    values: np.ndarray, predictions: np.ndarray, last: np.ndarray | None, config: ValleyConfig
) -> Valley | None:
    """The second heaps of all classes, decided anew by one discriminant; None where there is none.

    The discriminant sees FLARE's features and those of the last layer, less the means of classes;
    where it shows no valley the heaps stay as they are. Of several classes it decides once more
    with the means, which lean towards the poison the more the smaller a class is. A heap of which
    it takes most stays whole: its own class shows it more surely. One that has little in common
    with the others is left out. Which heap of each class is odd, many classes show together; of a
    few one that is most of its class is left out, and of one class alone the heap of more origins
    is odd.

    Args:
        values: standardised features ``[N, L]``.
        predictions: class that the model reads, ``[N]``.
        last: what the last layer takes in, ``[N, D]``; None where that was not read.
        config: what counts as a valley.
    """
    if last is None:
        return None
    classes = Classes.of(values, predictions)
    found = list(second_heaps(classes, last, config))
    if len(found) >= MANY:
        found = agreeing_sides(found, classes)
    elif len(found) > 1:
        sizes = np.bincount(predictions)
        found = [one for one in found if len(one.part) <= LARGEST_SIDE * sizes[one.label]]
    if len(found) == 1:
        found = [by_origins(found[0], classes, last)]
    if (best := most_significant(found)) is None:
        return None
    part = np.sort(np.concatenate([one.part for one in found]))
    heaps = replace(best, part=part, label=best.label if len(found) == 1 else None)
    both = np.hstack([values, standardised(centred_by_class(classes, last))])
    alike = decided(heaps, both, config)
    if alike is None:
        return heaps
    if len(found) > 1:
        alike = decided(alike, np.hstack([values, standardised(last)]), config) or alike
    whole = [heap.part for heap in found if np.isin(heap.part, alike.part).mean() >= CONFIRMED]
    return replace(alike, part=np.unique(np.concatenate([alike.part, *whole])))


def second_heaps(classes: Classes, last: np.ndarray, config: ValleyConfig) -> Iterator[Valley]:
    """The odd heap of each class that has two.

    Args:
        classes: by what the model reads; tells which heap is odd.
        last: what the last layer takes in, ``[N, D]``.
        config: what counts as a valley; ``most_share`` is of whole sets and means nothing here.
    """
    allowed = replace(config, most_share=LARGEST_SIDE)
    for label in classes.of_size(LEAST_CLASS * config.least_samples):
        mine = classes.members(label)
        within = main_directions(last[mine].astype(np.float64))
        found = valley(along_main_direction(within), allowed)
        if found is not None:
            found = settled(within, found.part, shallow(config, LARGEST_SIDE)) or found
        else:
            found = heap_by_mixture(within, config)
        if found is not None:
            yield replace(found, part=classes.odd_side(label, mine[found.part]), label=label)


def heap_by_mixture(within: np.ndarray, config: ValleyConfig) -> Valley | None:
    """The lighter half of a class whose discriminant has the deepest valley, if that is deep.

    Another attribute of the class may bend its main direction, so that poison lies obliquely to it.
    Halves of clean classes have valleys, too, but shallow ones.

    Args:
        within: what the last layer takes in for a class, ``[N, D]``.
        config: what counts as a valley.
    """
    white, least = whitened(within), shallow(config, LARGEST_SIDE)
    halves = (settled(within, lighter_half(white[:, :rank]), least) for rank in RANKS)
    deep = [half for half in halves if half is not None and half.depth >= LEAST_DEPTH]
    return max(deep, key=lambda half: half.depth, default=None)


def main_directions(values: np.ndarray) -> np.ndarray:
    """Values ``[N, D]`` less their mean, of few samples in N / 5 main directions only."""
    centred = values - values.mean(0)
    most = max(*RANKS, len(values) // PER_DIRECTION)
    if most >= values.shape[1]:
        return np.asarray(centred)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    return np.asarray(centred @ directions[:most].T)


def along_main_direction(centred: np.ndarray) -> np.ndarray:
    """Values ``[N]`` along the direction in which values ``[N, D]`` of mean 0 vary most."""
    _, directions = np.linalg.eigh(centred.T @ centred)
    return np.asarray(centred @ directions[:, -1])


def centred_by_class(classes: Classes, last: np.ndarray) -> np.ndarray:
    """What the last layer takes in, ``[N, D]``, less the mean of the class that is read."""
    return np.asarray(last - class_means(last, classes.places)[classes.places])
