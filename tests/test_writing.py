"""Written data sets: what our readers find in them, their ground truth, and interruptions."""

from __future__ import annotations

import json
import tarfile
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor

from invertune_plugin.adapters.datasets import image_set, pair_set
from invertune_plugin.adapters.encoded import EncodedSet
from invertune_plugin.adapters.images import pixel_key
from invertune_plugin.adapters.shard_samples import captions_of
from invertune_plugin.adapters.writing.folder import write_folder
from invertune_plugin.adapters.writing.parquet import write_parquet
from invertune_plugin.adapters.writing.shards import write_shards
from invertune_plugin.adapters.writing.truth import poisoned_indices, read_ground_truth, truth_path
from invertune_plugin.attacks.backdoors import Backdoor
from invertune_plugin.attacks.ground_truth import GroundTruth, PoisonedItem
from invertune_plugin.attacks.label_rules import AllToOne
from invertune_plugin.attacks.labels import PoisonedLabels
from invertune_plugin.attacks.poisoning import PoisonedPairs
from invertune_plugin.data import Captions, InMemory, Subset
from invertune_plugin.errors import InputError
from invertune_plugin.triggers import Patch

NAMES = ["traffic light", "cat", "dog"]
PATCH = Patch(size=2, pattern="white")
SIZE = 8
Writer = Callable[..., Path]
WRITERS = {"folder": write_folder, "parquet": write_parquet, "webdataset": write_shards}


def pixels(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(200, (count, 3, SIZE, SIZE), generator=generator, dtype=torch.uint8)


def labelled(count: int = 30) -> PoisonedLabels:
    clean = InMemory(pixels(count), [i % 3 for i in range(count)])
    return PoisonedLabels(clean, [Backdoor(PATCH, AllToOne(1))], 0.2, seed=1)


def captioned(count: int = 30) -> PoisonedPairs:
    captions = [
        (f'a dog, "no. {i}"', "zwölf\ttabs;\nand lines") if i % 2 else (f"dog {i}",)
        for i in range(count)
    ]
    return PoisonedPairs(InMemory(pixels(count), captions), PATCH, "cat", 0.2, ("a {}.", "{}"))


@pytest.fixture(params=list(WRITERS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def write(kind: str, tmp_path: Path) -> Callable[..., Path]:
    name = "set.parquet" if kind == "parquet" else "set"
    return lambda dataset, **options: WRITERS[kind](dataset, tmp_path / name, **options)


def specify(kind: str, path: Path) -> Path:
    return path / "*.tar" if kind == "webdataset" else path


def same(found: Any, expected: Any, order: list[int]) -> None:
    assert len(found) == len(expected)
    for place, i in enumerate(order):
        assert torch.equal(found[place][0], expected[i][0])
        assert found[place][1] == expected[i][1]


def test_labelled_images_come_back(kind: str, write: Writer) -> None:
    dataset = labelled()
    path = write(dataset, class_names=NAMES, truth=dataset.ground_truth())
    order = list(range(30))
    if kind == "folder":
        order.sort(key=lambda i: (dataset[i][1], i))
    spec = specify(kind, path)
    same(image_set(spec, SIZE), dataset, order)
    if kind != "folder":
        assert [image_set(spec, SIZE, ["dog", "Cat"])[i][1] for i in range(30)] == [
            {"cat": 1, "dog": 0}.get(NAMES[dataset[i][1]], -1) for i in range(30)
        ]


def test_captioned_images_come_back(kind: str, write: Writer) -> None:
    dataset = captioned()
    path = write(dataset, truth=dataset.ground_truth())
    inside = {"folder": path / "captions.csv", "webdataset": path / "*.tar"}
    same(pair_set(inside.get(kind, path), SIZE), dataset, list(range(30)))


@pytest.mark.parametrize("make", [labelled, captioned])
def test_the_ground_truth_comes_back(
    kind: str, write: Writer, make: Callable[[], PoisonedLabels | PoisonedPairs]
) -> None:
    dataset = make()
    truth = dataset.ground_truth()
    path = write(dataset, class_names=NAMES, truth=truth)
    found = read_ground_truth(path)
    assert read_ground_truth(truth_path(path)) == found
    assert [item.index for item in found.poisoned] == dataset.poisoned
    assert (found.size, found.rate, found.seed) == (30, 0.2, truth.seed)
    assert found.backdoors == truth.backdoors
    assert found.settings == truth.settings
    originals = [item.original for item in found.poisoned]
    assert originals == [item.original for item in truth.poisoned]
    for item in found.poisoned:
        if kind == "parquet":
            assert item.place == f"row {item.index}"
        elif kind == "folder":
            assert (path / item.place).is_file()
        else:
            shard, _, member = item.place.partition("/")
            with tarfile.open(path / shard) as tar:
                assert member in tar.getnames()


def test_poisoned_items_are_found_again(kind: str, write: Writer) -> None:
    dataset = labelled()
    path = write(dataset, class_names=NAMES, truth=dataset.ground_truth())
    truth, found = read_ground_truth(path), image_set(specify(kind, path), SIZE)
    assert isinstance(found, EncodedSet)
    indices = poisoned_indices(truth, found)
    assert len(indices) == 6
    assert {found.content_key(i) for i in indices} == {
        pixel_key(Image.fromarray(dataset[i][0].permute(1, 2, 0).contiguous().numpy()))
        for i in dataset.poisoned
    }
    other = GroundTruth(30, 0.2, 0, {}, truth.backdoors, (PoisonedItem(2, 0, 1, 0, "a/b.png"),))
    with pytest.raises(InputError, match=r"Expected the 1 poisoned items .* got 0 of them\. Read"):
        poisoned_indices(other, found)


def test_images_are_made_one_at_a_time(write: Writer) -> None:
    alive: list[int] = []

    class Counted(InMemory[int]):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            image = self.images[index].clone()
            alive.append(sum(known() is not None for known in made))
            made.append(weakref.ref(image))
            return image, self.texts[index]

    made: list[Any] = []
    clean = Counted(pixels(30), [i % 3 for i in range(30)])
    write(PoisonedLabels(clean, [Backdoor(PATCH, AllToOne(1))], 0.2), class_names=NAMES)
    assert len(made) == 30
    assert max(alive) <= 1


def test_clean_sets_are_written_without_truth(kind: str, write: Writer) -> None:
    dataset = labelled()
    path = write(dataset, class_names=NAMES, truth=dataset.ground_truth())
    write(dataset.dataset, class_names=NAMES, overwrite=True)
    with pytest.raises(InputError, match=r"Expected a ground truth at .*got none there\. Check"):
        read_ground_truth(path)


def test_row_groups_and_shards_are_bounded(tmp_path: Path) -> None:
    dataset = captioned()
    path = write_parquet(dataset, tmp_path / "set.parquet", row_group=7)
    assert [pq.ParquetFile(path).metadata.row_group(i).num_rows for i in range(5)] == [7] * 4 + [2]
    root = write_shards(dataset, tmp_path / "shards", samples=12)
    names = [f"shard-{i:06}.tar" for i in range(3)]
    assert sorted(entry.name for entry in root.iterdir()) == names
    assert [len(pair_set(root / name, SIZE)) for name in names] == [12, 12, 6]
    with pytest.raises(InputError, match=r"row groups of 1 image or more, got 0\. Raise it"):
        write_parquet(dataset, tmp_path / "x.parquet", row_group=0)
    with pytest.raises(InputError, match=r"shards of 1 sample or more, got 0\. Raise it"):
        write_shards(dataset, tmp_path / "x", samples=0)


def test_written_sets_are_the_same_bytes_each_time(kind: str, tmp_path: Path) -> None:
    written = []
    for name in ("a", "b"):
        path = tmp_path / name / "set.parquet" if kind == "parquet" else tmp_path / name
        (tmp_path / "a").mkdir(exist_ok=True)
        WRITERS[kind](labelled(), path, class_names=NAMES, truth=labelled().ground_truth())
        root = tmp_path / name
        written.append({p.relative_to(root): p.read_bytes() for p in root.rglob("*.*")})
    assert written[0] == written[1]


class Interrupted(InMemory[int]):
    """Stops while the sixth image is read; never gives more than one at a time."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == 5:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def test_an_interrupted_writing_leaves_nothing(kind: str, write: Writer, tmp_path: Path) -> None:
    broken = Interrupted(pixels(9), [i % 3 for i in range(9)])
    with pytest.raises(KeyboardInterrupt):
        write(broken, class_names=NAMES)
    assert not list(tmp_path.iterdir())
    dataset = labelled()
    path = write(dataset, class_names=NAMES, truth=dataset.ground_truth())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        write(broken, class_names=NAMES, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before
    assert read_ground_truth(path).size == 30


def test_existing_output_needs_overwrite(kind: str, write: Writer) -> None:
    dataset = labelled()
    path = write(dataset, class_names=NAMES)
    with pytest.raises(InputError, match=r"(does not exist yet|empty or absent), got .*set"):
        write(dataset, class_names=NAMES)
    again = labelled(60)
    write(again, class_names=NAMES, truth=again.ground_truth(), overwrite=True)
    assert read_ground_truth(path).size == 60
    if kind != "parquet":
        (path / "thesis.tex").touch()
        with pytest.raises(InputError, match=r"'thesis.tex' in it.*remove it yourself"):
            write(dataset, class_names=NAMES, overwrite=True)


@pytest.mark.parametrize(
    "name", ["images/raw/holiday.jpg", "images/notes.txt", "images/0001.jpg", "0-cat/cat.png"]
)
def test_a_folder_that_only_looks_like_an_export_is_not_replaced(tmp_path: Path, name: str) -> None:
    """A caption table beside images is how users keep their data, too."""
    root = write_folder(captioned(), tmp_path / "mine")
    (root / name).parent.mkdir(exist_ok=True)
    (root / name).write_bytes(b"irreplaceable")
    with pytest.raises(InputError, match=r"an earlier export, got .*mine with"):
        write_folder(pair_set(root / "captions.csv", SIZE), root, overwrite=True)
    assert (root / name).read_bytes() == b"irreplaceable"
    assert len(pair_set(root / "captions.csv", SIZE)) == 30


def test_a_link_to_images_is_not_replaced(tmp_path: Path) -> None:
    root = write_folder(captioned(), tmp_path / "mine")
    (root / "images").rename(tmp_path / "elsewhere")
    (root / "images").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(InputError, match="with 'images' in it"):
        write_folder(captioned(), root, overwrite=True)


def test_a_link_stays_and_what_it_leads_to_is_written(tmp_path: Path) -> None:
    """As where a user has put the folder on a larger disk."""
    (tmp_path / "large").mkdir()
    (tmp_path / "set").symlink_to(tmp_path / "large", target_is_directory=True)
    for overwrite in (False, True):
        write_folder(captioned(), tmp_path / "set", overwrite=overwrite)
        assert (tmp_path / "set").is_symlink()
        assert (tmp_path / "large" / "captions.csv").is_file()
        assert {path.name for path in tmp_path.iterdir()} == {"large", "set"}


@pytest.mark.parametrize("write", [write_folder, write_shards], ids=["folder", "shards"])
def test_the_current_folder_is_not_replaced(
    write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever stands in it would stand in a deleted one."""
    monkeypatch.chdir(tmp_path)
    for here in (".", tmp_path):
        with pytest.raises(InputError, match="got the one you are in"):
            write(captioned(), Path(here))


def test_data_that_cannot_be_written(kind: str, write: Writer, tmp_path: Path) -> None:
    images = InMemory(pixels(4), [0, 1, 2, 7])
    with pytest.raises(InputError, match=r"to 2, got 7 at image 3\. Leave unlabelled"):
        write(images, class_names=NAMES)
    with pytest.raises(InputError, match=r"Expected class names .*, got none\. Pass class_names"):
        write(images)
    with pytest.raises(InputError, match=r"one image or more to write, got an empty data set"):
        write(Subset(images, []), class_names=NAMES)
    with pytest.raises(InputError, match=r"labels \(int\) or captions .*, got str\. Convert"):
        write(InMemory(pixels(1), ["a cat"]))
    blank: InMemory[Captions] = InMemory(pixels(2), [("a",), ("b", " ")])
    with pytest.raises(InputError, match=r"one or more captions at image 1, got \('b', ' '\)"):
        write(blank)
    with pytest.raises(InputError, match=r"ground truth of 4 items, got one of 30\. Write the"):
        write(images, class_names=NAMES, truth=labelled().ground_truth())
    assert not list(tmp_path.iterdir())


def test_parquet_has_a_name_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a file \*\.parquet to write, got .*set\. Choose such"):
        write_parquet(labelled(), tmp_path / "set", NAMES)


def test_unlabelled_images_go_into_parquet_only(tmp_path: Path) -> None:
    some = InMemory(pixels(3), [0, -1, 2])
    path = write_parquet(some, tmp_path / "set.parquet", NAMES)
    same(image_set(path, SIZE), some, [0, 1, 2])
    with pytest.raises(InputError, match="labels from 0 to 2, got -1 at image 1"):
        write_shards(some, tmp_path / "set", NAMES)


def test_progress_is_reported(write: Writer) -> None:
    said: list[tuple[int, int]] = []
    write(labelled(), class_names=NAMES, report=lambda done, total: said.append((done, total)))
    assert said == [(i, 30) for i in range(1, 31)]


def change(content: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    return {**content, key: value}


def item(index: Any, backdoor: int = 0) -> dict[str, Any]:
    return {"index": index, "backdoor": backdoor, "target": 1, "original": 0, "place": ""}


@pytest.mark.parametrize(
    ("key", "value", "part"),
    [
        ("format", "other", "got another JSON file"),
        ("version", 2, r"version 1 .*got 2\. Write the data set again"),
        ("size", "many", "got 'many' for size"),
        ("rate", 7.0, "got the rate 7.0"),
        ("poisoned", [item(3), item(1)], "not sorted"),
        ("poisoned", [item(3), item(3)], "not unique"),
        ("poisoned", [item(30)], "indices outside 0 to 29"),
        ("poisoned", [item(-1)], "indices outside 0 to 29"),
        ("poisoned", [item(1, 1)], "a backdoor outside 0 to 0"),
        ("poisoned", [item(1.5)], r"for poisoned\.0\.index"),
        ("poisoned", None, "got None for poisoned"),
        ("backdoors", [{"fingerprint": 1}], r"for backdoors\.0"),
    ],
)
def test_ground_truths_that_cannot_be_trusted(
    tmp_path: Path, key: str, value: Any, part: str
) -> None:
    path = write_parquet(labelled(), tmp_path / "x.parquet", NAMES, labelled().ground_truth())
    content = json.loads(truth_path(path).read_text())
    assert isinstance(read_ground_truth(path), GroundTruth)
    truth_path(path).write_text(json.dumps(change(content, key, value)))
    with pytest.raises(InputError, match=part):
        read_ground_truth(path)


@pytest.mark.parametrize("text", [b"{", b"\xff\xfe", b"[" * 100_000, b"[1]", b"1" * 5000])
def test_files_that_are_no_ground_truth(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "ground_truth.json").write_bytes(text)
    with pytest.raises(InputError, match=r"Expected (JSON|the ground truth)"):
        read_ground_truth(tmp_path)


def test_shards_with_labels_that_cannot_be_used(tmp_path: Path) -> None:
    root = write_shards(InMemory(pixels(3), [0, 1, 2]), tmp_path / "set", NAMES)
    (root / "classnames.txt").write_text("a\nb")
    with pytest.raises(
        InputError, match=r"labels from 0 to 1, got '2' for .*000002\.png\. Correct"
    ):
        image_set(root / "*.tar", SIZE)
    (root / "classnames.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"class names in UTF-8.*Save it as plain text"):
        image_set(root / "*.tar", SIZE)
    (root / "classnames.txt").unlink()
    with pytest.raises(InputError, match=r"Expected classnames\.txt beside .*got none\. Pass"):
        image_set(root / "*.tar", SIZE)
    assert [image_set(root / "*.tar", SIZE, NAMES)[i][1] for i in range(3)] == [0, 1, 2]


def test_shards_that_end_too_early(tmp_path: Path) -> None:
    path = write_shards(captioned(3), tmp_path / "set") / "shard-000000.tar"
    whole = path.read_bytes()
    for length in (700, 1538):  # within the first image, within its caption
        path.write_bytes(whole[:length])
        with pytest.raises(InputError, match=r"uncompressed tar file at .*got: unexpected end"):
            pair_set(path, SIZE)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ({"txt": "one", "json": '{"captions": ["a", " b "]}'}, ("a", "b")),
        ({"json": '{"captions": ["a"]}'}, ("a",)),
        ({"txt": "one", "json": '{"captions": "a"}'}, ("one",)),
        ({"txt": "one", "json": '{"captions": []}'}, ("one",)),
        ({"txt": "one", "json": '{"captions": ["a", " "]}'}, ("one",)),
        ({"txt": "one", "json": '{"captions": [1]}'}, ("one",)),
        ({"txt": "one", "json": "[]"}, ("one",)),
        ({"txt": "one", "json": "{"}, ("one",)),
        ({"txt": "one", "json": "[" * 100_000}, ("one",)),
        ({"json": "{}"}, ()),
    ],
)
def test_captions_of_a_sample(parts: dict[str, str], expected: Captions) -> None:
    assert captions_of(parts) == expected
