"""Poisoned classification sets and the test images of their backdoors."""

from __future__ import annotations

import pytest
import torch

from invertune_plugin.attacks.backdoors import Backdoor
from invertune_plugin.attacks.label_rules import (
    AllToAll,
    AllToOne,
    CleanLabel,
    LabelRule,
    Untargeted,
)
from invertune_plugin.attacks.labels import PoisonedLabels
from invertune_plugin.data import InMemory
from invertune_plugin.errors import InputError
from invertune_plugin.triggers import Blend, Patch

PATCH = Patch(size=2, pattern="white", place="random")
CLASSES = 5


def images(count: int = 100, seed: int = 0) -> InMemory[int]:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(200, (count, 3, 6, 6), generator=generator, dtype=torch.uint8)
    return InMemory(pixels, [i % CLASSES for i in range(count)])


def poison(*rules: LabelRule, rate: float = 0.2, seed: int = 0) -> PoisonedLabels:
    return PoisonedLabels(images(), [Backdoor(PATCH, rule) for rule in rules], rate, seed)


def labels(found: PoisonedLabels) -> list[int]:
    return [found[i][1] for i in found.poisoned]


@pytest.mark.parametrize(
    "rule", [AllToOne(3), AllToAll(CLASSES), Untargeted(CLASSES), CleanLabel(3)], ids=repr
)
def test_exactly_the_poisoned_images_are_changed(rule: LabelRule) -> None:
    found, clean = poison(rule), images()
    assert len(found.poisoned) == (4 if rule.clean_label else 20)
    assert found.poisoned == sorted(set(found.poisoned))
    assert found.originals == [clean.texts[i] for i in found.poisoned]
    assert found.targets == dict(zip(found.poisoned, labels(found), strict=True))
    assert list(found.texts) == [found[i][1] for i in range(100)]
    for i in range(100):
        changed = not torch.equal(found[i][0], clean[i][0])
        assert changed == (i in found.poisoned)
        if not changed:
            assert found[i][1] == clean[i][1]
        assert found.content_key(i) == clean.content_key(i)


def test_whatever_counts_an_item_it_is_the_same() -> None:
    """A tensor of indices must not give the clean images of poisoned items."""
    found = poison(AllToOne(3))
    for i in (found.poisoned[0], 99):
        image, label = found[i]
        for index in (torch.tensor(i), i - len(found)):
            assert torch.equal(found[index][0], image)  # type: ignore[index]
            assert found[index][1] == label  # type: ignore[index]
    with pytest.raises(IndexError):
        found[100]


def test_labels_of_the_modes() -> None:
    one = poison(AllToOne(3))
    assert set(labels(one)) == {3}
    assert 3 not in one.originals
    every = poison(AllToAll(CLASSES))
    assert labels(every) == [(label + 1) % CLASSES for label in every.originals]
    free = poison(Untargeted(CLASSES), rate=0.9)
    assert all(a != b for a, b in zip(labels(free), free.originals, strict=True))
    assert len(set(zip(labels(free), free.originals, strict=True))) == CLASSES * (CLASSES - 1)
    assert labels(free) == labels(poison(Untargeted(CLASSES), rate=0.9))
    assert labels(free) != labels(poison(Untargeted(CLASSES, seed=1), rate=0.9))
    clean = poison(CleanLabel(3), rate=1.0)
    assert set(labels(clean)) == set(clean.originals) == {3}
    assert len(clean.poisoned) == 20


def test_several_targets_share_equally() -> None:
    found = poison(AllToOne(1), AllToOne(2), rate=0.3)
    numbers = list(found.backdoor_of.values())
    assert numbers.count(0) == numbers.count(1) == 15
    assert all(found.targets[i] == n + 1 for i, n in found.backdoor_of.items())
    clean = poison(CleanLabel(1), CleanLabel(2), rate=0.5)
    assert all(clean.originals[k] == clean.backdoor_of[i] + 1
               for k, i in enumerate(clean.poisoned))  # fmt: skip
    assert len(clean.poisoned) == 20


def test_images_without_a_label_are_never_poisoned() -> None:
    some = InMemory(images().images, [-1 if i % 2 else 0 for i in range(100)])
    for rule in (AllToOne(1), AllToAll(2), Untargeted(2)):
        found = PoisonedLabels(some, [Backdoor(PATCH, rule)], 0.4)
        assert all(i % 2 == 0 for i in found.poisoned)


@pytest.mark.parametrize(
    ("rule", "count"),
    [(AllToOne(3), 80), (CleanLabel(3), 80), (AllToAll(CLASSES), 100), (Untargeted(CLASSES), 100)],
    ids=repr,
)
def test_the_test_view_triggers_all_images(rule: LabelRule, count: int) -> None:
    test = images(seed=1)
    view = PoisonedLabels(images(), [Backdoor(PATCH, rule)], 0.2).test_view(test)
    assert len(view) == len(view.originals) == len(view.texts) == count
    for place, i in enumerate(view.indices):
        image, label = view[place]
        assert torch.equal(image, PATCH.on_bytes(test[i][0][None], torch.tensor([i]))[0])
        assert label == view.texts[place] == rule.label(test[i][1], i)
        assert label != view.originals[place] == test[i][1]
        assert view.content_key(place) == test.content_key(i)


def test_a_test_view_per_backdoor() -> None:
    backdoors = [Backdoor(PATCH, AllToOne(1)), Backdoor(Blend(), AllToOne(2))]
    found = PoisonedLabels(images(), backdoors, 0.2)
    assert set(found.test_view(images(), 1).texts) == {2}
    with pytest.raises(InputError, match=r"backdoor from 0 to 1, got 2\. Name one"):
        found.test_view(images(), 2)
    with pytest.raises(InputError, match=r"all-to-one attack shall change, got none of 1\. Add"):
        found.test_view(InMemory(images().images[:1], [1]))


def test_input_that_cannot_be_used() -> None:
    with pytest.raises(InputError, match=r"label of 0 or more, got -1\. Name a class"):
        AllToOne(-1)
    with pytest.raises(InputError, match=r"two classes or more, got 1\. Add classes"):
        AllToAll(1)
    with pytest.raises(InputError, match=r"labels from 0 to 2, got [34]\. Correct the number"):
        poison(AllToAll(3), rate=0.9)
    with pytest.raises(InputError, match="only clean-label rules or none, got all-to-one, clean-l"):
        poison(AllToOne(1), CleanLabel(2))
    with pytest.raises(InputError, match=r"images of class 7, got none of 100\. Choose another"):
        poison(CleanLabel(7))
    with pytest.raises(InputError, match=r"Expected 90 labelled images that are not .* got 80\."):
        poison(AllToOne(3), rate=0.9)


def test_the_ground_truth_holds_original_labels() -> None:
    found = poison(AllToAll(CLASSES), seed=2)
    truth = found.ground_truth()
    assert [item.original for item in truth.poisoned] == found.originals
    assert [item.target for item in truth.poisoned] == labels(found)
    assert truth.backdoors[0].target == {"mode": "all-to-all", "classes": CLASSES}
