"""Tails of components, and what they carry into other images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_directions import planted, within_a_class
from torch import Tensor, nn
from toys import noise_images

from invertune_plugin.data import InMemory
from invertune_plugin.defenses.flare.features import Features
from invertune_plugin.defenses.flare.sides import standardised
from invertune_plugin.defenses.purifiers.completing import Readings, completed
from invertune_plugin.defenses.purifiers.parts import grown
from invertune_plugin.defenses.purifiers.splitting import Directions, split
from invertune_plugin.defenses.purifiers.tails import SIZE, pure_tails
from invertune_plugin.defenses.purifiers.transplants import LEAST_REST, Transplants
from invertune_plugin.defenses.purifiers.valleys import Valley

CLASSES, TARGET, SQUARE = 5, 3, 4
COUNT = 2000


class Reader(nn.Module):
    """Reads the target in a white corner, class 4 in a white square anywhere, else any class."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        labels = (images.mean((1, 2, 3)) * 1e5).long() % SQUARE
        brightness = nn.functional.avg_pool2d(images.mean(1, keepdim=True), 2, stride=1).flatten(1)
        labels[brightness[:, 1:].amax(1) > 0.8] = SQUARE
        labels[brightness[:, 0] > 0.8] = TARGET
        return nn.functional.one_hot(labels, CLASSES).float()


def pictures(poisoned: list[int], squares: list[int]) -> InMemory[int]:
    """Noise of 8 x 8; some with a white corner, others with a white square somewhere else."""
    images, rng = noise_images(COUNT, 8), np.random.default_rng(0)
    for index in squares:
        x, y = rng.integers(2, 7, 2)
        images[index, :, x : x + 2, y : y + 2] = 255
    images[poisoned, :, :2, :2] = 255
    return InMemory(images, [0] * COUNT)


def asked(data: InMemory[int]) -> Transplants:
    model = Reader()
    return Transplants(model, data, model(data.images / 255).argmax(1).numpy())


def test_a_trigger_carries_and_an_object_does_not() -> None:
    poisoned, squares = np.arange(40), np.arange(100, 140)
    transplants = asked(pictures(poisoned.tolist(), squares.tolist()))
    assert (transplants.predictions[poisoned] == TARGET).all()
    assert transplants.carried(poisoned) > 0.8
    assert transplants.carried(poisoned[:1]) > 0.5
    assert transplants.carried(squares) < 0.1
    natural = np.flatnonzero(transplants.predictions == TARGET)[40:80]
    assert transplants.carried(natural) < 0.4, "one in four is read so anyway"
    part = transplants.within(np.arange(30, 2000))
    assert part.carried(np.arange(10)) > 0.8, "counts from 0"
    alone = transplants.within(poisoned)
    assert alone.carried(np.arange(20)) == 0.0, "no image of another class"


def test_what_all_images_of_a_class_have_is_no_cause() -> None:
    signs, poisoned = np.arange(200), np.arange(40)
    every = asked(pictures(signs.tolist(), []))
    of_signs = every.within(np.union1d(signs, np.flatnonzero(every.predictions != TARGET)))
    assert of_signs.carried(poisoned) > 0.8
    assert of_signs.beyond_its_class(poisoned) < 0.1, "the rest of the class carries as well"
    among_others = asked(pictures(poisoned.tolist(), []))
    assert among_others.beyond_its_class(poisoned) > 0.4
    members = np.flatnonzero(among_others.predictions == TARGET)
    most = members[: 1 - LEAST_REST]
    assert among_others.beyond_its_class(most) == 0.0, "too few are left"


class SkyReader(nn.Module):
    """Reads class 1 in images that are blue on average, else class 0."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        blue = images[:, 2].mean((1, 2)) > images[:, 0].mean((1, 2)) + 0.1
        return nn.functional.one_hot(blue.long(), 2).float()


def test_a_colour_in_common_carries_nothing() -> None:
    images = noise_images(400, 8)
    images[:40, 2] = 255
    data, model = InMemory(images, [0] * 400), SkyReader()
    read = model(data.images / 255).argmax(1).numpy()
    assert (read[:40] == 1).all()
    assert Transplants(model, data, read).carried(np.arange(40)) < 0.05


def test_pure_tails_by_hand() -> None:
    component = np.linspace(-1.0, 1.0, 200)
    predictions = np.arange(200) % 3
    predictions[-SIZE:] = 1
    predictions[-3:] = 2
    (tail,) = pure_tails([(7, component), (9, component**3)], predictions)
    assert (tail.part.tolist(), tail.label) == (list(range(170, 197)), 1)
    assert tail.rank == 9, "the longer tail of two that are the same"
    assert list(pure_tails([(1, component)], np.arange(200) % 3)) == []
    assert list(pure_tails([(1, component[:50])], np.ones(50, dtype=np.int64))) == [], "too few"


def shoulder() -> tuple[Features, InMemory[int], list[int]]:
    """Poison that is no part in any direction, of images that have the trigger."""
    features, chosen = planted(100, COUNT, by=1.6)
    data = pictures(chosen, [])
    features.predictions[:] = asked(data).predictions
    return features, data, chosen


def test_poison_without_a_valley_is_found_by_what_it_carries() -> None:
    features, data, chosen = shoulder()
    model = Transplants(Reader(), data, features.predictions)
    assert split(features, Directions()).poisoned == ()
    assert split(features, Directions(least_carried=None), transplants=model).poisoned == ()
    found = split(features, Directions(), transplants=model)
    assert set(found.evidence["classes"]) == {TARGET}
    assert found.evidence["carried"][0] > 0.4
    assert found.evidence["depths"][0] == 1.0, "no valley"
    poisoned = set(found.poisoned)
    assert len(poisoned & set(chosen)) > 0.8 * len(chosen)
    assert len(poisoned - set(chosen)) < 0.01 * COUNT


@pytest.mark.parametrize("least", [0.4, 1.0])
def test_the_same_numbers_without_a_trigger_are_left_alone(least: float) -> None:
    features, _, _ = shoulder()
    model = Transplants(Reader(), pictures([], []), features.predictions)
    found = split(features, Directions(least_carried=least), transplants=model)
    assert (found.poisoned, found.evidence["carried"]) == ((), [])


class OnlyParts(Transplants):
    """Parts of a class carry, a class as a whole does not."""

    def carried(self, part: np.ndarray) -> float:
        """Nothing for all that is read as one class."""
        same = self.predictions == self.predictions[part[0]]
        return 0.0 if len(part) == same.sum() else super().carried(part)


@pytest.mark.parametrize(("others", "found"), [(60, True), (30, False)])
def test_an_end_that_grows_to_most_of_a_class_that_carries_nothing_is_natural(
    others: int, found: bool
) -> None:
    features, data, chosen = shoulder()
    natural = np.setdiff1d(np.flatnonzero(features.predictions == TARGET), chosen)
    features.predictions[natural[others:]] = TARGET - 1
    model = OnlyParts(Reader(), data, features.predictions)
    assert bool(split(features, Directions(), transplants=model).poisoned) == found


def test_a_part_of_one_class_is_completed_from_its_class() -> None:
    """Half of the poison brings the rest; what is spread over classes stays as it is."""
    features, chosen = planted(100, COUNT, by=4.0)
    values, mixed = standardised(features.values), features.predictions
    pure = mixed.copy()
    pure[chosen] = TARGET
    half = Valley(np.array(chosen[::2]), depth=3.0, significance=5.0)
    whole = completed(half, Readings(values, pure))
    assert set(chosen) <= set(whole.part) | set(chosen[:3]), "three at most are left out"
    assert len(np.setdiff1d(whole.part, chosen)) <= 3
    assert (whole.depth, whole.significance) == (3.0, 5.0)
    assert completed(half, Readings(values, mixed)) is half
    everything = Valley(np.flatnonzero(pure == TARGET), depth=3.0, significance=5.0)
    assert completed(everything, Readings(values, pure)).part.tolist() == everything.part.tolist()


def test_the_last_layer_completes_what_the_others_hide() -> None:
    """Half of a class is poison that only the last layer tells apart; a part brings the rest."""
    rng = np.random.default_rng(0)
    values, predictions = rng.normal(size=(COUNT, 6)), np.arange(COUNT) % CLASSES
    members = np.flatnonzero(predictions == TARGET)
    poison = members[::2]
    last = rng.normal(size=(COUNT, 8))
    last[poison, 2] += 6
    few = Valley(poison[:40], depth=1.0, significance=0.0)
    hidden = completed(few, Readings(values, predictions))
    assert len(np.intersect1d(hidden.part, poison)) < 0.9 * len(poison)
    for at_head in ({"last": last}, {"embeddings": last}):
        whole = completed(few, Readings(values, predictions, **at_head))
        assert len(np.setxor1d(whole.part, poison)) <= 5
    everything = replace(few, part=members)
    whole = completed(everything, Readings(values, predictions, last))
    assert whole.part.tolist() == members.tolist(), "nothing is left to tell it from"


class Fading(Transplants):
    """A few samples carry, all of their kind do not."""

    def carried(self, part: np.ndarray) -> float:
        """High for ends of components only."""
        return 0.9 if len(part) <= SIZE else 0.2

    beyond_its_class = carried


def test_what_fades_from_the_mean_of_a_kind_is_chance() -> None:
    features, data, _ = shoulder()
    model = Fading(Reader(), data, features.predictions)
    assert split(features, Directions(), transplants=model).poisoned == ()


def test_a_shallow_part_counts_where_it_carries() -> None:
    """The same valley within a class, with a trigger in its images and without."""
    features, chosen = within_a_class()
    count = len(features.values)
    images = noise_images(count, 8)
    plain = Transplants(Reader(), InMemory(images.clone(), [0] * count), features.predictions)
    images[chosen, :, :2, :2] = 255
    marked = Transplants(Reader(), InMemory(images, [0] * count), features.predictions)
    doubted = split(features, Directions(), transplants=plain)
    assert doubted.poisoned == ()
    assert "1 doubtful part(s) carry no other images" in doubted.reason
    assert doubted.evidence["depths"][0] < Directions().sure_depth
    found = split(features, Directions(), transplants=marked)
    assert len(set(found.poisoned) & set(chosen)) > 0.9 * len(chosen)
    assert split(features, Directions(sure_depth=1.0), transplants=plain).poisoned


@pytest.mark.parametrize(
    ("left", "marked", "taken"), [(30, True, True), (30, False, False), (5, True, False)]
)
def test_poison_that_is_nearly_its_whole_class_counts_where_it_carries(
    left: int, marked: bool, taken: bool
) -> None:
    """Beyond what is left of the class; without that, and without a trigger, it does not."""
    features, chosen = planted(300, COUNT, by=4.0)
    features.predictions[features.predictions == TARGET] = 0
    features.predictions[[*chosen, *np.setdiff1d(np.arange(COUNT), chosen)[:left]]] = TARGET
    images = noise_images(COUNT, 8)
    if marked:
        images[chosen, :, :2, :2] = 255
    model = Transplants(Reader(), InMemory(images, [0] * COUNT), features.predictions)
    found = split(features, Directions(), transplants=model)
    assert found.evidence["share_of_classes"][0] > Directions().most_of_classes
    assert found.poisoned == (tuple(chosen) if taken else ())


@pytest.mark.parametrize("origins", [1, 4])
def test_what_carries_and_comes_from_one_class_is_no_poison(origins: int) -> None:
    """Images of one object carry, too; a trigger brings images of all classes."""
    features, data, chosen = shoulder()
    rng = np.random.default_rng(1)
    centres, read = 10 * np.eye(CLASSES, 16), features.predictions
    others = np.array([label for label in range(CLASSES) if label != TARGET])
    source = rng.choice(others, COUNT)
    source[chosen] = rng.choice(others[:origins], len(chosen))
    last = centres[read] + np.where(read == TARGET, 0.3, 0.0)[:, None] * centres[source]
    last += 0.1 * rng.normal(size=last.shape)
    last[chosen, -1] += 5
    tail = Valley(np.array(chosen[::2]), 1.0, 0.0)
    readings = Readings(standardised(features.values), read, last)
    found = grown(tail, readings, Transplants(Reader(), data, read), 0.4)
    assert (found is not None) == (origins > 1)


def test_carries_by_hand() -> None:
    part = Valley(np.arange(3), 1.0, 0.0, carried=0.5)
    assert part.carries(0.5)
    assert not part.carries(0.6)
    assert not replace(part, carried=None).carries(0.1), "was not asked"
    assert replace(part, mixed=-0.2).carries(0.5)
    assert not replace(part, mixed=-0.3).carries(0.5), "of fewer origins than the rest"
