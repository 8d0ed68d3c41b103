"""Valleys in the density of one variable: where a small part of a set stands apart from others."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from invertune_plugin.errors import InputError

BINS = 12
"""Of the histogram, per bandwidth."""
FAR = 100.0
"""Robust deviations; what lies beyond counts as there."""
LEAST_MIXED = -0.2
"""Nats by which the origins of what carries may be less mixed than those of the rest of its class:
0.2 to 0.9 less for the natural parts that carry most, 0.05 less to 0.8 more for poison (GTSRB)."""


@dataclass(frozen=True)
class ValleyConfig:
    """What counts as a valley.

    Attributes:
        depth: least ratio of the density of the small part's peak and that of the valley.
        significance: least difference of their counts, square roots of Poisson counts being about
            normal: so many standard deviations.
        bandwidth: of the density, in robust deviations of the component.
        least_samples: fewest in the small part.
        most_share: largest share of the small part.
    """

    depth: float = 2.0
    significance: float = 3.0
    bandwidth: float = 0.25
    least_samples: int = 20
    most_share: float = 0.3

    def __post_init__(self) -> None:
        """Refuse settings without a meaning."""
        if self.depth < 1 or self.significance < 0 or self.bandwidth <= 0 or self.least_samples < 2:
            raise InputError(
                "Expected depth >= 1, significance >= 0, bandwidth > 0 and least_samples >= 2, got "
                f"{self.depth}, {self.significance}, {self.bandwidth} and {self.least_samples}."
            )
        if not 0 < self.most_share <= 1:
            raise InputError(f"Expected most_share in (0, 1], got {self.most_share}.")


@dataclass(frozen=True, eq=False)
class Valley:
    """A component in two.

    Attributes:
        part: indices of the small part, sorted.
        depth: ratio of the density of its peak and that of the valley; 1 without a valley.
        significance: of their difference, in standard deviations.
        rank: principal components among which the component was found.
        label: class that it splits; None where it splits the whole set.
        carried: share of other images that the part carries to its class beyond what the rest of
            it does, where that was asked.
        mixed: nats by which its samples are of more origins than the rest of their class, where
            that was asked (``more_mixed``).
    """

    part: np.ndarray
    depth: float
    significance: float
    rank: int = 1
    label: int | None = None
    carried: float | None = None
    mixed: float | None = None

    def counts(self, config: ValleyConfig) -> bool:
        """Whether it is deep and significant enough."""
        return self.depth >= config.depth and self.significance >= config.significance

    def carries(self, least: float) -> bool:
        """Whether it carries so much, and as a trigger does, which brings samples of all classes.

        Images of one object at one place carry, too, but come from fewer classes than the rest.
        """
        natural = self.mixed is not None and self.mixed < LEAST_MIXED
        return self.carried is not None and self.carried >= least and not natural


def valley(component: np.ndarray, config: ValleyConfig, rank: int = 1) -> Valley | None:
    """The most significant valley on the side of the longer tail; None where there is none.

    Args:
        component: ``[N]``, of any scale and sign.
        config: what counts as a valley.
        rank: told in the result.
    """
    low, middle, high = np.percentile(component, [25, 50, 75])
    if high == low:
        return None
    centred = np.clip((component - middle) / (high - low) * 1.349, -FAR, FAR)
    if ((centred - centred.mean()) ** 3).mean() < 0:
        centred = -centred
    step = config.bandwidth / BINS
    edges = np.arange(centred.min() - 1, centred.max() + 1 + step, step)
    counts = np.histogram(centred, edges)[0]
    density = smoothed(counts)
    peak_beyond = np.maximum.accumulate(density[::-1])[::-1]
    beyond = counts[::-1].cumsum()[::-1]
    allowed = (np.arange(len(counts)) > density.argmax()) & (beyond >= config.least_samples)
    allowed &= beyond <= config.most_share * len(component)
    depth = peak_beyond / np.maximum(density, 0.5)
    apart = math.sqrt(2) * (np.sqrt(peak_beyond) - np.sqrt(density))
    allowed &= (depth >= config.depth) & (apart >= config.significance)
    if not allowed.any():
        return None
    place = int(np.where(allowed, apart, -1.0).argmax())
    part = np.flatnonzero(centred >= edges[place])
    return Valley(part, float(depth[place]), float(apart[place]), rank)


def most_significant(valleys: Iterable[Valley | None]) -> Valley | None:
    """That of the largest significance; None where there is none."""
    return max(filter(None, valleys), key=lambda one: one.significance, default=None)


def smoothed(counts: np.ndarray) -> np.ndarray:
    """Counts of bins, Gaussian over a bandwidth, as the number that the density rests on.

    The mean under a Gaussian times ``2 sqrt(pi)`` bandwidths: as many equal weights would have its
    variance, so that what comes out scatters as a Poisson count does.
    """
    reach = np.arange(-5 * BINS, 5 * BINS + 1) / BINS
    kernel = np.exp(-(reach**2) / 2)
    weights = kernel / kernel.sum() * 2 * math.sqrt(math.pi) * BINS
    return np.convolve(counts, weights, mode="full")[5 * BINS : -5 * BINS]
