"""FLARE called like a defence of the toolbox."""

from __future__ import annotations

import contextlib
import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_toolbox import write_toolbox
from test_flare import PCA, Brightness, marked
from test_toolbox_loader import apart  # noqa: F401
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset
from torchvision import transforms
from torchvision.transforms import v2

from invertune_plugin import load_toolbox
from invertune_plugin.adapters.backdoorbox.augmentation import without_augmentation
from invertune_plugin.adapters.backdoorbox.conformance import Check
from invertune_plugin.adapters.backdoorbox.purifier import FLAREPurifier
from invertune_plugin.adapters.backdoorbox.purifier_conformance import checks_for_purifier
from invertune_plugin.data import to_unit
from invertune_plugin.defenses.base import Purifier
from invertune_plugin.errors import InputError
from invertune_plugin.metrics import Rate


def tensors() -> TensorDataset:
    data, _ = marked()
    return TensorDataset(to_unit(data.images), torch.tensor(list(data.texts)))


class Pictures:
    """A data set of the toolbox's kind: PIL images and a transform."""

    def __init__(self, *steps: Any) -> None:
        data, self.chosen = marked()
        self.images = [transforms.functional.to_pil_image(image) for image in data.images]
        self.labels = list(data.texts)
        self.transform = transforms.Compose([*steps, transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(self.images[index]), self.labels[index]


def make() -> FLAREPurifier:
    return FLAREPurifier(model=Brightness(), seed=1, config=PCA)


@pytest.mark.parametrize("check", [*checks_for_purifier(make, tensors)], ids=lambda c: c.name)
def test_conformance(check: Check) -> None:
    check()


class Broken(FLAREPurifier):
    """Finds the right samples, and breaks one promise after the other."""

    fault = ""

    def filter(self, dataset: Any) -> Any:
        clean, removed = super().filter(dataset)
        if self.fault == "order":
            removed.reverse()
        if self.fault == "repeats":
            clean = Subset(dataset, [*clean.indices, 0])
        if self.fault == "other":
            clean = Subset(dataset, [*clean.indices[1:], clean.indices[0]])
        if self.fault == "data":
            dataset.tensors[0][0] += 0.1
        if self.fault == "model":
            self.model.first.running_mean += 1
        if self.fault == "random":
            torch.rand(1)
        if self.fault == "seed":
            removed = torch.rand(300).topk(5).indices.sort().values.tolist()
        return clean, removed


@pytest.mark.parametrize(
    ("fault", "check", "told"),
    [
        ("order", "filter_shares_out_the_set", "not sorted"),
        ("repeats", "filter_shares_out_the_set", "lacks or repeats"),
        ("other", "filter_shares_out_the_set", "item 0 of the clean part is not item 0"),
        ("data", "dataset_is_unchanged", "came back changed"),
        ("model", "model_is_unchanged", "came back changed"),
        ("random", "random_state_is_unchanged", "random state"),
        ("seed", "seed_decides_the_result", "other samples"),
    ],
)
def test_every_fault_is_found(
    fault: str, check: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Broken, "fault", fault)
    checks = {
        found.name: found
        for found in checks_for_purifier(
            lambda: Broken(model=Brightness(), seed=1, config=PCA), tensors
        )
    }
    with pytest.raises(AssertionError, match=told):
        checks[check]()


def test_the_truth_is_for_the_rates_only() -> None:
    _, chosen = marked()
    truth = [int(i in chosen) for i in range(300)]
    purifier = make()
    assert list(purifier.detect(tensors()).poisoned) == chosen
    assert purifier.rates_ == {}
    assert list(purifier.detect(tensors(), truth).poisoned) == chosen
    assert purifier.rates_ == {"tpr": Rate(60, 60), "fpr": Rate(0, 240)}
    with pytest.raises(InputError, match=r"each of 300 images, got the shape \(2,\)"):
        purifier.detect(tensors(), [0, 1])


def test_a_log_where_one_is_asked_for(tmp_path: Path) -> None:
    schedule = {"save_dir": str(tmp_path), "experiment_name": "flare"}
    purifier = FLAREPurifier(Brightness(), config=PCA, schedule=schedule)
    purifier.detect(tensors(), [0] * 240 + [1] * 60)
    log = next(tmp_path.rglob("log.txt")).read_text()
    assert "flare: ok. 60 of 300 samples stand apart" in log
    assert "TPR: 100.0%" in log


def test_augmentation_is_left_out_with_a_warning() -> None:
    drawn = Pictures(transforms.RandomHorizontalFlip(), transforms.RandomErasing)
    drawn.transform.transforms.pop(1)
    steps = list(drawn.transform.transforms)
    with pytest.warns(UserWarning, match="scored without these steps"):
        clean, removed = make().filter(Subset(drawn, range(300)))
    assert removed == drawn.chosen
    assert drawn.transform.transforms == steps
    assert clean.dataset.dataset is drawn, "training goes on with augmentation"


def test_rare_augmentation_is_left_out_too() -> None:
    rare = Pictures()
    rare.transform = transforms.Compose([transforms.RandomGrayscale(1e-9), rare.transform])
    with pytest.warns(UserWarning, match="scored without these steps"):
        assert without_augmentation(rare) is not rare


@pytest.mark.parametrize(
    ("steps", "centre"),
    [
        ([transforms.Resize(40), transforms.RandomCrop(32)], [transforms.CenterCrop(32)]),
        ([transforms.RandomCrop(8, padding=2)], []),
        (
            [transforms.RandomCrop(12, padding=2, fill=9)],
            [transforms.Pad(2, fill=9), transforms.CenterCrop(12)],
        ),
        ([v2.RandomCrop((6, 4), padding=1)], [transforms.CenterCrop((6, 4))]),
        ([transforms.RandomResizedCrop((24, 48))], [transforms.Resize((24, 48))]),
        (
            [v2.RandomResizedCrop(24)],
            [transforms.Resize(24), transforms.CenterCrop(24)],
        ),
        (
            [transforms.Resize(40), transforms.RandomResizedCrop(24)],
            [transforms.Resize(24), transforms.CenterCrop(24)],
        ),
    ],
    ids=["crop", "padded", "larger", "v2", "wide", "v2 resized", "resized"],
)
def test_random_crops_give_way_to_the_centre(steps: list[Any], centre: list[Any]) -> None:
    """Without them images would have another size than the model is made for."""
    drawn = Pictures(*steps)
    with pytest.warns(UserWarning, match="scored without these steps"):
        plain = without_augmentation(drawn)
    fixed = [step for step in steps if isinstance(step, transforms.Resize)]
    expected = transforms.Compose([*fixed, *centre, transforms.ToTensor()])(drawn.images[0])
    assert torch.equal(plain[0][0], expected)
    assert plain[0][0].shape == drawn[0][0].shape


class Attacked(Pictures):
    """Some items go through a transform of their own, as in BackdoorBox's poisoned sets."""

    def __init__(self, *steps: Any) -> None:
        super().__init__(*steps)
        self.poisoned_transform = copy.deepcopy(self.transform)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        transform = self.poisoned_transform if index in self.chosen else self.transform
        return transform(self.images[index]), self.labels[index]


def test_augmentation_of_poisoned_images_is_left_out_too() -> None:
    """Otherwise it would tell them apart: a leak of the truth."""
    drawn = Attacked(transforms.RandomCrop(8, padding=4))
    with pytest.warns(UserWarning, match="scored without these steps"):
        plain = without_augmentation(drawn)
    still = Pictures()
    assert all(torch.equal(plain[i][0], still[i][0]) for i in range(len(still)))
    assert isinstance(drawn.poisoned_transform.transforms[0], transforms.RandomCrop)


def test_each_random_step_gives_way_to_one_step() -> None:
    """Some of the toolbox's sets put their trigger in at the index of a step."""
    flip, crop = transforms.RandomHorizontalFlip(), transforms.RandomCrop(8, padding=4)
    with pytest.warns(UserWarning, match="scored without these steps"):
        plain = without_augmentation(Pictures(flip, crop))
    assert len(plain.transform.transforms) == 3
    assert isinstance(plain.transform.transforms[2], transforms.ToTensor)


class RandomBorder:
    """Adds a border that no step without it has."""

    def __call__(self, image: Any) -> Any:
        edge = int(torch.randint(1, 255, ()))
        return transforms.functional.pad(image, [4], fill=edge)


def test_images_of_another_size_are_scored_as_they_come() -> None:
    drawn = Pictures(RandomBorder())
    with pytest.warns(UserWarning, match="images of other sizes come without them"):
        assert without_augmentation(drawn) is drawn


def test_images_that_do_not_change_are_taken_as_they_are() -> None:
    steady = Pictures()
    assert without_augmentation(steady) is steady
    assert without_augmentation(steady).transform is steady.transform


def test_randomness_that_cannot_be_left_out_is_warned_of() -> None:
    noisy = Pictures(transforms.Lambda(lambda image: image.rotate(float(torch.rand(1) * 90))))
    with pytest.warns(UserWarning, match="samples are scored as they come"):
        assert without_augmentation(noisy) is noisy


def test_a_model_that_wants_normalised_input() -> None:
    class Normalised(Brightness):
        def forward(self, pixels: Tensor) -> Tensor:
            return super().forward(pixels * 0.5 + 0.25)

    mean, std = (0.25,) * 3, (0.5,) * 3
    purifier = FLAREPurifier(Normalised(), config=PCA, mean=mean, std=std)
    assert list(purifier.detect(tensors()).poisoned) == marked()[1]
    with pytest.raises(InputError, match="mean and std together"):
        FLAREPurifier(Brightness(), config=PCA, mean=mean).detect(tensors())


def test_the_modes_of_a_model_that_wants_normalised_input_stay() -> None:
    model = nn.Sequential(Brightness(), nn.BatchNorm1d(2), nn.Dropout())
    model.train()
    model[1].eval()
    before = [part.training for part in model.modules()]
    purifier = FLAREPurifier(model, config=PCA, mean=(0.0,) * 3, std=(1.0,) * 3)
    with contextlib.suppress(InputError):
        purifier.detect(tensors())
    assert [part.training for part in model.modules()] == before


def test_bad_input() -> None:
    with pytest.raises(InputError, match=r"torch\.nn\.Module, got str"):
        FLAREPurifier("model").detect(tensors())
    with pytest.raises(InputError, match="xi or a config, got both"):
        FLAREPurifier(Brightness(), 0.1, config=PCA).detect(tensors())
    with pytest.raises(InputError, match="layers, got Linear without any"):
        FLAREPurifier(nn.Linear(2, 2)).detect(tensors())


def test_it_stands_beside_the_toolboxs_own(apart: None, tmp_path: Path) -> None:  # noqa: F811
    with pytest.warns(UserWarning, match="core"):
        core = load_toolbox(write_toolbox(tmp_path))
    assert core.FLAREPurifier is core.defenses.FLAREPurifier is FLAREPurifier
    assert core.FLARE is not FLAREPurifier
    assert issubclass(core.FLAREPurifier, Purifier)
    assert "core.defenses.FLAREPurifier" in sys.modules
