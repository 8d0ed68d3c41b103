"""Every repair keeps one contract."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from toys import NAMES, assert_same, copied, noise_images, toy_classifier

from invertune_plugin.data import ClassCaptions, InMemory
from invertune_plugin.defenses.baselines import BASELINES, DefenderData, Repaired, run_repair
from invertune_plugin.defenses.repair import steps_told
from invertune_plugin.errors import InputError
from invertune_plugin.outcome import Outcome
from invertune_plugin.zero_shot import ZeroShotClassifier

TRAINING: dict[str, Any] = {"max_steps": 2, "batch_size": 8, "learning_rate": 1e-3}
SHORT: dict[str, dict[str, Any]] = {
    "none": {},
    "fine_tuning": TRAINING,
    "clean_clip": TRAINING,
    "par": TRAINING,
    "linear_probe": {"batch_size": 16},
    "rvpt": {"shots": 4, "length": 3, "epochs": 2, "batch_size": 8},
    "inver_tune": {
        "least_images": 8,
        "target": {"shift_steps": 1, "cost_steps": 1, "batch_size": 8, "ratio": 1.0},
        "inversion": {"steps": 2, "batch_size": 8, "least_asr": 0.0, "most_area": 1.0},
        "tuning": {"rounds": 1, "steps": 2, "most_asr": 1.0, "least_agreement": 0.0},
    },
}
ON_BOTH = [(name, tower) for name in BASELINES for tower in ("rn", "vit")]


def labelled(count: int = 32, size: int = 32) -> InMemory[int]:
    return InMemory(noise_images(count, size), [i % len(NAMES) for i in range(count)])


def data(count: int = 32, size: int = 32) -> DefenderData:
    images = labelled(count, size)
    return DefenderData(ClassCaptions(images, NAMES, ("a photo of a {} .", "a {} .")), images)


def suspect_of(tower: str) -> ZeroShotClassifier:
    return toy_classifier(tower, layers=2)


def short(name: str, suspect: ZeroShotClassifier, seed: int = 3, **options: Any) -> Repaired:
    return run_repair(name, suspect, data(), SHORT[name] | options, seed)


def random_state() -> tuple[Any, ...]:
    return (
        random.getstate(),
        [str(part) for part in np.random.get_state()],
        torch.random.get_rng_state().tolist(),
    )


def weights_of(suspect: ZeroShotClassifier) -> dict[str, Tensor]:
    return copied({**suspect.state_dict(), "class_weights": suspect.class_weights})


def test_all_baselines_are_here() -> None:
    assert set(SHORT) == set(BASELINES)


@pytest.mark.parametrize(("name", "tower"), ON_BOTH)
def test_the_suspect_and_the_random_state_stay(name: str, tower: str) -> None:
    suspect = suspect_of(tower)
    suspect.clip.visual.train()
    suspect.clip.logit_scale.requires_grad_(False)
    first = next(suspect.clip.parameters())
    first.grad = torch.ones_like(first)
    modes = {n: m.training for n, m in suspect.named_modules()}
    trained = {n: p.requires_grad for n, p in suspect.named_parameters()}
    hooks = [len(m._forward_hooks) for m in suspect.modules()]
    before, state = weights_of(suspect), random_state()
    short(name, suspect)
    assert_same(weights_of(suspect), before)
    assert random_state() == state
    assert {n: m.training for n, m in suspect.named_modules()} == modes
    assert {n: p.requires_grad for n, p in suspect.named_parameters()} == trained
    assert [len(m._forward_hooks) for m in suspect.modules()] == hooks
    assert torch.equal(first.grad, torch.ones_like(first))
    assert all(p.grad is None for p in suspect.parameters() if p is not first)


@pytest.mark.parametrize(("name", "tower"), ON_BOTH)
def test_the_seed_decides(name: str, tower: str) -> None:
    first = short(name, suspect_of(tower))
    torch.rand(7)
    again = short(name, suspect_of(tower))
    if first.classifier is None:
        assert again == first
        return
    assert_same(again.classifier.state_dict(), copied(first.classifier.state_dict()))
    if name not in ("none", "linear_probe", "inver_tune"):
        other = short(name, suspect_of(tower), seed=4).classifier.state_dict()
        found = first.classifier.state_dict()
        assert any(not torch.equal(other[key], found[key]) for key in found)


@pytest.mark.parametrize(("name", "tower"), ON_BOTH)
def test_what_comes_back(name: str, tower: str) -> None:
    suspect, said = suspect_of(tower), list[str]()
    found = run_repair(name, suspect, data(), SHORT[name], 3, said.append)
    assert found.stages
    assert found.found_target is None or name == "inver_tune"
    if (name, tower) == ("rvpt", "rn"):
        assert (found.classifier, found.outcome) == (None, Outcome.REJECTED)
        assert "this image tower is a ModifiedResNet" in found.stages[0].reason
        return
    made = found.classifier
    assert made is not suspect
    assert not any(module.training for module in made.modules())
    assert all(p.grad is None and not p.requires_grad for p in made.parameters())
    mine = {id(p) for p in suspect.parameters()}
    assert not any(id(p) in mine for p in made.parameters())
    assert made.class_names == list(NAMES)
    assert made.visual is not None
    pixels = torch.rand(3, 3, 32, 32)
    assert made(pixels).shape == (3, len(NAMES))
    assert torch.allclose(made.encode_image(pixels).norm(dim=1), torch.ones(3))
    for stage in found.stages:
        assert isinstance(stage.outcome, Outcome)
        assert stage.reason.endswith(".")
        assert (stage.passes > 0) == (stage.seconds > 0) == (name != "none")
    if name == "inver_tune":
        assert [stage.name for stage in found.stages] == ["target", "inversion", "tuning"]
    elif name != "none":
        assert found.outcome is Outcome.OK
        assert said[0] == f"{name} ..."
        assert said[-1] == f"{name}: ok. {found.stages[-1].reason}"


def test_passes_are_counted_by_hand() -> None:
    """Forward and backward is 3 an image: 2 steps of 8, views, the poisoned model, 32 images."""
    suspect = suspect_of("vit")
    passes = {name: short(name, suspect).stages[-1].passes for name in SHORT}
    steps = 2 * 8
    assert passes["none"] == 0
    assert passes["fine_tuning"] == 3 * steps
    assert passes["clean_clip"] == 2 * 3 * steps
    assert passes["par"] == 3 * steps + steps
    assert passes["linear_probe"] == 32
    assert passes["rvpt"] == 16 + 2 * 3 * 16


@pytest.mark.parametrize("name", BASELINES)
def test_options_are_checked_before_any_work(name: str) -> None:
    with pytest.raises(InputError, match=rf"Expected a known setting, got {name}\.sped"):
        run_repair(name, suspect_of("vit"), DefenderData(), {"sped": 1})


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean 'learning_rate'"):
        run_repair("par", suspect_of("rn"), DefenderData(), {"learning_rat": 1})


def test_an_unknown_repair_names_the_nearest() -> None:
    with pytest.raises(InputError, match=r"got 'cleanclip'. Did you mean 'clean_clip'"):
        run_repair("cleanclip", suspect_of("rn"), DefenderData())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fine_tuning", {"epochs": 0}, "one epoch .or step. or more"),
        ("fine_tuning", {"learning_rate": 0}, "a positive learning rate, got 64 and 0"),
        ("fine_tuning", {"max_steps": 0}, "got 0 and 64"),
        ("fine_tuning", {"warmup": 1.5}, "a warm-up share from 0 to 1, got 1.5"),
        ("fine_tuning", {"shift": -1}, "shift of 0 or more, got -1"),
        ("fine_tuning", {"seed": 1}, "fine_tuning.seed"),
        ("clean_clip", {"in_modal_weight": 0}, "a positive in_modal_weight, got 0"),
        ("clean_clip", {"crop": 0}, "crop and word_share above 0"),
        ("clean_clip", {"batch_size": 0}, "batches of two or more"),
        ("par", {"tau": 5}, "got 0.5, 10.0 and 5"),
        ("par", {"push": -1}, "a positive push"),
        ("par", {"epochs": "many"}, "another value for par.epochs"),
        ("linear_probe", {"inverse_strength": 0}, "positive inverse_strength"),
        ("rvpt", {"shots": 0}, "of one or more"),
        ("rvpt", {"first_block": 2}, "a first_block from 0 to 1 for this tower, got 2"),
        ("inver_tune", {"held_back": 2}, "held_back between 0 and 1"),
    ],
)
def test_wrong_options_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_repair(name, suspect_of("vit"), data(), options)


@pytest.mark.parametrize("name", [n for n in BASELINES if n != "none"])
def test_missing_data_are_named(name: str) -> None:
    baseline, suspect = BASELINES[name], suspect_of("vit")
    needs = "image-caption pairs" if "pairs" in baseline.needs else "images"
    for given in (DefenderData(), DefenderData(InMemory(noise_images(0), []), labelled(0))):
        with pytest.raises(InputError, match=f"Expected clean {needs} for {name}, got none"):
            run_repair(name, suspect, given)
        with pytest.raises(InputError, match=f"Expected clean {needs} for {name}, got none"):
            baseline.run(suspect, given, baseline.config(), 0, None)


@pytest.mark.parametrize("name", [n for n in BASELINES if n != "none"])
def test_images_of_another_size_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"Expected images of 3 x 32 x 32 .* got 3 x 16 x 16"):
        run_repair(name, suspect_of("vit"), data(8, 16))


@pytest.mark.parametrize("name", [n for n, b in BASELINES.items() if "labels" in b.needs])
@pytest.mark.parametrize("label", [-1, len(NAMES)])
def test_labels_are_needed_where_they_are(name: str, label: int) -> None:
    images = InMemory(noise_images(8), [0, 1, 2, 3, 0, label, 2, 3])
    message = f"Expected labels from 0 to 3 for {name}, got {label} for image 5"
    with pytest.raises(InputError, match=message):
        run_repair(name, suspect_of("vit"), DefenderData(images=images))


def test_unlabelled_images_are_enough_for_inver_tune() -> None:
    images = InMemory(noise_images(32), [-1] * 32)
    given = DefenderData(images=images)
    found = run_repair("inver_tune", suspect_of("vit"), given, SHORT["inver_tune"])
    assert found.stages[0].name == "target"


def test_inver_tune_gives_a_plain_copy_where_it_finds_no_backdoor() -> None:
    suspect = suspect_of("vit")
    assert short("inver_tune", suspect).found_target is not None
    found = short("inver_tune", suspect, inversion={"steps": 1, "least_asr": 1.0, "most_area": 0.0})
    assert (found.outcome, found.found_target) == (Outcome.REJECTED, None)
    assert found.classifier is not suspect
    assert_same(found.classifier.state_dict(), copied(suspect.state_dict()))


def test_a_tower_that_cannot_is_told_before_data_are_asked_for() -> None:
    found = run_repair("rvpt", suspect_of("rn"), DefenderData())
    assert found.outcome is Outcome.REJECTED
    assert BASELINES["rvpt"].why_not(suspect_of("rn")) == found.stages[0].reason
    assert all(b.why_not(suspect_of("vit")) is None for b in BASELINES.values())


@pytest.mark.parametrize("name", ["fine_tuning", "clean_clip", "par", "rvpt"])
def test_a_training_that_ends_in_no_number_has_failed(name: str) -> None:
    found = short(name, suspect_of("vit"), learning_rate=1e38)
    assert (found.classifier, found.outcome) == (None, Outcome.FAILED)
    assert "a lower learning_rate may help" in found.stages[0].reason
    assert found.stages[0].passes > 0


def test_every_tenth_of_the_steps_is_told() -> None:
    said = list[str]()
    told = steps_told("par", said.append)
    for done in range(1, 21):
        told(done, 20, 0.5)
    assert len(said) == 10
    assert said[0] == "par: 2 of 20 steps, loss 0.500"
