"""A second heap of a class before the last layer: samples that are read alike for another reason.

A network that was trained on labels moves each class together there (neural collapse, Papyan et al.
2020). Images of other classes that a trigger brings to it stay a heap of their own, which lies
along the main direction of the class, where spectral signatures (Tran et al. 2018) look for it, and
there is a valley between the two. A CLIP is trained on captions: its embeddings keep apart all that
they tell apart, so that each class has many heaps and this is not looked at. Not published;
measured in docs/flare.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from invertune_plugin.defenses.flare.sides import standardised
from invertune_plugin.defenses.purifiers.class_parts import LEAST_CLASS, shallow
from invertune_plugin.defenses.purifiers.mixtures import settled
from invertune_plugin.defenses.purifiers.odd_side import LARGEST_SIDE, Classes, class_means
from invertune_plugin.defenses.purifiers.parts import decided
from invertune_plugin.defenses.purifiers.valleys import (
    Valley,
    ValleyConfig,
    most_significant,
    valley,
)


def all_heaps(
    values: np.ndarray, predictions: np.ndarray, last: np.ndarray | None, config: ValleyConfig
) -> Valley | None:
    """The second heaps of all classes, decided anew by one discriminant; None where there is none.

    The discriminant sees FLARE's features and those of the last layer, less the means of classes;
    where it shows no valley the heaps stay as they are.

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
    if (best := most_significant(found)) is None:
        return None
    part = np.sort(np.concatenate([one.part for one in found]))
    heaps = replace(best, part=part, label=best.label if len(found) == 1 else None)
    both = np.hstack([values, standardised(centred_by_class(classes, last))])
    return decided(heaps, both, config) or heaps


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
        within = last[mine].astype(np.float64)
        within -= within.mean(0)
        found = valley(along_main_direction(within), allowed)
        if found is not None:
            found = settled(within, found.part, shallow(config, LARGEST_SIDE)) or found
            yield replace(found, part=classes.odd_side(label, mine[found.part]), label=label)


def along_main_direction(centred: np.ndarray) -> np.ndarray:
    """Values ``[N]`` along the direction in which values ``[N, D]`` of mean 0 vary most."""
    _, directions = np.linalg.eigh(centred.T @ centred)
    return np.asarray(centred @ directions[:, -1])


def centred_by_class(classes: Classes, last: np.ndarray) -> np.ndarray:
    """What the last layer takes in, ``[N, D]``, less the mean of the class that is read."""
    return np.asarray(last - class_means(last, classes.places)[classes.places])
