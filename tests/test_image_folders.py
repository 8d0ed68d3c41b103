"""Folders of images, and the classes that their names are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from image_files import write, write_parquet

from invertune_plugin.adapters.class_names import match_names
from invertune_plugin.adapters.class_sets import class_names
from invertune_plugin.adapters.datasets import (
    ImageFolderSet,
    ParquetImages,
    TorchvisionSet,
)
from invertune_plugin.adapters.folder_names import folder_labels, own_names
from invertune_plugin.adapters.images import open_rgb
from invertune_plugin.adapters.writing.folder import write_folder
from invertune_plugin.data import InMemory, mention
from invertune_plugin.errors import InputError


def test_folder_labels_order_and_unreadable_images(folder: Path) -> None:
    images = ImageFolderSet(folder, 24)
    assert images.class_names == ["Traffic_Light", "cat"]
    assert [Path(images.name(i)).name for i in range(len(images))] == [
        "a.png", "b.PNG", "c.png", "d.jpg", "e.bmp", "loose.png",
    ]  # fmt: skip
    assert list(images.texts) == [0, 0, 1, 1, 1, -1]
    assert [path.name for path in images.unreadable] == ["text.png", "truncated.jpg"]
    image, label = images[1]
    assert image.shape == (3, 24, 24)
    assert label == 0


def test_folder_names_are_mapped_to_class_names(folder: Path) -> None:
    images = ImageFolderSet(folder, 24, ["dog", "traffic light"])
    assert list(images.texts) == [1, 1, -1, -1, -1, -1]
    assert images.class_names == ["dog", "traffic light"]


def test_a_folder_of_no_class_among_others_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = ImageFolderSet(folder, 24, ["traffic light", "cart"])
    assert images.unnamed == ["cat"]
    assert "1 of 2 sub-folders" in caplog.text
    assert "'cat' (cart?)" in caplog.text
    caplog.clear()
    ImageFolderSet(folder, 24, ["dog", "car"])
    assert "sub-folders" not in caplog.text, "these folders are no classes at all"


def test_folders_that_write_folder_made_are_the_classes_they_were(tmp_path: Path) -> None:
    names = ["20 km/h", "arrow", "20 km_h", "café"]
    images = InMemory(torch.zeros(8, 3, 4, 4, dtype=torch.uint8), [0, 1, 2, 3] * 2)
    root = write_folder(images, tmp_path / "written", names)
    assert list(ImageFolderSet(root, 4, names).texts) == [0, 0, 1, 1, 2, 2, 3, 3]
    other = ["arrow", "café", "star"]
    assert list(ImageFolderSet(root, 4, other).texts) == [-1, -1, 0, 0, -1, -1, 1, 1]
    assert folder_labels(["0-20_km_h"], ["20 km/h", "20 km_h"]) == [0]
    assert folder_labels(["7-20_km_h"], ["20 km/h", "20 km_h"]) == [-1], "either of two"


def test_the_classes_of_a_written_folder_go_by_their_names(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(11)]
    images = InMemory(torch.zeros(11, 3, 4, 4, dtype=torch.uint8), list(range(11)))
    found = ImageFolderSet(write_folder(images, tmp_path / "written", names), 4)
    assert found.class_names == [name.replace(" ", "_") for name in names]
    assert list(found.texts) == list(range(11))


@pytest.mark.parametrize(
    "folders", [["1-cat", "2-dog"], ["0-cat", "dog"], ["0-cat", "1-cat"], ["0-a", "1-b", "10-c"]]
)
def test_other_folders_keep_their_numbers(folders: list[str]) -> None:
    assert own_names(folders) == folders


def test_all_of_imagenet_may_be_named_by_wordnet() -> None:
    folders = [f"n{number:08}" for number in range(1000)]
    imagenet = class_names("imagenet")
    assert folder_labels(folders, imagenet) == list(range(1000))
    assert folder_labels(folders[:999], imagenet) == [-1] * 999
    assert folder_labels(folders, [*imagenet[1:], "x"]) == [-1] * 1000


def test_match_names_prefers_the_exact_one_and_refuses_doubt() -> None:
    assert match_names(["Top-Hat", "b"], ["top hat", "Top-Hat", "B"]) == [1, 2]
    with pytest.raises(InputError, match="fit one class name"):
        match_names(["TOP_HAT"], ["top hat", "Top-Hat"])


def test_repeated_names_stay_apart() -> None:
    twice = ["missile", "cat", "missile"]
    assert match_names(twice, twice) == [0, 1, 2]
    assert match_names(["cat", *twice], twice) == [1, 0, 1, 2]
    assert match_names(["missile"] * 3, ["cat", "missile"]) == [1, 1, 1]
    imagenet = class_names("imagenet")
    assert match_names(imagenet, imagenet) == list(range(1000))


@pytest.mark.parametrize(
    ("caption", "name", "named"),
    [
        ("a photo of a kite (bird of prey).", "kite (bird of prey)", True),
        ("my C++ book", "c++", True),
        ("a category", "cat", False),
        ("a cat.", "cat", True),
        ("wildcat_2", "cat", False),
    ],
)
def test_mentions_of_names_that_end_in_no_letter(caption: str, name: str, named: bool) -> None:
    assert mention(("nothing", caption), name) is named


def test_too_few_readable_images_are_refused_with_names_and_counts(folder: Path) -> None:
    assert len(ImageFolderSet(folder, 24, min_images=6)) == 6
    with pytest.raises(InputError, match=r"at least 7 readable .* got 6 of 8") as error:
        ImageFolderSet(folder, 24, min_images=7)
    assert "cat/text.png (15 bytes: no image format that Pillow knows)" in str(error.value)
    assert "bytes: image file is truncated" in str(error.value)


def test_missing_and_empty_folders_say_what_is_accepted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing there\. Accepted: \.bmp, \.jpeg, \.jpg"):
        ImageFolderSet(tmp_path / "none", 24)
    write(tmp_path / "notes.txt", b"x")
    with pytest.raises(InputError, match=r"got 1 files of other kinds\. Accepted: .*\.webp"):
        ImageFolderSet(tmp_path, 24)


def test_links_are_followed_but_not_in_circles(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "linked"
    root.mkdir()
    (root / "one").symlink_to(folder / "cat", target_is_directory=True)
    (root / "two").symlink_to(folder / "cat", target_is_directory=True)
    (root / "self").symlink_to(root, target_is_directory=True)
    assert list(ImageFolderSet(root, 24).texts) == [0, 0, 0, 1, 1, 1]


def test_equal_pixels_have_equal_keys_in_every_kind_of_set(folder: Path, tmp_path: Path) -> None:
    from torchvision.datasets import DatasetFolder

    images = ImageFolderSet(folder, 24)
    assert images.content_key(2) == images.content_key(4)
    assert len({images.content_key(i) for i in range(len(images))}) == 5
    data = [images.encoded(i) for i in range(len(images))]
    parquet = ParquetImages(write_parquet(tmp_path / "x.parquet", data, [0, 0, 1, 1, 1, None]), 48)
    vision = TorchvisionSet(
        DatasetFolder(str(folder), loader=open_rgb, is_valid_file=lambda path: "a.png" in path,
                      allow_empty=True),
        24,
    )  # fmt: skip
    assert [parquet.content_key(i) for i in range(6)] == [images.content_key(i) for i in range(6)]
    assert vision.content_key(0) == images.content_key(0)
    assert torch.equal(vision[0][0], images[0][0])
    assert vision.class_names[-2:] == ["Traffic_Light", "cat"]


def test_torchvision_set_asks_for_pil_images() -> None:
    with pytest.raises(InputError, match=r"Expected PIL images .* got Tensor.*transform=None"):
        TorchvisionSet([(torch.zeros(3, 8, 8), 0)], 8)[0]
