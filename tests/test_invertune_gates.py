from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import NAMES, assert_same, copied, noise_images, toy_classifier

from invertune_plugin.data import InMemory
from invertune_plugin.defenses.invertune import InverTune, InverTuneConfig, pipeline
from invertune_plugin.defenses.invertune.inversion import InversionConfig, InversionResult
from invertune_plugin.defenses.invertune.pipeline import Repair, repair_classifier
from invertune_plugin.defenses.invertune.squares import SquareConfig
from invertune_plugin.defenses.invertune.target import Candidate, TargetConfig, TargetResult
from invertune_plugin.defenses.invertune.tuning import TuningConfig, TuningResult
from invertune_plugin.defenses.invertune.units import CriticalUnits
from invertune_plugin.errors import InputError
from invertune_plugin.metrics import Rate
from invertune_plugin.outcome import Outcome, Stage
from invertune_plugin.triggers import MaskedPattern, Patch

OK, UNCERTAIN, REJECTED, FAILED = Outcome
CONFIG = InverTuneConfig(least_images=8)
NO_SQUARES = replace(CONFIG, squares=SquareConfig(classes=0))
TRIGGER = MaskedPattern(torch.zeros(1, 32, 32), torch.zeros(3, 32, 32))


def images(count: int = 16) -> InMemory[int]:
    """Images that can be told apart by their first pixel."""
    pixels = noise_images(count)
    pixels[:, 0, 0, 0] = torch.arange(count, dtype=torch.uint8)
    return InMemory(pixels, [i % len(NAMES) for i in range(count)])


@dataclass
class Script:
    """What the three steps answer, and a record of how they were asked.

    Attributes:
        target: outcome of step 1, which ranks the classes 2, 0, 3, 1.
        inversions: outcome and area of step 2 per class.
        tuning: outcome of step 3.
        costs: of the classes in that order.
        asked: name of the step and class, in order.
        seeds: that the steps got.
    """

    target: Outcome = OK
    inversions: dict[int, tuple[Outcome, float]] = field(default_factory=dict)
    tuning: Outcome = OK
    costs: tuple[float, ...] = (0.01, 0.02, 0.04, 0.08)
    asked: list[tuple[str, int]] = field(default_factory=list)
    seeds: set[int] = field(default_factory=set)
    suspect_training: set[bool] = field(default_factory=set)
    suspect_trained: set[bool] = field(default_factory=set)
    shares: list[tuple[list[int], list[int]]] = field(default_factory=list)
    draws: list[float] = field(default_factory=list)

    def find_target(
        self, suspect: Any, images: Tensor, config: Any, seed: int, *_: Any
    ) -> TargetResult:
        self._record("target", -1, suspect, seed)
        suspect.encode_image(images[:5].float() / 255)
        self.draws = [random.random(), float(np.random.rand()), float(torch.rand(()))]
        found = [
            Candidate(y, NAMES[y], 0.0, cost)
            for y, cost in zip((2, 0, 3, 1), self.costs, strict=True)
        ]
        return TargetResult(found, Stage("target", self.target, "as scripted"), [3, 1, 0, 2])

    def invert_trigger(
        self,
        suspect: Any,
        images: Tensor,
        held_back: Tensor,
        label: int,
        config: Any,
        seed: int,
        *_: Any,
    ) -> InversionResult:
        self._record("inversion", label, suspect, seed)
        self.shares.append((images[:, 0, 0, 0].tolist(), held_back[:, 0, 0, 0].tolist()))
        outcome, area = self.inversions.get(label, (OK, 0.1))
        stage = Stage("inversion", outcome, f"class {label}", {"area": area})
        return InversionResult(label, TRIGGER, 0.9, area, [], stage)

    def tune_in_rounds(
        self,
        suspect: Any,
        images: Tensor,
        held_back: Tensor,
        found: InversionResult,
        inversion: Any,
        tuning: Any,
        seed: int,
        *_: Any,
    ) -> TuningResult:
        self._record("tuning", found.label, suspect, seed)
        assert found.trigger is TRIGGER
        stage = Stage("tuning", self.tuning, "as scripted")
        tuned = copy.deepcopy(suspect)
        tuned.class_weights += 1
        return TuningResult(tuned, CriticalUnits({}, {}, {}), [], stage)

    def _record(self, step: str, label: int, suspect: Any, seed: int) -> None:
        self.asked.append((step, label))
        self.seeds.add(seed)
        self.suspect_training.add(suspect.training)
        self.suspect_trained |= {p.requires_grad for p in suspect.parameters()}


Play = Callable[..., Script]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    def start(**answers: Any) -> Script:
        script = Script(**answers)
        for step in ("find_target", "invert_trigger", "tune_in_rounds"):
            monkeypatch.setattr(pipeline, step, getattr(script, step))
        return script

    return start


def repair(suspect: Any = None, config: InverTuneConfig = CONFIG, **options: Any) -> Repair:
    return repair_classifier(suspect or toy_classifier("vit"), images(), config, **options)


def outcomes(found: Repair) -> list[tuple[str, Outcome]]:
    return [(stage.name, stage.outcome) for stage in found.stages]


def test_all_three_steps_in_order(play: Play) -> None:
    script = play()
    found = repair(seed=5)
    assert script.asked == [("target", -1), ("inversion", 2), ("tuning", 2)]
    assert script.seeds == {5}
    assert outcomes(found) == [("target", OK), ("inversion", OK), ("tuning", OK)]
    assert found.outcome is OK
    assert found.found_label == 2
    assert found.tuning is not None
    assert found.classifier is found.tuning.classifier


def test_a_rejected_target_stops(play: Play) -> None:
    script = play(target=REJECTED)
    found = repair(config=NO_SQUARES)
    assert script.asked == [("target", -1)]
    assert found.outcome is REJECTED
    assert found.classifier is None
    assert found.found_label is None
    assert found.target is not None
    assert not found.inversions


@pytest.mark.parametrize(
    ("target", "asked"), [(REJECTED, [3, 1, 0]), (UNCERTAIN, [2, 0, 3, 1])], ids=str
)
def test_where_no_class_stands_out_squares_are_compared(
    play: Play, monkeypatch: pytest.MonkeyPatch, target: Outcome, asked: list[int]
) -> None:
    """Of the classes that gain most, or of the candidates; the class that is believed is tuned."""
    script = play(target=target)
    compared: list[list[int]] = []

    def look(*args: Any) -> tuple[Stage, InversionResult]:
        compared.append([inversion.label for inversion in args[3]])
        return Stage("inversion", OK, "as scripted"), args[3][1]

    monkeypatch.setattr(pipeline, "closer_look", look)
    found = repair(config=replace(CONFIG, squares=SquareConfig(classes=3)))
    assert [label for step, label in script.asked if step == "inversion"] == asked
    assert sorted(compared[0]) == sorted(asked)
    assert script.asked[-1] == ("tuning", compared[0][1])
    assert found.found_label == compared[0][1]
    assert len(found.inversions) == len(asked)


def test_a_rejected_inversion_stops_before_tuning(play: Play) -> None:
    script = play(inversions={2: (REJECTED, 0.3), 0: (REJECTED, 0.2)})
    found = repair()
    assert script.asked == [("target", -1), ("inversion", 2), ("inversion", 0)]
    assert outcomes(found) == [("target", OK), ("inversion", REJECTED)]
    assert found.stages[-1].reason == "class 2", "of the most suspicious class"
    assert found.classifier is None
    assert found.found_label is None
    assert found.tuning is None


def test_the_next_candidate_is_tried_after_a_rejected_one(play: Play) -> None:
    script = play(inversions={2: (REJECTED, 0.3)})
    found = repair()
    assert script.asked[1:] == [("inversion", 2), ("inversion", 0), ("tuning", 0)]
    assert [inversion.label for inversion in found.inversions] == [2, 0]
    assert found.found_label == 0
    assert found.stages[1].reason == "class 0"


@pytest.mark.parametrize(("tries", "labels"), [(1, [2]), (2, [2, 0]), (3, [2, 0, 3])])
def test_only_so_many_candidates_are_tried_in_rank_order(
    play: Play, tries: int, labels: list[int]
) -> None:
    script = play(inversions=dict.fromkeys(range(4), (REJECTED, 0.3)))
    found = repair(config=replace(CONFIG, tries=tries))
    assert [label for step, label in script.asked if step == "inversion"] == labels
    assert found.outcome is REJECTED


def test_a_next_candidate_that_does_not_stand_out_is_not_tried(play: Play) -> None:
    """The evidence was about the first class; a clean model has masks for others, too."""
    script = play(inversions={2: (REJECTED, 0.3)}, costs=(0.01, 0.02, 0.03, 0.04))
    assert outcomes(repair()) == [("target", OK), ("inversion", REJECTED)]
    assert script.asked == [("target", -1), ("inversion", 2)]


@pytest.mark.parametrize("held_back", [0.01, 0.99])
def test_a_share_that_leaves_a_side_without_images_is_refused(play: Play, held_back: float) -> None:
    script = play()
    with pytest.raises(InputError, match=r"images to judge by, got 16 in all of which (0|16) are"):
        repair(config=replace(CONFIG, held_back=held_back))
    assert script.asked == []


def test_a_model_that_gives_no_numbers_fails() -> None:
    suspect = toy_classifier("vit")
    suspect.clip.visual.proj.data.fill_(torch.nan)
    found = repair(suspect)
    assert outcomes(found) == [("target", FAILED)]
    assert "not finite" in found.stages[0].reason
    assert (found.classifier, found.found_label) == (None, None)


@pytest.mark.parametrize("tries", [1, 2])
@pytest.mark.parametrize(("small", "large"), [(2, 0), (0, 2)])
def test_an_uncertain_target_asks_for_a_second_opinion(
    play: Play, small: int, large: int, tries: int
) -> None:
    """All candidates are inverted, and the much smaller trigger is believed."""
    script = play(target=UNCERTAIN, inversions={small: (OK, 0.05), large: (OK, 0.1)})
    found = repair(config=replace(CONFIG, tries=tries))
    inverted = [("inversion", label) for label in (2, 0, 3, 1)]
    assert script.asked[1:] == [*inverted, ("tuning", small)]
    assert found.found_label == small
    assert found.inversions[-1].label == small
    assert outcomes(found) == [("target", UNCERTAIN), ("inversion", OK), ("tuning", OK)]
    assert found.stages[1].evidence == {"area": 0.05, "area_ratio": pytest.approx(0.5)}


def test_the_share_that_tells_a_backdoor_is_a_setting(play: Play) -> None:
    play(target=UNCERTAIN, inversions={2: (OK, 0.05), 0: (OK, 0.1)})
    assert repair(config=replace(NO_SQUARES, second_opinion=0.5)).outcome is OK
    assert repair(config=replace(NO_SQUARES, second_opinion=0.49)).outcome is REJECTED


def test_two_triggers_of_like_size_tell_no_backdoor(play: Play) -> None:
    script = play(target=UNCERTAIN, inversions={2: (OK, 0.07), 0: (OK, 0.1)})
    found = repair(config=NO_SQUARES)
    assert ("tuning", 2) not in script.asked
    assert outcomes(found) == [("target", UNCERTAIN), ("inversion", REJECTED)]
    assert "covers 0.70 of the next one's area; at most 0.50" in found.stages[-1].reason
    assert found.classifier is None


def test_a_small_trigger_that_fails_tells_no_backdoor(play: Play) -> None:
    """The other three are of one size, and none of them stands out."""
    script = play(target=UNCERTAIN, inversions={2: (REJECTED, 0.01)})
    found = repair(config=NO_SQUARES)
    assert all(step != "tuning" for step, _ in script.asked)
    assert found.outcome is REJECTED
    assert found.classifier is None
    assert "covers 1.00 of the next one's area" in found.stages[-1].reason


def test_the_only_class_with_an_accepted_trigger_is_believed(play: Play) -> None:
    failed = dict.fromkeys((2, 3, 1), (REJECTED, 0.01))
    found_by = play(target=UNCERTAIN, inversions={**failed, 0: (OK, 0.1)})
    found = repair()
    assert found_by.asked[-1] == ("tuning", 0)
    assert "area_ratio" not in found.stages[1].evidence, "there is no other to compare it with"


def test_no_accepted_trigger_at_all_tells_no_backdoor(play: Play) -> None:
    play(target=UNCERTAIN, inversions=dict.fromkeys(range(4), (REJECTED, 0.01)))
    found = repair(config=NO_SQUARES)
    assert found.outcome is REJECTED
    assert found.stages[-1].reason.startswith("class ")


def test_a_failed_repair_gives_no_model(play: Play) -> None:
    play(tuning=FAILED)
    found = repair()
    assert found.outcome is FAILED
    assert found.classifier is None
    assert found.tuning is not None
    assert found.found_label == 2


def test_too_few_images_are_refused_before_any_work(play: Play) -> None:
    script = play()
    message = r"Expected at least 64 clean images, got 16\. Add images; labels are not needed\."
    with pytest.raises(InputError, match=message):
        repair(config=InverTuneConfig())
    assert not script.asked


def test_images_to_judge_by_are_not_fitted_to(play: Play) -> None:
    script = play()
    repair(config=replace(CONFIG, held_back=0.25))
    fitted, held_back = script.shares[0]
    assert len(fitted) == 12
    assert sorted(fitted + held_back) == list(range(16))
    other = play()
    repair(config=replace(CONFIG, held_back=0.25), seed=1)
    assert other.shares[0] != script.shares[0]


def test_no_more_images_than_asked_for(play: Play) -> None:
    script = play()
    repair(config=replace(CONFIG, images=10, held_back=0.3))
    fitted, held_back = script.shares[0]
    assert (len(fitted), len(held_back)) == (7, 3)
    assert len({*fitted, *held_back}) == 10


@pytest.mark.parametrize("training", [True, False])
def test_the_suspect_is_frozen_meanwhile_and_as_before_afterwards(
    play: Play, training: bool
) -> None:
    suspect = toy_classifier("rn").train(training)
    suspect.clip.visual.conv1.weight.requires_grad_(False)
    before, trained = copied(suspect.state_dict()), [p.requires_grad for p in suspect.parameters()]
    script = play()
    repair(suspect)
    assert script.suspect_training == {False}
    assert script.suspect_trained == {False}
    assert suspect.training is training
    assert [p.requires_grad for p in suspect.parameters()] == trained
    assert trained.count(False) == 1
    assert_same(suspect.state_dict(), before)


def test_the_suspect_is_as_before_after_an_error(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise RuntimeError("out of memory")

    play()
    monkeypatch.setattr(pipeline, "invert_trigger", fails)
    suspect = toy_classifier("vit").train()
    with pytest.raises(RuntimeError, match="out of memory"):
        repair(suspect)
    assert suspect.training
    assert all(p.requires_grad for p in suspect.parameters())
    assert not suspect.visual._forward_hooks


def test_parts_that_were_in_eval_mode_stay_in_it(play: Play) -> None:
    play()
    suspect = toy_classifier("rn").train()
    suspect.clip.visual.bn1.eval()
    repair(suspect)
    assert suspect.training
    assert not suspect.clip.visual.bn1.training


def test_stages_say_what_they_took_and_report_it(play: Play) -> None:
    play()
    said: list[str] = []
    found = repair(report=said.append)
    assert said == [
        "target ...",
        "target: ok. as scripted",
        "inversion ...",
        "inversion: ok. class 2",
        "tuning ...",
        "tuning: ok. as scripted",
    ]
    assert [stage.passes for stage in found.stages] == [5, 0, 0]
    assert found.work.keys() == {"target", "inversion", "tuning"}
    assert found.work["target"].passes == 5
    assert all(stage.seconds > 0 for stage in found.stages)


def test_using_a_repaired_model_adds_no_work_to_its_repair() -> None:
    """With the real steps, which always go on: every model is taken for one with a backdoor."""
    found = real_repair()
    before = {name: work.passes for name, work in found.work.items()}
    found.classifier(noise_images(4).float() / 255)
    assert {name: work.passes for name, work in found.work.items()} == before


def gullible() -> InverTuneConfig:
    """Few updates, and thresholds that let everything through."""
    config = InverTuneConfig(least_images=8)
    return replace(
        config,
        target=replace(
            config.target, shift_steps=2, cost_steps=2, candidates=2, batch_size=4, ratio=2.0
        ),
        inversion=replace(config.inversion, steps=2, batch_size=4, least_asr=0.0, most_area=1.0),
        tuning=replace(config.tuning, steps=2, batch_size=4, most_asr=1.0, least_agreement=0.0),
    )


def real_repair(tower: str = "vit") -> Repair:
    return repair_classifier(toy_classifier(tower), images(), gullible(), seed=3)


@pytest.mark.parametrize("tower", ["rn", "vit"])
def test_the_real_steps_fit_together(tower: str) -> None:
    """Passes by hand: 12 images fitted to, 4 held back, updates of 4 (8 for the shift)."""
    found = real_repair(tower)
    assert outcomes(found) == [("target", OK), ("inversion", OK), ("tuning", OK)]
    assert found.target is not None
    costs = [candidate.cost for candidate in found.target.candidates]
    assert costs == sorted(costs)
    assert len(costs) == 2
    shift, costing = 12 + 2 * 3 * 8 + 12, 2 * (2 * 3 * 4 + 12)
    assert found.stages[0].passes == shift + costing
    assert found.stages[1].passes == 12 + 2 * 3 * 4 + 2 * 4
    units, tuning, judging = 4 * 12, 2 * (4 + 3 * 8), 2 * 4 + 2 * 4
    again = found.stages[1].passes
    told = 2 * 4
    assert found.stages[2].passes == 2 * (units + tuning + judging) + again + told
    assert 0 <= found.stages[2].evidence["later_asr"] <= 1
    assert found.classifier is not None


def test_suspect_and_repaired_copy_have_contiguous_weights() -> None:
    suspect = toy_classifier("rn")
    found = repair_classifier(suspect, images(), gullible(), seed=3)
    for model in (suspect, found.classifier):
        assert all(weight.is_contiguous() for weight in model.parameters())


def test_repairs_are_the_same_for_the_same_seed() -> None:
    first, second = real_repair(), real_repair()
    assert first.target == second.target
    assert first.inversions[-1].trigger.fingerprint() == second.inversions[-1].trigger.fingerprint()
    assert_same(first.classifier.state_dict(), second.classifier.state_dict())


def invertune(model: nn.Module, **options: Any) -> InverTune:
    return InverTune(images(), model=model, config=CONFIG, **options)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": nn.Linear(3, 2)}, r"suspect, got Linear\. .* as_suspect"),
        ({"model": "model.pt"}, r"got str\. Load it with load_clip"),
        ({"model": SimpleNamespace(tokenizer=None)}, r"zero_shot_classifier\(loaded"),
        ({"train_dataset": "images"}, r"image set, got str\. Open a path with image_set"),
        ({"test_dataset": [(0, 0)]}, r"image set, got list\. .* image_set_of"),
        ({"config": {"tunning": {}}}, r"tunning.*'tuning'"),
        ({"config": "own.yaml"}, r"mapping of settings as config, got 'own\.yaml'\. Read"),
    ],
    ids=str,
)
def test_what_cannot_be_repaired_is_refused_at_once(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        InverTune(**({"train_dataset": images(), "model": toy_classifier("vit")} | given))


def test_settings_may_be_those_of_a_file() -> None:
    settings = {"tuning": {"rounds": 1}}
    defence = InverTune(images(), model=toy_classifier("vit"), config=settings)
    assert isinstance(defence.config, InverTuneConfig)
    assert defence.config.tuning.rounds == 1


def test_get_model_is_the_suspect_until_something_is_repaired(play: Play) -> None:
    suspect = toy_classifier("vit")
    defence = invertune(suspect)
    assert defence.get_model() is suspect
    play(target=REJECTED)
    defence.repair()
    assert defence.get_model() is suspect
    assert defence.target_ is None
    assert defence.trigger_ is None
    play(tuning=FAILED)
    defence.repair()
    assert defence.get_model() is suspect
    play()
    found = defence.repair()
    assert found is defence.report_
    assert defence.get_model() is found.classifier
    assert defence.get_model() is not suspect
    assert defence.target_ == 2
    assert defence.trigger_ is TRIGGER


def global_state() -> Sequence[Any]:
    legacy: Any = np.random.get_state()
    return random.getstate(), legacy[1].tolist(), legacy[2], torch.get_rng_state().tolist()


def test_the_global_random_state_stays_and_the_steps_are_seeded(play: Play) -> None:
    script, defence = play(), invertune(toy_classifier("vit"), seed=4)
    before = global_state()
    defence.repair()
    assert global_state() == before
    first = script.draws
    random.random()
    np.random.rand()
    torch.rand(3)
    defence.repair()
    assert script.draws == first
    invertune(toy_classifier("vit"), seed=5).repair()
    assert not set(script.draws) & set(first)


def test_the_random_state_and_algorithms_come_back_after_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: Any) -> None:
        random.random()
        assert torch.are_deterministic_algorithms_enabled()
        raise RuntimeError("stop")

    monkeypatch.setattr(pipeline, "find_target", fails)
    before = global_state()
    with pytest.raises(RuntimeError, match="stop"):
        invertune(toy_classifier("vit"), deterministic=True).repair()
    assert global_state() == before
    assert not torch.are_deterministic_algorithms_enabled()


def test_the_constructor_only_stores() -> None:
    dataset, model, config = images(), toy_classifier("vit"), InverTuneConfig()
    schedule = {"batch_size": 3}
    defence = InverTune(
        dataset, dataset, model, schedule=schedule, seed=9, deterministic=True, config=config
    )
    assert defence.train_dataset is dataset
    assert defence.test_dataset is dataset
    assert defence.model is model
    assert defence.schedule is schedule
    assert defence.config is config
    assert (defence.seed, defence.deterministic) == (9, True)
    assert not [name for name in vars(defence) if name.endswith("_")]


def test_a_repair_needs_clean_images() -> None:
    with pytest.raises(InputError, match=r"Expected clean images, got none\. .* train_dataset"):
        InverTune(None, model=toy_classifier("vit")).repair()


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"batch_size": 0}, "batch_size of 1 or more, got 0"),
        ({"trigger": "t.yaml", "target": 0}, r"Trigger as .*, got 't\.yaml'\. .*load_trigger"),
        ({"trigger": Patch(size=4), "target": "dgo"}, r"class as target, got 'dgo'.*'dog'"),
        ({"trigger": Patch(size=4)}, "trigger and target together"),
        ({"trigger": Patch(size=4), "target": 4}, "from 0 to 3 as target, got 4"),
        ({"trigger": Patch(size=4), "target": 1.5}, "from 0 to 3 as target, got 1.5"),
    ],
    ids=str,
)
def test_schedules_that_cannot_be_tested_with(schedule: dict[str, Any], message: str) -> None:
    defence = InverTune(images(), images(), toy_classifier("vit"))
    with pytest.raises(InputError, match=message):
        defence.test(schedule)


def test_testing_needs_a_test_set() -> None:
    with pytest.raises(InputError, match="Expected a test data set, got none"):
        invertune(toy_classifier("vit")).test()


def test_testing_measures_the_model_as_it_stands() -> None:
    suspect, dataset = toy_classifier("vit"), images(12)
    defence = invertune(suspect, test_dataset=dataset)
    predicted = suspect(dataset.images.float() / 255).argmax(1)
    hits = int((predicted == torch.tensor(dataset.texts)).sum())
    assert defence.test() == {"ca": Rate(hits, 12)}


def test_testing_takes_its_schedule_from_call_or_constructor() -> None:
    suspect, dataset = toy_classifier("vit"), images(12)
    schedule = {"trigger": Patch(), "target": 1, "batch_size": 5}
    defence = invertune(suspect, test_dataset=dataset, schedule=schedule)
    rates = defence.test()
    assert rates.keys() == {"ca", "asr"}
    triggered = suspect(Patch()(dataset.images.float() / 255)).argmax(1)
    sources = torch.tensor(dataset.texts) != 1
    assert rates["asr"] == Rate(int((triggered[sources] == 1).sum()), 9)
    assert defence.test({"batch_size": 4}).keys() == {"ca"}
    named = {"trigger": Patch(), "target": suspect.class_names[1]}
    assert defence.test(named) == rates
    for target, message in ((99, "from 0 to .* as target, got 99"), ("shoe", "shoe")):
        with pytest.raises(InputError, match=message):
            defence.test({"trigger": Patch(), "target": target})


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: TargetConfig(batch_size=0), "batch_size of 1 or more, got 0"),
        (lambda: TargetConfig(epsilon=-0.1), "epsilon of 0 or more, got -0.1"),
        (lambda: InversionConfig(steps=-5), "steps of 1 or more, got -5"),
        (lambda: InversionConfig(visual_images=0), "visual_images of 1 or more, got 0"),
        (lambda: InversionConfig(learning_rate=math.nan), "learning_rate of 0 or more, got nan"),
        (lambda: TuningConfig(batch_size=0), "batch_size of 1 or more, got 0"),
        (lambda: TuningConfig(learning_rate=-1.0), "learning_rate of 0 or more, got -1.0"),
        (lambda: SquareConfig(classes=-1), "0 for none, got -1"),
        (lambda: SquareConfig(side=1.5), "a side above 0 and at most 1, got 1.5"),
    ],
)
def test_settings_that_no_step_can_take_are_refused(
    made: Callable[[], object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        made()


def test_images_of_several_sizes_are_refused() -> None:
    class Mixed(InMemory[int]):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            image, label = super().__getitem__(index)
            return (image[:, :30] if index == 5 else image), label

    mixed = Mixed(noise_images(64), [0] * 64)
    with pytest.raises(InputError, match="3 x 32 x 32 for this model, got 3 x 30 x 32"):
        InverTune(mixed, model=toy_classifier("vit")).repair()


def test_a_repaired_model_can_be_trained_as_the_suspect_and_has_no_hooks(play: Play) -> None:
    play()
    found = repair()
    assert found.outcome is OK
    assert all(parameter.requires_grad for parameter in found.classifier.parameters())
    assert not found.classifier.visual._forward_hooks
    assert found.class_names == NAMES
