"""What measurements make of a repair, and the sentences about it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_report import rejected, repaired

from invertune_plugin.attacks.attack import AttackConfig
from invertune_plugin.attacks.backdoors import Backdoor
from invertune_plugin.attacks.bad_encoder import EncoderTraining
from invertune_plugin.benchmark.experiment import measuring
from invertune_plugin.benchmark.experiment.measuring import Measured
from invertune_plugin.benchmark.experiment.recipe import DataConfig
from invertune_plugin.benchmark.experiment.sources import build_sources
from invertune_plugin.benchmark.experiment.victims import poisoned_rate
from invertune_plugin.benchmark.judgement import HIGHER, LOWER, BeforeAfter, judged
from invertune_plugin.benchmark.report.wording import false_alarm, truth, verdict
from invertune_plugin.config import parse
from invertune_plugin.defenses.invertune.pipeline import Repair
from invertune_plugin.metrics import Rate
from invertune_plugin.outcome import Outcome, Stage
from invertune_plugin.triggers import Patch

FINE = (
    BeforeAfter("CA", None, Rate(900, 1000), Rate(850, 1000), better=HIGHER),
    BeforeAfter("ASR", Rate(20, 1000), Rate(990, 1000), Rate(10, 1000), better=LOWER),
)


def asr(after: int, rebound: int | None = None, clean: int | None = None) -> BeforeAfter:
    again = None if rebound is None else Rate(rebound, 1000)
    floor = None if clean is None else Rate(clean, 1000)
    return BeforeAfter("ASR", floor, Rate(990, 1000), Rate(after, 1000), again, LOWER)


def test_a_repair_that_works_stays_one() -> None:
    found = judged(repaired(), FINE)
    assert (found.outcome, found.left, found.lost, found.back) == (Outcome.OK, None, None, None)
    assert "was found and removed" in verdict(repaired(), found, "ring")
    assert judged(repaired(), ()).outcome is Outcome.OK


@pytest.mark.parametrize(
    ("row", "left"),
    [(asr(101), 0.101), (asr(100), None), (asr(300, clean=290), None), (asr(350, clean=290), 0.35)],
)
def test_what_a_clean_model_reads_as_the_target_anyway_is_no_attack(
    row: BeforeAfter, left: float | None
) -> None:
    found = judged(repaired(), [row])
    assert (found.left and found.left.value) == left
    assert found.outcome is (Outcome.OK if left is None else Outcome.FAILED)


def test_a_destroyed_model_is_no_repair() -> None:
    row = BeforeAfter("CA", None, Rate(900, 1000), Rate(150, 1000), better=HIGHER)
    found = judged(repaired(), [row, asr(0)])
    assert found.outcome is Outcome.FAILED
    assert "its clean accuracy fell from 90.0% to 15.0%" in verdict(repaired(), found)


def test_an_attack_that_comes_back_is_told() -> None:
    found = judged(repaired(), [asr(20, rebound=646)])
    assert found.outcome is Outcome.OK
    told = verdict(repaired(), found)
    assert told.endswith("After benign training the attacker's trigger reaches 64.6% again.")


def test_another_class_than_the_attackers_is_named() -> None:
    told = verdict(repaired(), judged(repaired(), [asr(990)]), "star")
    assert told == (
        "“ring” was repaired, which is not the attacker's target: the attacker's trigger still "
        "succeeds on 99.0%."
    )


def test_a_backdoor_is_missed_only_where_there_is_one() -> None:
    uncertain = Repair([Stage("target", Outcome.UNCERTAIN, "signs", {}, 1.0, 1)], None)
    for repair, before, told in (
        (rejected(), 990, "Missed: this model carries a backdoor"),
        (rejected(), 5, "Nothing to find: the given trigger leads to “star” on 0.5%"),
        (uncertain, 990, "Not decided: the attacker's target is “star”."),
    ):
        row = BeforeAfter("ASR", None, Rate(before, 1000), better=LOWER)
        note = truth(repair, "star", judged(repair, [row]))
        assert note is not None
        assert note.text.startswith(told)


def test_a_search_that_failed_is_no_good_news() -> None:
    for outcome, tone in (
        (Outcome.REJECTED, "good"),
        (Outcome.UNCERTAIN, "bad"),
        (Outcome.FAILED, "bad"),
    ):
        note = false_alarm(Repair([Stage("target", outcome, "so", {}, 1.0, 1)], None))
        assert note.tone == tone


def test_of_several_triggers_the_one_that_works_best_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reached = {"first": Rate(1, 100), "second": Rate(90, 100)}
    monkeypatch.setattr(
        measuring, "measure", lambda model, test, name: Measured(Rate(8, 10), reached[name])
    )
    given: Any = (None, None, ("first", "second"))
    assert measuring.measure_all(*given) == Measured(Rate(8, 10), Rate(90, 100))


@pytest.mark.parametrize(
    ("captions", "lowest", "highest"), [("templates", 0.1, 0.1), ("kept", 0.001, 0.05)]
)
def test_a_poisoned_rate_is_counted(captions: str, lowest: float, highest: float) -> None:
    """A clean-label rate is one of the target's pairs alone."""
    sources = build_sources(DataConfig(attack=200), 32, 0, 0)
    given = (sources.pairs("attack"), sources.templates, 0)
    settings = {"target": "star", "rate": 0.1, "captions": captions, "training": {}}
    settings["trigger"] = {"kind": "patch"}
    attack = parse(AttackConfig, settings)
    backdoors = [Backdoor(Patch(), "star")]
    assert lowest <= poisoned_rate(attack, backdoors, *given) <= highest
    encoder = replace(attack, encoder=EncoderTraining(), captions="templates")
    assert poisoned_rate(encoder, backdoors, *given) == 0.0
