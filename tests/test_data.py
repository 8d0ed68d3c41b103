from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from toys import noise_images

from invertune_plugin.adapters.datasets import image_set
from invertune_plugin.data import (
    ClassCaptions,
    Concat,
    InMemory,
    Replaced,
    Subset,
    batches,
    in_memory,
    split_by_content,
    texts_of,
    to_unit,
)
from invertune_plugin.errors import InputError


def images_of(levels: list[int]) -> InMemory[int]:
    """Flat grey images whose label is their grey level."""
    grey = torch.tensor(levels, dtype=torch.uint8)[:, None, None, None]
    return InMemory(grey.expand(-1, 3, 2, 2).contiguous(), levels)


def test_images_that_are_no_bytes_are_refused() -> None:
    assert to_unit(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx(
        [0, 0.2, 1]
    )
    with pytest.raises(InputError, match=r"uint8 images .* got torch\.float32\. Load them"):
        to_unit(torch.rand(1, 3, 4, 4))


def test_in_memory_needs_one_text_per_image() -> None:
    with pytest.raises(InputError, match="one text per image, got 2 images and 1 texts"):
        InMemory(torch.zeros(2, 3, 2, 2, dtype=torch.uint8), [0])


def test_keys_are_equal_for_equal_images_only() -> None:
    dataset = images_of([5, 6, 5])
    assert dataset.content_key(0) == dataset.content_key(2)
    assert dataset.content_key(0) != dataset.content_key(1)
    assert dataset.content_key(0) == bytes([5] * 12)


def test_a_subset_keeps_order_repeats_and_keys() -> None:
    dataset = images_of([10, 11, 12, 13])
    subset = Subset(dataset, [3, 0, 3])
    assert len(subset) == 3
    assert [label for _, label in subset] == [13, 10, 13]
    assert [subset.content_key(i) for i in range(3)] == [dataset.content_key(i) for i in (3, 0, 3)]
    assert Subset(subset, [1])[0][1] == 10


def test_replaced_images_have_one_index_whatever_counts_it() -> None:
    other = torch.full((3, 2, 2), 9, dtype=torch.uint8)
    replaced = Replaced(images_of([0, 1, 2, 3]), {3: other})
    for index in (3, -1, torch.tensor(3), np.int64(3)):
        image, label = replaced[index]  # type: ignore[index]
        assert torch.equal(image, other)
        assert label == 3
    with pytest.raises(IndexError):
        replaced[4]


def test_concat_is_one_behind_the_other() -> None:
    first, empty, second = images_of([1, 2]), images_of([]), images_of([3])
    both = Concat([first, empty, second])
    assert len(both) == 3
    assert [both[i][1] for i in range(3)] == [1, 2, 3]
    assert both.content_key(2) == second.content_key(0)
    assert torch.equal(both[1][0], first[1][0])


def test_class_captions_fill_every_template() -> None:
    pairs = ClassCaptions(images_of([1, 0]), ["cat", "dog"], ["a {}.", "the {}"])
    assert len(pairs) == 2
    assert pairs[0][1] == ("a dog.", "the dog")
    assert pairs[1][1] == ("a cat.", "the cat")
    assert pairs[0][0].unique().tolist() == [1]
    assert pairs.content_key(0) == bytes([1] * 12)


def test_a_split_is_disjoint_complete_and_of_the_asked_size() -> None:
    levels = list(range(250))
    parts = split_by_content(images_of(levels), {"a": 0.5, "b": 0.3, "c": 0.2})
    found = {name: [label for _, label in part] for name, part in parts.items()}
    assert sorted(found["a"] + found["b"] + found["c"]) == levels
    assert 100 <= len(found["a"]) <= 150
    assert 50 <= len(found["b"]) <= 100
    assert 25 <= len(found["c"]) <= 75


def test_shares_below_one_leave_images_out() -> None:
    parts = split_by_content(images_of(list(range(250))), {"a": 0.2, "b": 0.2})
    assert 60 <= len(parts["a"]) + len(parts["b"]) <= 140


def test_equal_images_fall_into_the_same_part_of_every_data_set() -> None:
    shares = {"defence": 0.3, "test": 0.7}
    first = split_by_content(images_of([*range(100), *range(100)]), shares)
    second = split_by_content(images_of(list(range(99, 49, -1))), shares)
    defence = {label for _, label in first["defence"]}
    assert len(first["defence"]) == 2 * len(defence), "both copies"
    assert not defence & {label for _, label in first["test"]}
    assert {label for _, label in second["defence"]} == {y for y in defence if y >= 50}


def test_a_split_is_the_same_every_time_and_another_with_another_salt() -> None:
    dataset, shares = images_of(list(range(200))), {"a": 0.5, "b": 0.5}
    split = split_by_content(dataset, shares)
    assert split_by_content(dataset, shares)["a"].indices == split["a"].indices
    assert split_by_content(dataset, shares, "salt")["a"].indices != split["a"].indices
    assert split["a"].indices[:8] == sorted(split["a"].indices)[:8]


@pytest.mark.parametrize("shares", [{"a": 0.0}, {"a": -0.1, "b": 0.5}, {"a": 0.6, "b": 0.5}])
def test_shares_that_are_none_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(InputError, match="positive shares that sum to at most 1"):
        split_by_content(images_of([1]), shares)


def test_shares_may_sum_to_one_with_rounding() -> None:
    tenth = {str(i): 0.1 for i in range(10)}
    parts = split_by_content(images_of(list(range(50))), tenth)
    assert sum(len(part) for part in parts.values()) == 50


@pytest.mark.parametrize(("size", "lengths"), [(2, [2, 2, 1]), (5, [5]), (9, [5])])
def test_batches_go_through_in_order(size: int, lengths: list[int]) -> None:
    found = list(batches(images_of([1, 2, 3, 4, 5]), size))
    assert [len(images) for images, _ in found] == lengths
    assert [label for _, labels in found for label in labels] == [1, 2, 3, 4, 5]
    assert torch.cat([images for images, _ in found])[:, 0, 0, 0].tolist() == [1, 2, 3, 4, 5]
    assert found[0][0].dtype == torch.uint8


def test_an_empty_data_set_has_no_batches() -> None:
    assert list(batches(images_of([]), 3)) == []


def test_units_are_of_255() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    unit = to_unit(levels)
    assert unit.dtype == torch.float32
    assert unit[[0, 51, 255]].tolist() == pytest.approx([0.0, 0.2, 1.0])
    assert levels[255] == 255, "the input stays"
    assert torch.equal(unit.mul(255).round().to(torch.uint8), levels)


def test_a_decoded_copy_is_the_same_data_set() -> None:
    dataset = Subset(images_of([4, 5, 6]), [2, 0])
    copy = in_memory(dataset)
    assert copy.images.shape == (2, 3, 2, 2)
    assert [label for _, label in batches(copy, 2)] == [[6, 4]]
    assert copy.content_key(0) == dataset.content_key(0)
    assert torch.equal(copy[1][0], dataset[1][0])


def test_a_decoded_folder_falls_into_the_same_parts(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        image = Image.fromarray(noise_images(20, 12)[i].permute(1, 2, 0).numpy())
        image.save(tmp_path / "ab"[i % 2] / f"{i}.png")
    folder = image_set(tmp_path, 8)
    shares = {"one": 0.5, "two": 0.5}
    first, second = (split_by_content(s, shares) for s in (folder, in_memory(folder)))
    assert [list(first[n].indices) for n in shares] == [list(second[n].indices) for n in shares]


def test_nothing_is_not_decoded() -> None:
    with pytest.raises(InputError, match="got an empty data set"):
        in_memory(images_of([]))


@pytest.mark.parametrize("templates", [[], ["a photo"], ["{} {}"]])
def test_templates_that_do_not_name_the_class_are_refused(templates: list[str]) -> None:
    with pytest.raises(InputError, match=r"or more templates|one \{\} for the class name"):
        ClassCaptions(images_of([0]), ["cat"], templates)


def test_every_caption_is_read_or_refused() -> None:
    pairs = ClassCaptions(images_of([0, 1, 5]), ["cat", "dog"], ["a {}."])
    assert len(list(texts_of(Subset(pairs, [0, 1])))) == 2
    with pytest.raises(InputError, match="labels below 2, one for each class name, got 5"):
        list(texts_of(pairs))


def test_texts_of_a_class_caption_set_are_those_of_its_items() -> None:
    images = InMemory(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), [0, 1, -1, 1])
    pairs = ClassCaptions(images, ["cat", "dog"], ["a {}."])
    assert texts_of(pairs)[1] == pairs[1][1] == ("a dog.",)
    assert texts_of(pairs)[0:2] == [("a cat.",), ("a dog.",)]
    with pytest.raises(InputError, match="image 2 without a label"):
        _ = texts_of(pairs)[2]
    with pytest.raises(IndexError):
        _ = texts_of(pairs)[4]
