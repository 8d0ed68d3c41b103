"""Two sides of a set of numbers: their discriminant, and what it says of each sample."""

from __future__ import annotations

import numpy as np
import pytest

from invertune_plugin.defenses.flare.sides import (
    check_fit,
    discriminant_scores,
    refined,
    share_of_classes,
    standardised,
    suspicion,
    told_apart,
)


def test_a_discriminant_takes_in_what_the_clusters_left_out() -> None:
    """Poison apart along one direction, thinly spread along another: half of it is given."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1000, 4))
    values[:100, 0] += 9
    values[:100, 1] *= 6
    poison = np.arange(100)
    assert refined(values, poison[:60]).tolist() == poison.tolist()
    assert refined(values, np.arange(90, 105)).tolist() == poison.tolist(), "a third is wrong"


@pytest.mark.parametrize("given", [np.arange(0, 1000, 2), np.arange(30)])
def test_what_is_no_side_stays_as_it_was_given(given: np.ndarray) -> None:
    values = np.random.default_rng(0).normal(size=(1000, 4))
    assert refined(values, given).tolist() == given.tolist()


def test_discriminant_scores_by_hand() -> None:
    """Two sides mirrored at 0: the score is 0 there and grows with the distance."""
    values = np.array([[-1.0], [-3.0], [1.0], [3.0]])
    scores = discriminant_scores(values, np.array([2, 3]))
    assert (scores[2:] == -scores[:2]).all()
    assert scores[3] == pytest.approx(3 * scores[2])
    assert scores[2] > 0


def test_told_apart_by_hand() -> None:
    """Of four pairs of a sample of the part and another, three are in order."""
    assert told_apart(np.array([[0.0], [1.0], [2.0], [3.0]]), np.array([1, 3])) == 0.75


def test_share_of_classes_by_hand() -> None:
    """Of class 0 two of four are chosen, of class 1 one of one: (1/2 + 1/2 + 1) / 3."""
    predictions = np.array([0, 0, 0, 0, 1, 2])
    assert share_of_classes(predictions, np.array([0, 1, 4])) == pytest.approx(2 / 3)


def test_suspicion_by_hand() -> None:
    values = np.array([[0.0], [0.0], [1.0], [5.0], [5.0]])
    assert suspicion(values, np.array([3, 4])).tolist() == [-5.0, -5.0, -3.0, 5.0, 5.0]
    assert suspicion(values, np.array([], dtype=int)).tolist() == [1.0, 1.0, 0.0, 4.0, 4.0]
    assert standardised(np.array([[1.0, 7.0], [3.0, 7.0]])).tolist() == [[-1.0, 0.0], [1.0, 0.0]]


def test_fit() -> None:
    labels = [0, 0, 0, 1]
    assert check_fit(np.array([0, 0, 0, 1]), labels) is None
    wrong = check_fit(np.array([0, 1, 1, 0]), [0, 0, -1, 1])
    assert wrong is not None
    assert "reads 33.3% of the labels" in wrong, "of those with a label"
    assert check_fit(np.array([0, 0, 1, 1]), [0, 0, -1, 1]) is None
    assert check_fit(np.array([0, 1, 1, 0]), list(np.array([0, 0, 1, 1]))) is not None
    assert check_fit(np.array([1, 1, 1]), [1, 1, -1]) is None, "one class tells nothing"
    assert check_fit(np.array([0, 0]), [-1, -1]) is None
    assert check_fit(np.array([0, 1, 1, 0]), [("a caption",)] * 4) is None
    told = check_fit(np.array([0, 0, 0, 0]), labels)
    assert told is not None
    assert "reads 75.0% of the labels" in told


def test_a_side_of_one_sample_is_told_apart_without_a_warning(
    recwarn: pytest.WarningsRecorder,
) -> None:
    values = np.random.default_rng(0).normal(size=(100, 3))
    values[7] += 9
    scores = discriminant_scores(values, np.array([7]))
    assert scores.argmax() == 7
    assert not recwarn.list
