"""A set in two: scores, a discriminant between the sides, and whether a side is one of classes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score


def refined(values: np.ndarray, poisoned: np.ndarray, rounds: int = 30) -> np.ndarray:
    """A split decided anew by a linear discriminant, until no sample changes sides.

    Args:
        values: standardised features ``[N, L]``.
        poisoned: indices of the poisoned side.
        rounds: at most.

    Returns:
        Indices, sorted; those given where the side loses half of its samples or takes in half of
        the set, for then it was no side of a discriminant.
    """
    side = np.isin(np.arange(len(values)), poisoned)
    for _ in range(rounds):
        new = discriminant(values, side).predict(values)
        if not len(poisoned) / 2 < new.sum() < len(values) / 2:
            return poisoned
        if (new == side).all():
            break
        side = new
    return np.flatnonzero(side)


def discriminant_scores(values: np.ndarray, poisoned: np.ndarray) -> np.ndarray:
    """A score per sample, ``[N]``: by a linear discriminant, above 0 on the poisoned side.

    Args:
        values: standardised features ``[N, L]``.
        poisoned: indices of the poisoned side, some of the samples.
    """
    side = np.isin(np.arange(len(values)), poisoned)
    return np.asarray(discriminant(values, side).decision_function(values))


def discriminant(values: np.ndarray, side: np.ndarray) -> LinearDiscriminantAnalysis:
    """The linear discriminant, with a shrunk covariance, that tells a side from the other.

    Args:
        values: standardised features ``[N, L]``.
        side: whether a sample is of the side, ``[N]``. One of a single sample adds no covariance,
            of which scikit-learn would warn.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Only one sample available")
        return LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(values, side)


def told_apart(values: np.ndarray, chosen: np.ndarray) -> float:
    """AUROC of the linear discriminant between a part of a set and the rest, on these samples.

    Args:
        values: standardised features ``[N, L]``.
        chosen: indices of the part, some of the samples.
    """
    side = np.isin(np.arange(len(values)), chosen)
    return float(roc_auc_score(side, discriminant_scores(values, chosen)))


def share_of_classes(predictions: np.ndarray, chosen: np.ndarray) -> float:
    """How much of the classes in it a part of a set holds, in (0, 1].

    Mean over the chosen samples of the share of their predicted class that is chosen: 1 for whole
    classes; below it for poison, because clean samples of the same classes are left.

    Args:
        predictions: class of all samples, ``[N]``.
        chosen: indices, one or more.
    """
    count = int(predictions.max()) + 1
    every = np.bincount(predictions, minlength=count)
    inside = np.bincount(predictions[chosen], minlength=count)
    return float((inside / np.maximum(every, 1))[predictions[chosen]].mean())


def commonest_class(predictions: np.ndarray, chosen: np.ndarray) -> int:
    """The class that is read in most of some samples.

    Args:
        predictions: class of all samples, ``[N]``.
        chosen: indices, one or more.
    """
    return int(np.bincount(predictions[chosen]).argmax())


def suspicion(values: np.ndarray, poisoned: np.ndarray) -> np.ndarray:
    """A score per sample, ``[N]``: distance from the clean median less that from the poisoned one.

    Args:
        values: standardised features ``[N, L]``.
        poisoned: indices of the poisoned side; where empty, the distance from the set's median.
    """
    clean = np.ones(len(values), dtype=bool)
    clean[poisoned] = False
    away = np.linalg.norm(values - np.median(values[clean], axis=0), axis=1)
    if not len(poisoned):
        return np.asarray(away)
    return np.asarray(away - np.linalg.norm(values - np.median(values[~clean], axis=0), axis=1))


def standardised(values: np.ndarray) -> np.ndarray:
    """Features ``[N, L]`` with mean 0 and deviation 1 per layer; 0 where a layer is constant."""
    exact = values.astype(np.float64)
    deviation = exact.std(0)
    return np.asarray((exact - exact.mean(0)) / np.where(deviation > 0, deviation, 1.0))


def check_fit(predictions: np.ndarray, labels: Sequence[Any]) -> str | None:
    """Why a model has not learnt the labels of a set, in a sentence; None where it has.

    None, too, where nobody can say: captions, or less than two classes among those with a label.
    """
    if not all(isinstance(label, Integral) for label in labels):
        return None
    truth = np.asarray(labels)
    known = truth >= 0
    if len(np.unique(truth[known])) < 2:
        return None
    right = float((predictions == truth)[known].mean())
    common = np.bincount(truth[known]).max() / known.sum()
    if right > common:
        return None
    return (
        f"The model reads {right:.1%} of the labels, no more than naming the commonest one would "
        f"({common:.1%}). Train it on the set first."
    )
