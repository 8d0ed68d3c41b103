"""CA and ASR on data sets of the toolbox's kinds, counted by hand."""

from __future__ import annotations

import copy
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset
from torchvision.datasets import CIFAR10

from invertune_plugin.adapters.backdoorbox.evaluator import evaluate, on_device
from invertune_plugin.adapters.backdoorbox.folders import export_folder, toolbox_folder
from invertune_plugin.adapters.backdoorbox.workdir import WorkDir
from invertune_plugin.data import InMemory
from invertune_plugin.errors import InputError
from invertune_plugin.metrics import Rate

TARGET = 2
LABELS = [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
BENIGN = [0, 1, 2, 3, 4, 0, 0, 1, 1, 4]
"""Read on clean images: wrong at 5, 8 and 9, so CA is 7 of 10."""
POISONED = [2, 2, 2, 3, 2, 2, 0, 1, 2, 2]
"""Read on triggered images: target at 0, 1, 2, 4, 5, 8, 9."""


class Reader(nn.Module):
    """Reads the class from the grey level, second best is the class above."""

    def forward(self, images: Tensor) -> Tensor:
        level = (images.mean((1, 2, 3)) * 255).round().long()
        best = nn.functional.one_hot(level, 6).float()
        return best + best.roll(1, 1) / 2


def pictures(levels: list[int]) -> Tensor:
    return torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4).clone()


class Deltas(Dataset[Any]):
    """Adds a perturbation to each image of another data set, and tells the target as label."""

    def __init__(self, dataset: Any, delta: Tensor, label: int) -> None:
        self.dataset, self.delta, self.label = dataset, delta, label

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[index][0] + self.delta[index], self.label


class NestedLists(Dataset[Any]):
    """Images as lists of numbers, tensors when asked for."""

    def __init__(self, images: Any, labels: list[int]) -> None:
        self.data, self.targets = images, labels

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        return torch.tensor(self.data[index]), torch.tensor(self.targets[index])


class HalfCifar(NestedLists, CIFAR10):  # type: ignore[misc]
    """A CIFAR10 in name only, as one attack hands out."""


def benign() -> TensorDataset:
    return TensorDataset(pictures(BENIGN) / 255, torch.tensor(LABELS))


def poisoned(kind: str) -> Any:
    images, goal = pictures(POISONED) / 255, [TARGET] * len(LABELS)
    return {
        "TensorDataset": lambda: TensorDataset(images, torch.tensor(goal)),
        "Deltaset": lambda: Deltas(benign(), images - pictures(BENIGN) / 255, TARGET),
        "list": lambda: list(zip(images, goal, strict=True)),
        "nested lists": lambda: NestedLists(images.tolist(), goal),
        "CIFAR10": lambda: HalfCifar(images.tolist(), goal),
        "original labels": lambda: TensorDataset(images, torch.tensor(LABELS)),
        "ours": lambda: InMemory(pictures(POISONED), goal),
    }[kind]()


KINDS = (
    "TensorDataset",
    "Deltaset",
    "list",
    "nested lists",
    "CIFAR10",
    "original labels",
    "ours",
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 3, 256])
def test_rates_equal_a_count_by_hand(kind: str, batch_size: int) -> None:
    found = evaluate(Reader(), benign(), poisoned(kind), TARGET, batch_size=batch_size)
    by_hand = [read == TARGET for read, label in zip(POISONED, LABELS, strict=True) if label != 2]
    assert found == {
        "ca": Rate(7, 10),
        "asr": Rate(sum(by_hand), len(by_hand)),
        "asr_all": Rate(POISONED.count(TARGET), 10),
    }
    assert found["asr"] == Rate(5, 8)


def test_source_specific_attacks() -> None:
    found = evaluate(Reader(), benign(), poisoned("Deltaset"), TARGET, sources=[1, TARGET])
    assert found["asr"] == Rate(1, 2)
    assert evaluate(Reader(), benign()) == {"ca": Rate(7, 10)}


def test_worker_processes_count_the_same() -> None:
    found = evaluate(Reader(), benign(), poisoned("list"), TARGET, batch_size=4, num_workers=1)
    assert found == evaluate(Reader(), benign(), poisoned("list"), TARGET)


def test_nothing_is_changed(tmp_path: Path) -> None:
    images = InMemory(pictures([0, 1, 2, 3, 4, 5]), [0, 1, 2, 3, 4, 5])
    folder = toolbox_folder(export_folder(images, list("abcdef"), tmp_path / "set"))
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), Reader())
    model[1].eval()
    state = copy.deepcopy(model.state_dict())
    before = (list(folder.samples), list(folder.targets), dict(vars(folder)))
    randomness = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())
    found = evaluate(model, folder, folder, 0)
    assert found["asr"].n == 5
    assert before == (folder.samples, folder.targets, vars(folder))
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert randomness[0] == random.getstate()
    assert randomness[1] == np.random.get_state()[1].tolist()
    assert torch.equal(randomness[2], torch.get_rng_state())


def test_a_copy_goes_to_another_device() -> None:
    model = nn.Linear(2, 2)
    moved = on_device(model, torch.device("meta"))
    assert moved.weight.device.type == "meta"
    assert model.weight.device.type == "cpu"
    assert on_device(model, torch.device("cpu")) is model
    assert on_device(model, None) is model


def test_the_log_has_the_toolbox_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(Reader(), benign(), poisoned("list"), TARGET, work=WorkDir(tmp_path))
    written = (tmp_path / "log.txt").read_text()
    assert capsys.readouterr().out == written
    stamp = r"\[\d{4}-\d\d-\d\d_\d\d:\d\d:\d\d\] "
    blocks = re.findall(
        rf"==========Test result on (\w+)==========\n{stamp}"
        r"Top-1 correct / Total: (\d+)/(\d+), Top-1 accuracy: ([\d.]+), "
        r"Top-5 correct / Total: (\d+)/(\d+), Top-5 accuracy: ([\d.]+), time: [\d.e-]+\n",
        written,
    )
    assert [block[:4] for block in blocks] == [
        ("BA", "7", "10", "0.7"),
        ("ASR", "7", "10", "0.7"),
        ("ASR_NoTarget", "5", "8", "0.625"),
    ]
    assert len(written.splitlines()) == 6


def test_top_five_of_fewer_classes(tmp_path: Path) -> None:
    class Two(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.eye(2)[[0] * len(images)]

    evaluate(Two(), [(torch.rand(3, 2, 2), 1)], work=WorkDir(tmp_path))
    assert (
        "0/1, Top-1 accuracy: 0.0, Top-5 correct / Total: 1/1" in (tmp_path / "log.txt").read_text()
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"poisoned_test": [(torch.zeros(3, 4, 4), 2)], "target": 2}, "got 1 and 10 images"),
        ({"poisoned_test": "list"}, "class from 0 to 5, got None"),
        ({"poisoned_test": "list", "target": 6}, "class from 0 to 5, got 6"),
        ({"poisoned_test": "list", "target": 3}, "all the target 3.*got a mixture"),
        ({"poisoned_test": "list", "target": 2, "sources": [2]}, r"sources \[2\], got none"),
        ({"benign_test": []}, "got an empty data set"),
        ({"model": nn.Flatten(2)}, r"classifier that gives logits.*got \[10, 3, 16\]"),
        ({"model": nn.LSTM(4, 4)}, "Wrap the model"),
    ],
)
def test_bad_input(arguments: dict[str, Any], message: str) -> None:
    given = {"model": Reader(), "benign_test": benign(), **arguments}
    if isinstance(given.get("poisoned_test"), str):
        given["poisoned_test"] = poisoned(given["poisoned_test"])
    if isinstance(given["model"], nn.LSTM):
        given["benign_test"] = [(torch.zeros(4, 4), 0)]
    with pytest.raises(InputError, match=message):
        evaluate(given.pop("model"), given.pop("benign_test"), **given)


def test_a_partly_poisoned_set_is_refused() -> None:
    mixed = TensorDataset(pictures(POISONED) / 255, torch.tensor([TARGET] * 5 + LABELS[5:]))
    with pytest.raises(InputError, match="rate 1"):
        evaluate(Reader(), benign(), mixed, TARGET)
