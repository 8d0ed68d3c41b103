"""Evidence by transplant: what a part has in common, put into other images, makes them its class.

The mean image of a part that is read as one class, less the mean of images that are read otherwise,
is added to some of these. Of poison the difference is the trigger, blurred: the model reads the
class in what it is added to. Objects lie elsewhere in each image, so that of a natural part only a
shade of the class is left, which moves few. Where objects lie at one place, as signs that were cut
out do, the rest of the class carries as well; so a part counts by what it carries beyond that. The
mean colour of the difference is left out, as many images have one in common: aeroplanes have a sky,
and what is tinted like it is read as aeroplanes. So the model itself is asked whether a part is a
cause, as a defender who inverts a trigger asks it.
Not published; measured in docs/directions.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from invertune_plugin.data import Items, Subset, batches, to_unit
from invertune_plugin.defenses.flare.sides import commonest_class
from invertune_plugin.modes import frozen

MOST_OTHERS = 500
"""Images that are read otherwise, drawn at random, that their mean is taken of."""
BATCH = 100
LEAST_REST = 20
"""Images of a class, a part of it aside, whose mean tells what the class has in common."""


@dataclass(frozen=True, eq=False)
class Transplants:
    """A model and its set, to ask what parts of it carry.

    Attributes:
        model: images ``[N, 3, H, W]`` in [0, 1] to logits.
        dataset: the set, of N images of one size.
        predictions: class that the model reads, ``[N]``.
        probes: images of other classes that a part is put into.
        seed: of their draw.
    """

    model: nn.Module
    dataset: Items[Any]
    predictions: np.ndarray
    probes: int = 100
    seed: int = 0
    _others: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict, init=False, repr=False)

    def within(self, chosen: np.ndarray) -> Transplants:
        """The same for some samples of the set alone, whose indices count from 0 then."""
        subset = Subset(self.dataset, chosen.tolist())
        return replace(self, dataset=subset, predictions=self.predictions[chosen])

    def carried(self, part: np.ndarray) -> float:
        """Share in [0, 1] of images of other classes that are read as its class with what it adds.

        The mean colour of what is added is left out.

        Args:
            part: indices of some samples, one or more; their class is the one that is read in most.
        """
        return self._moved(self._mean(part), commonest_class(self.predictions, part))

    def beyond_its_class(self, part: np.ndarray) -> float:
        """What a part carries of that which the rest of its class does not, in [0, 1].

        The lesser share of what it carries as in ``carried`` and less the mean of the rest of its
        class, minus the share that this rest carries; relative to what the rest leaves. 0 with
        fewer than ``LEAST_REST`` samples in the rest, for then there is nothing to compare with.

        Args:
            part: indices of some samples, one or more.
        """
        label, mean = commonest_class(self.predictions, part), self._mean(part)
        whole = self._moved(mean, label)
        rest = np.setdiff1d(np.flatnonzero(self.predictions == label), part)
        if not whole or len(rest) < LEAST_REST:
            return 0.0
        mean_of_rest = self._mean(rest)
        alone = self._moved(mean, label, mean_of_rest)
        by_rest = self._moved(mean_of_rest, label)
        return beyond(min(whole, alone), by_rest)

    def _mean(self, chosen: np.ndarray) -> Tensor:
        return mean_image(Subset(self.dataset, chosen.tolist()))

    def _moved(self, mean: Tensor, label: int, less: Tensor | None = None) -> float:
        """Share of the probes read as a class with a mean image, less that of others or another."""
        if (self.predictions == label).all():
            return 0.0
        if label not in self._others:
            self._others[label] = self._read_otherwise(label)
        probes, others = self._others[label]
        added = mean - (others if less is None else less)
        moved = (probes + added - added.mean((1, 2), keepdim=True)).clamp(0, 1)
        device = next(self.model.parameters()).device
        with torch.no_grad(), frozen(self.model):
            read = torch.cat([self.model(some.to(device)).argmax(1) for some in moved.split(BATCH)])
        return float((read == label).double().mean())

    def _read_otherwise(self, label: int) -> tuple[Tensor, Tensor]:
        """Images ``[probes, 3, H, W]`` that are read as other classes, and the mean of more."""
        draw = np.random.default_rng(self.seed)
        others = draw.permutation(np.flatnonzero(self.predictions != label))[:MOST_OTHERS]
        probes = Subset(self.dataset, others[: self.probes].tolist())
        images = torch.cat([to_unit(some) for some, _ in batches(probes, BATCH)])
        return images, self._mean(others)


def beyond(carried: float, by_others: float) -> float:
    """What is carried more than by others, relative to what these leave; in [0, 1]."""
    return max(0.0, carried - by_others) / (1 - by_others) if by_others < 1 else 0.0


def mean_image(dataset: Items[Any]) -> Tensor:
    """Mean ``[3, H, W]`` in [0, 1] of a set of images of one size, one or more."""
    sums = [to_unit(some).double().sum(0) for some, _ in batches(dataset, BATCH)]
    return (torch.stack(sums).sum(0) / len(dataset)).float()
