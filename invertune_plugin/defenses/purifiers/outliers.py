"""From scores to a set: what lies far above the middle of all scores is removed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from invertune_plugin.defenses.purify import Found
from invertune_plugin.errors import InputError

NORMAL = 1.4826
"""The standard deviation of normal numbers over their median absolute deviation."""


@dataclass(frozen=True)
class OutlierConfig:
    """What counts as far; Huang et al. give no rule, only the order of the scores.

    Attributes:
        deviations: scores are removed that lie more than so many robust standard deviations (by the
            median absolute deviation) above the median.
        batch_size: images at a time.
    """

    deviations: float = 5.0
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Refuse settings without a meaning."""
        if self.deviations <= 0 or self.batch_size < 1:
            raise InputError(
                "Expected positive deviations and batches of one or more, got "
                f"{self.deviations} and {self.batch_size}."
            )


def removed_outliers(scores: np.ndarray, config: OutlierConfig) -> Found:
    """The samples whose score ``[N]`` is an outlier.

    None is where half of the scores or more are equal: there is no deviation to hold them against.
    """
    middle = np.median(scores)
    spread = NORMAL * np.median(np.abs(scores - middle))
    if spread == 0:
        reason = (
            f"Half or more of the {len(scores)} scores are equal, so that none is far from them."
        )
        return Found(scores, [], reason, {"median": float(middle)})
    cut = float(middle + config.deviations * spread)
    poisoned = np.flatnonzero(scores > cut)
    reason = (
        f"{len(poisoned)} of {len(scores)} samples score more than {config.deviations:g} robust "
        "deviations above the median."
    )
    return Found(scores, poisoned.tolist(), reason, {"cut": cut, "median": float(middle)})
