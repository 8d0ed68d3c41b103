"""Valleys drawn by hand, planted poison in many layers, and sets without any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from toys import noise_images, toy_classifier

from invertune_plugin.data import InMemory
from invertune_plugin.defenses.flare.features import Features
from invertune_plugin.defenses.flare.sides import standardised
from invertune_plugin.defenses.purifiers.class_parts import inside, shallow
from invertune_plugin.defenses.purifiers.directions import directions
from invertune_plugin.defenses.purifiers.last_layer import (
    LEAST_DEPTH,
    all_heaps,
    along_main_direction,
    heap_by_mixture,
)
from invertune_plugin.defenses.purifiers.mixtures import half_of_a_class, halves
from invertune_plugin.defenses.purifiers.odd_side import LARGEST_SIDE
from invertune_plugin.defenses.purifiers.parts import decided
from invertune_plugin.defenses.purifiers.splitting import Directions, split
from invertune_plugin.defenses.purifiers.valleys import BINS, Valley, smoothed, valley
from invertune_plugin.defenses.purify import Found
from invertune_plugin.errors import InputError
from invertune_plugin.outcome import Outcome


def mixture(small: int = 60, apart: float = 8.0, count: int = 2000, seed: int = 0) -> np.ndarray:
    """A normal sample whose first part is moved."""
    values = np.random.default_rng(seed).normal(size=count)
    values[:small] += apart
    return values


def test_smoothed_counts_by_hand() -> None:
    """Equal bins keep their count times 2 sqrt(pi) bandwidths; one sample weighs sqrt(2) there."""
    even = smoothed(np.full(400, 3))
    assert even[200] == pytest.approx(3 * BINS * 2 * np.sqrt(np.pi), rel=1e-4)
    one = smoothed(np.eye(1, 400, 200)[0])
    assert one[200] == one.max() == pytest.approx(np.sqrt(2), rel=1e-3)


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("scale", [1e-3, 50.0])
def test_a_valley_is_found_whatever_scale_and_sign(sign: float, scale: float) -> None:
    found = valley(sign * scale * mixture() + 7, Directions())
    assert found is not None
    assert found.part.tolist() == list(range(60))
    assert found.depth > 5
    assert found.significance > 5


def test_values_that_are_far_off_are_a_part_or_nothing() -> None:
    few, many = mixture(5, 1e12), mixture(40, 1e12)
    assert valley(few, Directions()) is None
    found = valley(many, Directions())
    assert found is not None
    assert found.part.tolist() == list(range(40))


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        (mixture(0), {}),
        (mixture(60, 2.0), {}),
        (np.exp(mixture(0)), {}),
        (mixture(15), {}),
        (mixture(60), {"least_samples": 80}),
        (mixture(60), {"most_share": 0.02}),
        (mixture(60), {"significance": 30.0}),
        (mixture(60, 4.0), {"depth": 30.0}),
        (np.zeros(100), {}),
    ],
)
def test_what_is_no_valley(values: np.ndarray, settings: dict[str, Any]) -> None:
    assert valley(values, Directions(**settings)) is None


def planted(
    poisoned: int = 60, count: int = 2000, layers: int = 8, by: float = 5.0
) -> tuple[Features, list[int]]:
    """Layers that hang together; poison is moved along a direction of small variance."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(count, 3)) @ rng.normal(size=(3, layers)) * 3
    values += rng.normal(size=values.shape) * 0.4
    chosen = np.sort(rng.permutation(count)[:poisoned])
    direction = rng.normal(size=layers)
    values[chosen] += by * direction / np.linalg.norm(direction)
    names = tuple(f"layer{i}" for i in range(layers))
    labels = rng.integers(0, 5, count)
    return Features(values.astype(np.float32), names, labels, count), chosen.tolist()


@pytest.mark.parametrize("poisoned", [30, 60, 200])
def test_poison_that_no_single_layer_shows_is_found(poisoned: int) -> None:
    features, chosen = planted(poisoned)
    clean = np.delete(np.arange(2000), chosen)
    for column in features.values.T:
        apart = abs(column[chosen].mean() - column[clean].mean())
        assert apart < 2 * column[clean].std(), "within the scatter of every layer"
    found = split(features, Directions())
    assert list(found.poisoned) == chosen
    assert found.scores[chosen].min() > 0 > found.scores[clean].max()
    assert found.reason == f"{poisoned} of 2000 samples stand apart in 1 direction(s)."


def test_two_poisons_are_found_one_after_the_other() -> None:
    features, first = planted(100)
    rng = np.random.default_rng(5)
    second = rng.choice(np.setdiff1d(np.arange(2000), first), 70, replace=False)
    features.values[second] += 6 * rng.normal(size=8) / np.sqrt(8)
    found = split(features, Directions())
    assert set(found.poisoned) == {*first, *second.tolist()}
    assert len(found.evidence["depths"]) == 2


@pytest.mark.parametrize("count", [100, 1000, 20_000])
def test_a_clean_set_is_reported_clean(count: int) -> None:
    features, _ = planted(0, count)
    found = split(features, Directions())
    assert (found.poisoned, found.outcome) == ((), Outcome.REJECTED)
    assert f"No part of the {count} samples stands apart in any direction" in found.reason
    assert len(found.scores) == count


def test_a_part_counts_where_its_own_discriminant_shows_it() -> None:
    """Half of the poison is made whole; any sixty samples are no part."""
    features, chosen = planted(60)
    half = Valley(np.array(chosen[::2]), depth=9.0, significance=9.0)
    whole = decided(half, standardised(features.values), Directions())
    assert whole is not None
    assert whole.part.tolist() == chosen
    clean = standardised(planted(0)[0].values)
    assert decided(Valley(np.arange(60), 9.0, 9.0), clean, Directions()) is None


def test_a_class_is_no_poison() -> None:
    features, chosen = planted(200)
    features.predictions[:] = 0
    features.predictions[chosen] = 1
    found = split(features, Directions())
    assert (found.poisoned, found.evidence["share_of_classes"]) == ((), [1.0])
    assert "1 of its parts are whole classes" in found.reason
    assert split(features, Directions(most_of_classes=1.0)).poisoned == tuple(chosen)


def within_a_class(by: float = 2.5) -> tuple[Features, list[int]]:
    """Poison that the scatter of the whole set hides, all of it read as class 3."""
    features, chosen = planted(150, 5000, by=by)
    features.predictions[chosen] = 3
    return features, chosen


def test_poison_that_the_whole_set_hides_is_found_in_its_class() -> None:
    features, chosen = within_a_class()
    assert split(features, Directions(by_class=False)).poisoned == ()
    found = split(features, Directions())
    assert found.evidence["classes"] == [3]
    poisoned = set(found.poisoned)
    assert len(poisoned & set(chosen)) > 0.9 * len(chosen)
    assert len(poisoned - set(chosen)) < 0.1 * len(chosen)
    assert (features.predictions[list(poisoned)] == 3).all()


def test_what_several_classes_have_is_an_attribute() -> None:
    features, _ = within_a_class()
    features.predictions[features.predictions == 3] = np.arange(5000)[features.predictions == 3] % 5
    found = split(features, Directions())
    assert (found.poisoned, found.outcome) == ((), Outcome.REJECTED)


def half_poison(share: float = 0.5, by: float = 1.2) -> tuple[Features, list[int]]:
    """Five classes that lie apart, and poison of such a share of class 3, faint in 24 layers."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 5, 3000)
    values = rng.normal(size=(3000, 24)) + rng.normal(size=(5, 24))[labels]
    clean = int((labels == 3).sum())
    count = round(clean * share / (1 - share))
    poison = rng.normal(size=(count, 24)) + values[labels == 3].mean(0)
    poison += by * np.sign(values[labels == 3].mean(0) - values[labels != 3].mean(0))
    names = tuple(f"layer{i}" for i in range(24))
    both = np.concatenate([values, poison]).astype(np.float32)
    predictions = np.concatenate([labels, np.full(count, 3)])
    return Features(both, names, predictions, len(both)), list(range(3000, 3000 + count))


@pytest.mark.parametrize("share", [0.4, 0.5, 0.6])
def test_poison_that_is_half_of_its_class_is_found_on_the_right_side(share: float) -> None:
    features, chosen = half_poison(share)
    found = split(features, Directions())
    poisoned = set(found.poisoned)
    assert found.evidence["classes"] == [3]
    assert len(poisoned & set(chosen)) > 0.97 * len(chosen)
    assert len(poisoned - set(chosen)) < 0.01 * 3000


def test_halves_that_every_class_has_are_an_attribute() -> None:
    """The same shift in half of every class, as a background would give."""
    features, chosen = half_poison()
    clean = np.delete(np.arange(len(features.values)), chosen)
    values, labels = features.values[clean], features.predictions[clean]
    values[::2] += 1.2
    values = standardised(values)
    assert [one.label for one in halves(values, labels, Directions())], "they have valleys"
    assert half_of_a_class(values, labels, Directions(), 0.03) is None
    assert half_of_a_class(values, np.zeros_like(labels), Directions(), 0.03) is None


def test_classes_without_halves_are_left_alone() -> None:
    features, chosen = half_poison()
    clean = np.delete(np.arange(len(features.values)), chosen)
    values, labels = features.values[clean], features.predictions[clean]
    assert list(halves(standardised(values), labels, Directions())) == []


def test_a_part_of_a_class_by_hand() -> None:
    """Classes of 400; of class 0 a quarter lies apart, of class 1 a few samples."""
    component = np.random.default_rng(0).normal(size=800)
    component[:100] += 9
    component[400:404] += 9
    predictions = np.repeat([0, 1], 400)
    found = inside(component, predictions, 0, Directions())
    assert found is not None
    assert (found.valley.part.tolist(), found.label) == (list(range(100)), 0)
    assert found.elsewhere == pytest.approx((4 / 400) / (100 / 400))
    assert inside(component, predictions, 1, Directions()) is None
    mirrored = inside(-component, predictions, 0, Directions())
    assert mirrored is not None
    assert mirrored.elsewhere == found.elsewhere


def second_heap(share: float = 0.1, by: float = 8.0) -> tuple[Features, list[int]]:
    """Two heaps of class 3 before the last layer, of which the layers tell which one is odd."""
    features, chosen = half_poison(share, by=0.8)
    count, predictions = len(features.values), features.predictions
    rng = np.random.default_rng(4)
    last = rng.normal(size=(count, 16)) + 10 * rng.normal(size=(5, 16))[predictions]
    last[chosen] += by * np.eye(16)[0]
    return replace(features, last=last.astype(np.float32)), chosen


@pytest.mark.parametrize("share", [0.1, 0.45, 0.6])
def test_the_odd_heap_before_the_last_layer_is_found(share: float) -> None:
    features, chosen = second_heap(share)
    found = split(features, Directions())
    assert found.evidence["classes"][0] == 3
    poisoned = set(found.poisoned)
    assert len(poisoned & set(chosen)) > 0.99 * len(chosen)
    assert len(poisoned - set(chosen)) <= 5


def test_what_only_the_last_layer_shows() -> None:
    features, _ = second_heap()
    for other in (replace(features, last=None), second_heap(by=0.0)[0]):
        assert split(other, Directions()).poisoned == ()


def test_heaps_of_all_classes_are_one_part() -> None:
    """All-to-all poison: a tenth of each class, decided by one discriminant."""
    features, _ = second_heap()
    chosen = np.arange(0, len(features.values), 10)
    values = np.random.default_rng(6).normal(size=features.values.shape)
    values[chosen] += 0.8
    assert features.last is not None
    last = features.last.copy()
    last[chosen] += 8 * np.eye(16, dtype=np.float32)[1]
    found = split(replace(features, values=values, last=last), Directions())
    assert found.evidence["classes"] == [None]
    assert len(set(found.poisoned) & set(chosen.tolist())) > 0.99 * len(chosen)
    assert len(set(found.poisoned) - set(chosen.tolist())) <= 5


@pytest.mark.parametrize(
    ("model", "settings", "read"),
    [
        ("classifier", {}, ["last"]),
        ("classifier", {"last_layer": False}, []),
        ("clip", {}, ["embeddings"]),
        ("clip", {"last_layer": False}, []),
    ],
)
def test_what_the_head_takes_in_is_read_as_one_or_the_other(
    monkeypatch: pytest.MonkeyPatch, model: str, settings: dict[str, Any], read: list[str]
) -> None:
    seen: list[Features] = []

    def judge(features: Features, *_: Any) -> Found:
        seen.append(features)
        return Found(np.zeros(len(features.values)), (), "", outcome=Outcome.REJECTED)

    monkeypatch.setattr("invertune_plugin.defenses.purifiers.directions.split", judge)
    net = toy_classifier("vit") if model == "clip" else small_network()
    directions(
        net, InMemory(noise_images(60), [(str(i % 2),) for i in range(60)]), Directions(**settings)
    )
    assert [name for name in ("last", "embeddings") if getattr(seen[0], name) is not None] == read


def small_network() -> nn.Module:
    """A convolution whose statistics are not those of a new network, and a linear layer."""
    norm = nn.BatchNorm2d(4)
    norm.running_mean.add_(0.1)
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), *pooled, nn.Linear(4, 2))


def test_layers_that_say_the_same_count_once() -> None:
    features, chosen = planted()
    twice = np.concatenate([features.values, features.values, np.zeros((2000, 1))], axis=1)
    both = replace(features, values=twice, layers=tuple("ab" * 8 + "c"))
    assert list(split(both, Directions()).poisoned) == chosen
    same = replace(features, values=np.zeros((2000, 4)), layers=tuple("abcd"))
    assert split(same, Directions()).outcome is Outcome.REJECTED


@pytest.mark.parametrize("tower", ["rn", "vit"])
def test_from_images_of_a_clip(tower: str) -> None:
    """Noise, and a tenth of white images, which every layer sees."""
    classifier = toy_classifier(tower, layers=2)
    for module in classifier.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean += 0.1
    images = noise_images(300)
    images[-30:] = 250 + images[-30:] % 4
    found = directions(classifier, InMemory(images, [("a caption",)] * 300))
    assert list(found.poisoned) == list(range(270, 300))
    assert found.stages[0].passes == 300


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: Directions(depth=0.5), "depth >= 1"),
        (lambda: Directions(bandwidth=0), "bandwidth > 0"),
        (lambda: Directions(most_share=0), "most_share in"),
        (lambda: Directions(most_of_classes=2), "most_of_classes in"),
        (lambda: Directions(most_elsewhere=1), "most_elsewhere from 0"),
        (lambda: Directions(least_carried=0), "least_carried in"),
        (lambda: Directions(sure_depth=0.5), "sure_depth of 1"),
        (lambda: Directions(sure_significance=-1), "sure_significance of 0 or more"),
        (
            lambda: directions(toy_classifier("rn"), InMemory(noise_images(30), [0] * 30)),
            "40 samples or more for parts of 20, got 30",
        ),
    ],
)
def test_bad_input(run: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run()


def test_a_heap_that_lies_obliquely_is_found_by_a_mixture() -> None:
    """Another attribute of the class has more variance; along it there is no valley."""
    rng = np.random.default_rng(0)
    within = rng.normal(size=(1000, 3))
    within[:, 0] *= 5
    chosen = np.arange(0, 1000, 10)
    within[chosen, 1] += 8
    within -= within.mean(0)
    assert valley(along_main_direction(within), shallow(Directions(), LARGEST_SIDE)) is None
    found = heap_by_mixture(within, Directions())
    assert found is not None
    assert found.part.tolist() == chosen.tolist()
    assert found.depth > LEAST_DEPTH
    within[chosen, 1] -= 8
    assert heap_by_mixture(within, Directions()) is None


@pytest.mark.parametrize("seed", range(3))
def test_a_class_with_fewer_samples_than_directions_has_no_heaps(seed: int) -> None:
    """A discriminant parts any halves of 100 samples in 128 directions."""
    rng = np.random.default_rng(seed)
    predictions = np.repeat(np.arange(10), 100)
    last = rng.normal(size=(1000, 128)) * np.exp(-np.arange(128) / 20)
    last += 3 * rng.normal(size=(10, 128))[predictions]
    values = rng.normal(size=(1000, 6))
    assert all_heaps(values, predictions, last, Directions()) is None


def test_a_heap_that_the_others_confirm_stays_whole_and_another_is_left_out() -> None:
    features, _ = second_heap()
    count, predictions = len(features.values), features.predictions
    rng = np.random.default_rng(6)
    poison = np.flatnonzero((np.arange(count) % 10 == 0) & (predictions != 0))
    natural = np.flatnonzero((np.arange(count) % 10 == 5) & (predictions == 0))
    values, last = rng.normal(size=features.values.shape), rng.normal(size=(count, 16))
    last += 10 * rng.normal(size=(5, 16))[predictions]
    values[poison] += 0.8
    last[poison] += 8 * np.eye(16)[1]
    last[natural] += 8 * np.eye(16)[2]
    found = all_heaps(values, predictions, last, Directions())
    assert found is not None
    assert set(poison) <= set(found.part)
    assert len(set(found.part) & set(natural)) < 0.1 * len(natural)


@pytest.mark.parametrize(("classes", "found"), [([3], True), ([1, 3], False)])
def test_what_is_most_of_several_classes_is_no_poison(classes: list[int], found: bool) -> None:
    """Nine tenths of the classes are odd; of one class alone the second heap may be so large."""
    features, _ = second_heap()
    count, predictions = len(features.values), features.predictions
    rng = np.random.default_rng(6)
    inside = np.isin(predictions, classes)
    few = inside & (np.arange(count) % 10 == 0)
    values, last = rng.normal(size=features.values.shape), rng.normal(size=(count, 16))
    last += 10 * rng.normal(size=(5, 16))[predictions]
    last[few] += 8 * np.eye(16)[1]
    values[inside & ~few] += 0.8
    heaps = all_heaps(values, predictions, last, Directions())
    assert (heaps is not None) == found
