"""Schedules, work folders and data sets in the toolbox's form."""

from __future__ import annotations

import copy
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Subset as TorchSubset
from torch.utils.data import TensorDataset
from torchvision import transforms
from torchvision.datasets import DatasetFolder, ImageFolder
from toys import noise_images

from invertune_plugin.adapters.backdoorbox import workdir
from invertune_plugin.adapters.backdoorbox.folders import (
    check_dataset,
    export_folder,
    load_rgb,
    toolbox_folder,
    trigger_index,
)
from invertune_plugin.adapters.backdoorbox.image_sets import image_set_of, to_bytes
from invertune_plugin.adapters.backdoorbox.schedules import (
    REQUIRED,
    check_schedule,
    device_of,
    require,
)
from invertune_plugin.adapters.backdoorbox.workdir import open_work_dir
from invertune_plugin.adapters.folders import ImageFolderSet
from invertune_plugin.adapters.torchvision_sets import TorchvisionSet
from invertune_plugin.data import ImageSet, InMemory, Subset
from invertune_plugin.errors import InputError

NAMES = ("tench", "A/C unit", "ring", "star", "öl", "dog", "x", "y", "z", "cat", "last")


def pictures(count: int = 22, classes: int = 11, size: int = 8) -> InMemory[int]:
    """Labels 0, 1, ..., classes - 1, 0, 1, ..."""
    return InMemory(noise_images(count, size), [i % classes for i in range(count)])


def five(count: int = 10) -> InMemory[int]:
    return pictures(count, 5)


# -- schedules ---------------------------------------------------------------------------------


def full(whose: str) -> dict[str, Any]:
    schedule: dict[str, Any] = {}
    for key in REQUIRED[whose]:
        outer, _, inner = key.partition(".")
        if inner:
            schedule.setdefault(outer, {})[inner] = 1
        else:
            schedule[key] = 1
    return schedule | ({"benign_training": False} if "benign_training" in schedule else {})


def test_all_missing_keys_are_named_at_once() -> None:
    with pytest.raises(InputError) as error:
        require({"lr": 1}, ("lr", "epochs", "phase.gamma"), "NAD.repair")
    assert "NAD.repair with lr, epochs, phase.gamma" in str(error.value)
    assert "without epochs, phase.gamma. Add them" in str(error.value)


@pytest.mark.parametrize("whose", REQUIRED)
def test_complete_schedules_pass_and_stay_as_they_are(whose: str) -> None:
    schedule = full(whose)
    before = copy.deepcopy(schedule)
    check_schedule(schedule, whose)
    assert schedule == before
    for key in REQUIRED[whose]:
        less = copy.deepcopy(schedule)
        outer, _, inner = key.partition(".")
        del (less[outer] if inner else less)[inner or outer]
        with pytest.raises(InputError, match=f"without {key}[.,]"):
            check_schedule(less, whose)


def test_what_depends_on_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="without y_target"):
        check_schedule(full("utils.test") | {"metric": "ASR_NoTarget"}, "utils.test")
    with pytest.raises(InputError, match="True or False"):
        check_schedule(full("BadNets.train") | {"benign_training": 0}, "BadNets.train")
    with pytest.raises(InputError, match=r"Expected one of ABL.test"):
        check_schedule({}, "BadNet.train")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(InputError, match="without GPU_num"):
        check_schedule(full("NAD.repair") | {"device": "GPU"}, "NAD.repair")
    check_schedule(full("BadNets.train") | {"device": "GPU"}, "BadNets.train")


@pytest.mark.parametrize("schedule", [None, {}, {"device": None}, {"device": "cpu", "GPU_num": 4}])
def test_the_cpu_is_the_default(schedule: dict[str, Any] | None) -> None:
    assert device_of(schedule) == torch.device("cpu")


@pytest.mark.parametrize(
    ("visible", "schedule", "index"),
    [
        (None, {}, 0),
        (None, {"CUDA_SELECTED_DEVICES": "1"}, 1),
        (None, {"CUDA_VISIBLE_DEVICES": "1", "GPU_num": 1}, 1),
        (None, {"GPU_num": 2}, 0),
        ("3,2", {}, 0),
        ("3,2", {"CUDA_SELECTED_DEVICES": "2"}, 1),
        ("3, 2", {"CUDA_SELECTED_DEVICES": "3,2"}, 0),
        ("3,2", {"CUDA_VISIBLE_DEVICES": "2", "GPU_num": 1}, 1),
        ("GPU-5a,GPU-7b", {"CUDA_SELECTED_DEVICES": "GPU-7b"}, 1),
    ],
)
def test_both_gpu_dialects(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, schedule: dict[str, Any], index: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    environment = dict(os.environ)
    assert device_of({"device": "GPU", **schedule}) == torch.device("cuda", index)
    assert dict(os.environ) == environment


@pytest.mark.parametrize(
    ("gpus", "schedule", "message"),
    [
        (0, {"device": "GPU"}, "torch sees none"),
        (0, {"device": "cuda:0"}, "'GPU' or 'CPU'"),
        (2, {"device": "GPU", "CUDA_SELECTED_DEVICES": "2"}, "GPUs among 0, 1, got '2'"),
        (2, {"device": "GPU", "CUDA_VISIBLE_DEVICES": "", "GPU_num": 1}, "got ''"),
        (2, {"device": "GPU", "GPU_num": 3}, "between 1 and 2.*got 3"),
        (2, {"device": "GPU", "GPU_num": 0}, "got 0"),
    ],
)
def test_absent_gpus(
    monkeypatch: pytest.MonkeyPatch, gpus: int, schedule: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(InputError, match=message):
        device_of(schedule)


# -- work folders ------------------------------------------------------------------------------


def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = time.struct_time((2026, 3, 4, 5, 6, 7, 0, 0, 0))
    monkeypatch.setattr(workdir.time, "localtime", lambda: moment)


def test_work_folder_and_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stopped_clock(monkeypatch)
    monkeypatch.setattr(workdir, "WINDOWS", False)
    schedule = {"save_dir": str(tmp_path / "runs"), "experiment_name": "demo"}
    first, second, third = (open_work_dir(schedule) for _ in range(3))
    assert first
    assert second
    assert third
    assert first.path == tmp_path / "runs" / "demo_2026-03-04_05:06:07"
    assert [second.path.name, third.path.name] == [f"{first.path.name}_{i}" for i in (2, 3)]
    first.log("one")
    first.log("zwölf")
    assert (first.path / "log.txt").read_text(encoding="utf-8") == "one\nzwölf\n"
    assert capsys.readouterr().out == "one\nzwölf\n"
    assert not list(second.path.iterdir())


def test_a_name_for_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped_clock(monkeypatch)
    monkeypatch.setattr(workdir, "WINDOWS", True)
    work = open_work_dir({"save_dir": tmp_path, "experiment_name": "what?"})
    assert work
    assert work.path.name == "what-_2026-03-04_05-06-07"


def test_no_folder_without_save_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_work_dir(None) is None
    assert open_work_dir({"experiment_name": "demo"}) is None
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"NAD.repair with save_dir.*without experiment_name"):
        open_work_dir({"save_dir": "."}, "NAD.repair")
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="save_dir that you can write to"):
        open_work_dir({"save_dir": tmp_path / "file", "experiment_name": "demo"})


# -- folders -----------------------------------------------------------------------------------


def test_exported_folders_keep_labels_and_pixels(tmp_path: Path) -> None:
    images = pictures()
    root = export_folder(images, NAMES, tmp_path / "set")
    assert (root / "00-tench" / "0011.png").is_file()
    assert sorted(p.name for p in root.iterdir())[:2] == ["00-tench", "01-A_C_unit"]
    assert (root / "04-l").is_dir()
    folder = toolbox_folder(root)
    assert type(folder) is DatasetFolder
    check_dataset(folder)
    assert folder.targets == sorted(images.texts)
    back = image_set_of(folder)
    for place, (path, label) in enumerate(folder.samples):
        index = int(Path(path).stem)
        assert label == images.texts[index] == back[place][1]
        assert torch.equal(back[place][0], images.images[index])
    ours = ImageFolderSet(root, 8)
    assert all(ours.content_key(i) == back.content_key(i) for i in range(len(ours)))


def test_a_subset_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    whole = toolbox_folder(export_folder(five(20), NAMES[:5], tmp_path / "whole"))
    some = Subset(image_set_of(whole), range(0, 20, 2))
    part = toolbox_folder(export_folder(some, whole.classes, tmp_path / "part"))
    assert len(part) == 10
    check_dataset(part)
    with pytest.raises(InputError, match="got Subset"):
        check_dataset(TorchSubset(whole, [1, 2]))
    del whole.samples[3:]
    with pytest.raises(InputError, match=r"Expected the 3 samples .* got 20 files"):
        check_dataset(whole)


class Interrupted(InMemory[int]):
    """Stops while the sixth image is read."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__(noise_images(10, 8), [i % 5 for i in range(10)])
        self.error = error

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if index == 5:
            raise self.error
        return super().__getitem__(index)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_export_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    with pytest.raises(error):
        export_folder(Interrupted(error), NAMES[:5], tmp_path / "set")
    assert not list(tmp_path.iterdir())
    root = export_folder(five(), NAMES[:5], tmp_path / "set")
    before = sorted(p.name for p in root.rglob("*"))
    with pytest.raises(error):
        export_folder(Interrupted(error), NAMES[:5], root, overwrite=True)
    assert sorted(p.name for p in root.rglob("*")) == before
    assert list(tmp_path.iterdir()) == [root]


def test_the_earlier_export_comes_back_if_the_new_one_cannot_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = export_folder(five(), NAMES[:5], tmp_path / "set")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.suffix == ".partial":
            raise OSError("no space left")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(InputError, match="no space left"):
        export_folder(five(15), NAMES[:5], root, overwrite=True)
    assert len(toolbox_folder(root)) == 10
    assert list(tmp_path.iterdir()) == [root]


def test_overwriting_replaces_exports_only(tmp_path: Path) -> None:
    root = export_folder(five(), NAMES[:5], tmp_path / "set")
    with pytest.raises(InputError, match=r"empty or absent.*5 entries.*overwrite=True"):
        export_folder(five(), NAMES[:5], root)
    assert len(toolbox_folder(export_folder(five(15), NAMES[:5], root, overwrite=True))) == 15
    (root / "thesis.tex").touch()
    with pytest.raises(InputError, match=r"'thesis.tex' in it"):
        export_folder(five(), NAMES[:5], root, overwrite=True)
    with pytest.raises(InputError, match="got the file"):
        export_folder(five(), NAMES[:5], root / "thesis.tex")
    (tmp_path / "empty").mkdir()
    export_folder(five(), NAMES[:5], tmp_path / "empty")


def test_labels_that_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="from 0 to 3, got 4 at image 4"):
        export_folder(five(), NAMES[:4], tmp_path / "set")
    with pytest.raises(InputError, match="got none of dog, x"):
        export_folder(five(), NAMES[:7], tmp_path / "set")
    with pytest.raises(InputError, match="got -1"):
        export_folder(InMemory(noise_images(1), [-1]), NAMES[:5], tmp_path / "set")
    assert not list(tmp_path.iterdir())


def test_the_trigger_goes_between_resize_and_tensor(tmp_path: Path) -> None:
    root = export_folder(five(), NAMES[:5], tmp_path / "set")
    plain, resized = toolbox_folder(root), toolbox_folder(root, image_size=6)
    assert trigger_index(plain) == 0
    assert trigger_index(plain, as_tensor=True) == 1
    assert resized[0][0].shape == (3, 6, 6)
    seen: list[Any] = []
    resized.transform.transforms.insert(
        trigger_index(resized), lambda image: seen.append(image) or image
    )
    assert resized[0][0].shape == (3, 6, 6)
    assert type(seen[0]) is Image.Image
    assert seen[0].size == (6, 6)
    plain.transform = transforms.Compose([])
    with pytest.raises(InputError, match="Compose with ToTensor"):
        trigger_index(plain)
    with pytest.raises(InputError, match="class folders"):
        toolbox_folder(tmp_path / "nothing")


def test_data_sets_that_the_toolbox_refuses(tmp_path: Path) -> None:
    root = export_folder(five(), NAMES[:5], tmp_path / "set")
    to_tensor = transforms.Compose([transforms.ToTensor()])
    with pytest.raises(InputError, match=r"exactly a DatasetFolder.*got ImageFolder"):
        check_dataset(ImageFolder(str(root), to_tensor))
    for transform in (None, transforms.ToTensor()):
        folder = toolbox_folder(root)
        folder.transform = transform
        with pytest.raises(InputError, match="Expected transform to be a Compose"):
            check_dataset(folder)
    folder = toolbox_folder(root)
    folder.target_transform = int
    with pytest.raises(InputError, match="Expected target_transform"):
        check_dataset(folder)
    few = toolbox_folder(export_folder(pictures(8, 4), NAMES[:4], tmp_path / "few"))
    with pytest.raises(InputError, match="at least 5 classes, got 4"):
        check_dataset(few)
    lazy = DatasetFolder(str(root), Image.open, (".png",), to_tensor)
    with pytest.raises(InputError, match="got PngImageFile in RGB"):
        check_dataset(lazy)
    picky = DatasetFolder(
        str(root), load_rgb, transform=to_tensor, is_valid_file=lambda path: "0003" not in path
    )
    with pytest.raises(InputError, match="is_valid_file"):
        check_dataset(picky)


# -- image sets --------------------------------------------------------------------------------


class Labelled:
    """Map-style, without a length check or classes, like many data sets of the toolbox."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


def kinds() -> dict[str, Any]:
    pixels = noise_images(6, 8)
    labels = [0, 1, 2, 3, 4, 0]
    arrays = [image.permute(1, 2, 0).numpy() for image in pixels]
    pairs = list(zip(pixels / 255, labels, strict=True))
    return {
        "pil": [(Image.fromarray(a), n) for a, n in zip(arrays, labels, strict=True)],
        "array": list(zip(arrays, np.array(labels), strict=True)),
        "float array": [(a / 255, n) for a, n in zip(arrays, labels, strict=True)],
        "list": pairs,
        "tensors": TensorDataset(pixels / 255, torch.tensor(labels)),
        "bytes": TensorDataset(pixels, torch.tensor(labels)),
        "subset": TorchSubset(Labelled(pairs), range(6)),
        "own": Labelled(pairs),
        "ours": InMemory(pixels, labels),
    }


@pytest.mark.parametrize("kind", kinds())
def test_every_kind_of_data_set_becomes_the_same_bytes(kind: str) -> None:
    images: ImageSet = image_set_of(kinds()[kind])
    assert [images[i][1] for i in range(len(images))] == [0, 1, 2, 3, 4, 0]
    for expected, (found, _) in zip(noise_images(6, 8), images, strict=False):
        assert found.dtype == torch.uint8
        assert torch.equal(found, expected)


def test_grey_images_get_three_channels() -> None:
    grey = torch.arange(12, dtype=torch.uint8).view(3, 4)
    for image in (grey, grey[None], grey.numpy(), grey[..., None].numpy(), grey / 255):
        assert torch.equal(to_bytes(image), grey.expand(3, 3, 4))
    assert torch.equal(to_bytes(Image.fromarray(grey.numpy())), grey.expand(3, 3, 4))


def test_sizes_and_class_names(tmp_path: Path) -> None:
    folder = DatasetFolder(
        str(export_folder(five(), NAMES[:5], tmp_path / "set")), load_rgb, extensions=(".png",)
    )
    images: Any = image_set_of(TorchSubset(folder, [3, 4]), image_size=6)
    assert images[0][0].shape == (3, 6, 6)
    assert images.class_names == ["0-tench", "1-A_C_unit", "2-ring", "3-star", "4-l"]
    with pytest.raises(InputError, match="6 x 6 pixels, got 8 x 8 at 0"):
        image_set_of([(torch.rand(3, 8, 8), 0)], image_size=6)[0]


def test_an_image_has_one_key_whatever_reads_it_and_at_any_size(tmp_path: Path) -> None:
    grey = (np.arange(64, dtype=np.uint16) * 1024).reshape(8, 8)
    for name, picture in (("0", grey), ("1", (grey // 256).astype(np.uint8))):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.fromarray(picture).save(tmp_path / "set" / name / "x.png")
    files = ImageFolderSet(tmp_path / "set", 4)
    plain = ImageFolder(str(tmp_path / "set"), loader=Image.open)
    for other in (image_set_of(plain, 4), TorchvisionSet(plain, 4)):
        for i in range(2):
            assert other.content_key(i) == files.content_key(i)
            assert torch.equal(other[i][0], files[i][0])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.randn(3, 8, 8), "Take Normalize out"),
        (torch.full((3, 8, 8), 255), "torch.int64 from 255 to 255"),
        (torch.full((3, 8, 8), torch.nan), "nan"),
        (torch.rand(4, 8, 8), "1 or 3 channels, got .4, 8, 8."),
        (np.zeros((2, 3, 8, 8), np.uint8), "1 or 3 channels"),
        ("cat.png", "got str"),
    ],
)
def test_what_is_no_image(image: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        image_set_of([(image, 0)])[0]


def test_rounding_just_outside_is_no_normalisation() -> None:
    found = to_bytes(torch.tensor([-1e-6, 1 + 1e-6]).view(1, 1, 2))
    assert found[0].tolist() == [[0, 255]]
    with pytest.raises(InputError, match="not its DataLoader"):
        image_set_of(iter([]))
