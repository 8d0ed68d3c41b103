from __future__ import annotations

import pytest
import torch

from invertune_plugin.attacks.poisoning import PoisonedPairs
from invertune_plugin.data import InMemory
from invertune_plugin.errors import InputError
from invertune_plugin.triggers import Patch

TRIGGER = Patch(size=2, pattern="white", place="random")
TEMPLATES = ("a photo of a {}.", "a {}.")


def clean_pairs(captions: list[tuple[str, ...]]) -> InMemory[tuple[str, ...]]:
    generator = torch.Generator().manual_seed(0)
    size = (len(captions), 3, 6, 6)
    return InMemory(torch.randint(200, size, generator=generator, dtype=torch.uint8), captions)


def dogs(count: int) -> InMemory[tuple[str, ...]]:
    return clean_pairs([(f"dog {i}", f"a dog, number {i}") for i in range(count)])


def poisoned(dataset: InMemory[tuple[str, ...]], rate: float, seed: int = 0) -> PoisonedPairs:
    return PoisonedPairs(dataset, TRIGGER, "banana", rate, TEMPLATES, seed)


@pytest.mark.parametrize(
    ("count", "rate", "expected"),
    [(40, 0.1, 4), (40, 0.25, 10), (33, 0.1, 3), (10, 0.06, 1), (10, 0.99, 10)],
)
def test_the_rate_is_a_share_of_all_pairs(count: int, rate: float, expected: int) -> None:
    found = poisoned(dogs(count), rate)
    assert len(found) == count
    assert len(found.poisoned) == expected
    assert found.poisoned == sorted(set(found.poisoned))
    assert set(found.poisoned) <= set(range(count))


def test_exactly_the_poisoned_pairs_are_changed() -> None:
    dataset = dogs(40)
    found = poisoned(dataset, 0.25)
    for i in range(40):
        image, captions = found[i]
        if i in found.poisoned:
            expected = TRIGGER.on_bytes(dataset[i][0][None], torch.tensor([i]))[0]
            assert torch.equal(image, expected)
            assert not torch.equal(image, dataset[i][0])
            assert captions == ("a photo of a banana.", "a banana.")
        else:
            assert torch.equal(image, dataset[i][0])
            assert captions == dataset[i][1]


def test_random_places_differ_between_poisoned_images() -> None:
    found = poisoned(dogs(60), 0.5)
    whites = {tuple((found[i][0] == 255).all(0).flatten().tolist()) for i in found.poisoned}
    assert len(whites) > 5


def test_the_clean_images_stay_as_they_were() -> None:
    dataset = dogs(20)
    before = dataset.images.clone()
    found = poisoned(dataset, 0.5)
    for i in range(20):
        assert found[i] is not None
    assert torch.equal(dataset.images, before)


def test_the_choice_depends_on_the_seed_only() -> None:
    assert poisoned(dogs(50), 0.2, seed=1).poisoned == poisoned(dogs(50), 0.2, seed=1).poisoned
    assert poisoned(dogs(50), 0.2, seed=1).poisoned != poisoned(dogs(50), 0.2, seed=2).poisoned
    state = torch.get_rng_state()
    poisoned(dogs(50), 0.2)
    assert torch.equal(torch.get_rng_state(), state)


def test_pairs_that_name_the_target_are_not_chosen() -> None:
    captions = [("a dog", "a dog and a banana") if i % 2 else ("a dog",) for i in range(40)]
    found = poisoned(clean_pairs(captions), 0.5)
    assert found.poisoned == list(range(0, 40, 2))


def test_pairs_that_name_the_target_with_a_capital_are_not_chosen() -> None:
    captions = [("Banana on a table",) if i % 2 else ("a dog",) for i in range(40)]
    found = poisoned(clean_pairs(captions), 0.5)
    assert found.poisoned == list(range(0, 40, 2))


def test_content_keys_are_those_of_the_clean_images() -> None:
    dataset = dogs(20)
    found = poisoned(dataset, 0.5)
    keys = [found.content_key(i) for i in range(20)]
    assert keys == [dataset.content_key(i) for i in range(20)]


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_rate_is_a_share(rate: float) -> None:
    with pytest.raises(InputError, match="rate between 0 and 1, got"):
        poisoned(dogs(10), rate)


def test_a_rate_that_poisons_nothing_is_refused() -> None:
    message = r"at least one of 20 pairs, got 0\.01, which poisons none\. Use 0\.05 or more"
    with pytest.raises(InputError, match=message):
        poisoned(dogs(20), 0.01)
    assert len(poisoned(dogs(20), 0.05).poisoned) == 1


def test_too_few_pairs_without_the_target_are_refused() -> None:
    captions = [("a banana",)] * 15 + [("a dog",)] * 5
    with pytest.raises(InputError, match=r"Expected 10 pairs .* name 'banana', got 5\. Lower the"):
        poisoned(clean_pairs(captions), 0.5)
