"""A purifier in one word, and what a row says of a search."""

from __future__ import annotations

import numpy as np
import pytest

from invertune_plugin.benchmark.detection import name_and_options, search_fields
from invertune_plugin.defenses.purify import Purified
from invertune_plugin.errors import InputError
from invertune_plugin.outcome import Outcome, Stage


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flare", ("flare", {})),
        ("flare {refine: true}", ("flare", {"refine": True})),
        ("dao {k: 3, deviations: 2.5}", ("dao", {"k": 3, "deviations": 2.5})),
    ],
)
def test_name_and_options(text: str, expected: tuple[str, dict[str, object]]) -> None:
    assert name_and_options(text) == expected


@pytest.mark.parametrize("text", ["flare refine", "flare {refine: [", "flare [1]"])
def test_options_that_are_none(text: str) -> None:
    with pytest.raises(InputError, match=r"options of flare like \{rate: 0.05\}"):
        name_and_options(text)


def test_fields_by_hand() -> None:
    """One of two poisoned found, one of three clean taken; two of six orders are wrong."""
    scores = np.array([0.9, 0.2, 0.5, 0.1, 0.0])
    found = Purified(scores, (0, 2), (Stage("it", Outcome.OK, ""),))
    fields = search_fields(found, [0, 3])
    assert (fields["tpr"], fields["tpr_n"]) == (0.5, 2)
    assert (fields["fpr"], fields["fpr_n"]) == (round(1 / 3, 5), 3)
    assert fields["auroc"] == pytest.approx(4 / 6, abs=1e-5)
    clean = search_fields(found, [])
    assert clean["fpr"] == 0.4
    assert not {"tpr", "auroc"} & clean.keys()


def test_a_search_that_failed_has_no_rates() -> None:
    failed = Purified(np.zeros(3), (), (Stage("it", Outcome.FAILED, "untrained"),))
    assert search_fields(failed, [0]) == search_fields(failed, []) == {}
