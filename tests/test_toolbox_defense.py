"""InverTune called like a defence of the toolbox; with ``toolbox`` also beside the real ones."""

from __future__ import annotations

import copy
import random
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchvision.datasets import DatasetFolder
from toys import assert_same, copied, noise_images, toy_classifier
from upstream import clone

from invertune_plugin.adapters.backdoorbox.defense import CHECKPOINT, InverTuneDefense
from invertune_plugin.adapters.backdoorbox.evaluator import evaluate
from invertune_plugin.adapters.backdoorbox.folders import (
    check_dataset,
    export_folder,
    toolbox_folder,
    trigger_index,
)
from invertune_plugin.adapters.backdoorbox.image_sets import image_set_of
from invertune_plugin.adapters.backdoorbox.staged import staged
from invertune_plugin.data import InMemory, to_unit
from invertune_plugin.defenses.invertune import InverTuneConfig
from invertune_plugin.defenses.invertune.inversion import InversionConfig
from invertune_plugin.defenses.invertune.target import TargetConfig
from invertune_plugin.defenses.invertune.tuning import TuningConfig
from invertune_plugin.errors import InputError
from invertune_plugin.metrics import Rate
from invertune_plugin.outcome import Outcome
from invertune_plugin.zero_shot import ZeroShotClassifier

NAMES = ("cat", "dog", "ring", "star", "boat", "tree")
COUNT, SIZE = 24, 32
LABELS = [i % len(NAMES) for i in range(COUNT)]
TAKES_ALL = InverTuneConfig(
    target=TargetConfig(shift_steps=1, cost_steps=1, candidates=2, ratio=1e9, doubtful_ratio=1e9),
    inversion=InversionConfig(steps=2, batch_size=4, visual_images=2, least_asr=0, most_area=1),
    tuning=TuningConfig(steps=2, rounds=1, batch_size=8, most_asr=1, least_agreement=0),
    least_images=8,
)
"""So few steps and such gates that every model gets its repair, at once."""
FINDS_NOTHING = InverTuneConfig(
    target=TargetConfig(shift_steps=1, cost_steps=1, candidates=2, ratio=0, doubtful_ratio=0),
    least_images=8,
)


class SmallResNet(nn.Module):
    """Four stages and a linear layer, like the toolbox's own."""

    def __init__(self) -> None:
        super().__init__()
        for i, (before, after) in enumerate([(3, 8), (8, 8), (8, 8), (8, 16)], start=1):
            block = nn.Sequential(nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after))
            self.add_module(f"layer{i}", nn.Sequential(block, nn.ReLU()))
        self.linear = nn.Linear(16, len(NAMES))

    def forward(self, images: Tensor) -> Tensor:
        for i in range(1, 5):
            images = self.get_submodule(f"layer{i}")(images)
        return self.linear(images.mean((2, 3)))


def zero_shot() -> ZeroShotClassifier:
    return toy_classifier("vit", class_names=NAMES)


def resnet() -> SmallResNet:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return SmallResNet()


MODELS: dict[str, Callable[[], nn.Module]] = {
    "zero-shot ViT": zero_shot,
    "staged ViT": lambda: staged(toy_classifier("vit", class_names=NAMES)),
    "staged ResNet": lambda: staged(toy_classifier("rn", class_names=NAMES)),
    "module": resnet,
}


def images() -> InMemory[int]:
    return InMemory(noise_images(COUNT), LABELS)


def tensors() -> TensorDataset:
    return TensorDataset(to_unit(images().images), torch.tensor(LABELS))


def defense(model: nn.Module, config: InverTuneConfig = TAKES_ALL, **options: Any) -> Any:
    data = options.pop("train_dataset", tensors())
    return InverTuneDefense(
        train_dataset=data, test_dataset=tensors(), model=model, config=config, **options
    )


@pytest.mark.parametrize("kind", MODELS)
def test_repair_gives_a_model_of_the_same_kind_and_changes_nothing(kind: str) -> None:
    model = MODELS[kind]()
    model.train()
    frozen = next(p for p in model.parameters())
    frozen.requires_grad_(False)
    next(m for m in model.modules() if m is not model).eval()
    modes = [module.training for module in model.modules()]
    trained = [p.requires_grad for p in model.parameters()]
    before = copied(model.state_dict())
    schedule = {"device": "CPU", "lr": 0.1}
    randomness = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state())

    invertune = defense(model, class_names=NAMES, schedule=schedule, seed=4)
    found = invertune.repair()

    assert found.outcome is Outcome.OK
    assert invertune.report_ is found
    assert invertune.target_ == found.found_label
    assert invertune.trigger_ is found.inversions[-1].trigger
    repaired = invertune.get_model()
    assert type(repaired) is type(model)
    assert repaired is not model
    for one in (model, repaired):
        assert [module.training for module in one.modules()] == modes
        assert [p.requires_grad for p in one.parameters()] == trained
    assert_same(model.state_dict(), before)
    assert any(not torch.equal(t, before[n]) for n, t in repaired.state_dict().items())
    assert repaired(torch.zeros(2, 3, SIZE, SIZE)).shape == (2, len(NAMES))
    assert schedule == {"device": "CPU", "lr": 0.1}
    assert randomness[0] == random.getstate()
    assert randomness[1] == np.random.get_state()[1].tolist()
    assert torch.equal(randomness[2], torch.get_rng_state())


def test_nothing_found_gives_the_model_back(tmp_path: Path) -> None:
    model = zero_shot()
    said: list[str] = []
    invertune = defense(model, FINDS_NOTHING, report=said.append)
    schedule = {"save_dir": tmp_path, "experiment_name": "demo"}
    assert invertune.repair(schedule).outcome is Outcome.REJECTED
    assert invertune.target_ is None
    assert invertune.trigger_ is None
    assert invertune.get_model() is model
    (log,) = (p for p in tmp_path.rglob("*") if p.is_file())
    assert log.name == "log.txt"
    assert said
    assert all(sentence in log.read_text() for sentence in said)


def test_work_folder_holds_log_and_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = resnet()
    invertune = defense(model, schedule={"save_dir": "runs", "experiment_name": "demo"})
    invertune.repair({})
    assert not list(tmp_path.iterdir())
    assert not capsys.readouterr().out
    invertune.repair()
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r"demo_\d{4}-\d\d-\d\d_\d\d.\d\d.\d\d", folder.name)
    assert sorted(p.name for p in folder.iterdir()) == [CHECKPOINT, "log.txt"]
    log = (folder / "log.txt").read_text()
    assert log == capsys.readouterr().out
    assert "target: ok." in log
    assert "tuning: ok." in log
    weights = torch.load(folder / CHECKPOINT, weights_only=True)
    assert_same(weights, invertune.get_model().state_dict())
    resnet().load_state_dict(weights)


def test_the_same_seed_gives_the_same_repair() -> None:
    weights = []
    for seed in (1, 1, 2):
        invertune = defense(resnet(), seed=seed)
        invertune.repair()
        weights.append(copied(invertune.get_model().state_dict()))
    assert_same(weights[0], weights[1])
    assert any(not torch.equal(t, weights[2][n]) for n, t in weights[0].items())


def test_all_kinds_of_train_data_give_the_same_repair(tmp_path: Path) -> None:
    ordered = InMemory(noise_images(COUNT), sorted(LABELS))
    folder = toolbox_folder(export_folder(ordered, NAMES, tmp_path / "set"))
    weights = []
    for data in (ordered, folder, list(zip(to_unit(ordered.images), ordered.texts, strict=True))):
        invertune = defense(resnet(), train_dataset=data)
        invertune.repair()
        weights.append(copied(invertune.get_model().state_dict()))
    assert_same(weights[0], weights[1])
    assert_same(weights[0], weights[2])


def test_the_model_normalises(tmp_path: Path) -> None:
    """Mean and std are the model's; data sets stay in [0, 1]."""
    plain, inner = resnet(), resnet()
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.2, 0.2)
    invertune = defense(inner, mean=mean, std=std)
    invertune.repair()
    normalised = (to_unit(images().images) - torch.tensor(mean).view(3, 1, 1)) / 0.2
    with torch.no_grad():
        by_hand = invertune.get_model().eval()(normalised).argmax(1)
    hits = int((by_hand == torch.tensor(LABELS)).sum())
    assert invertune.test() == {"ca": Rate(hits, COUNT)}
    only_std = defense(invertune.get_model(), std=std).test()["ca"]
    with torch.no_grad():
        by_hand = invertune.get_model().eval()(to_unit(images().images) / 0.2).argmax(1)
    assert only_std == Rate(int((by_hand == torch.tensor(LABELS)).sum()), COUNT)
    given = TensorDataset(normalised, torch.tensor(LABELS))
    with pytest.raises(InputError, match="Take Normalize out"):
        defense(plain, train_dataset=given).repair()


def test_metrics_of_the_toolbox(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    invertune = defense(resnet())
    triggered = TensorDataset(1 - to_unit(images().images), torch.full((COUNT,), 2))
    model = invertune.get_model()
    expected = evaluate(model, tensors(), triggered, 2)
    assert invertune.test() == {"ca": expected["ca"]}
    assert invertune.test(None, triggered, 2) == expected
    schedule = {"poisoned_test_dataset": triggered, "y_target": 2, "batch_size": 5}
    before = dict(schedule)
    for metric, key in (("BA", "ca"), ("ASR", "asr_all"), ("ASR_NoTarget", "asr")):
        assert invertune.test({**schedule, "metric": metric}) == {key: expected[key]}
    assert schedule == before
    assert not capsys.readouterr().out
    invertune.test({**schedule, "save_dir": tmp_path, "experiment_name": "measured"})
    (log,) = tmp_path.glob("measured_*/log.txt")
    assert re.findall(r"result on (\w+)=", log.read_text()) == ["BA", "ASR", "ASR_NoTarget"]


def test_gpu_dialects_reach_the_defense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for names in ({"CUDA_SELECTED_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "0", "GPU_num": 1}):
        for call in (defense(resnet()).repair, defense(resnet()).test):
            with pytest.raises(InputError, match="torch sees none"):
                call({"device": "GPU", **names})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"model": None}, "torch.nn.Module, got NoneType"),
        ({"train_dataset": []}, "got an empty data set"),
        ({"train_dataset": iter([])}, "not its DataLoader"),
        ({"class_names": NAMES[:4]}, r"logits of shape \[2, 4\].*got \[2, 6\]"),
        ({"schedule": {"save_dir": "."}}, "InverTune.repair with save_dir.*without experiment"),
        ({"config": InverTuneConfig()}, "at least 64 clean images, got 24"),
    ],
)
def test_bad_input_of_repair(arguments: dict[str, Any], message: str) -> None:
    given = {"model": resnet(), **arguments}
    with pytest.raises(InputError, match=message):
        defense(**given).repair()


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"metric": "acc"}, "BA, ASR, ASR_NoTarget, got 'acc'"),
        ({"metric": "ASR", "y_target": 1}, "poisoned test set for the metric ASR"),
        ({"poisoned_test_dataset": tensors()}, "Give the attack's y_target"),
    ],
)
def test_bad_input_of_test(schedule: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        defense(resnet()).test(schedule)
    with pytest.raises(InputError, match="Give one as test_dataset"):
        InverTuneDefense(tensors(), None, resnet()).test()


def test_classes_are_counted_on_images_of_the_size_that_the_model_takes() -> None:
    big = [(Image.new("RGB", (48, 48)), i % 2) for i in range(4)]
    found = InverTuneDefense(big, None, resnet(), image_size=SIZE)._suspect(resnet())
    assert len(found.class_names) == len(NAMES)


# -- the real toolbox --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def core() -> Any:
    from invertune_plugin.adapters.backdoorbox.loader import load_toolbox

    return load_toolbox(clone())


@pytest.fixture
def folder(tmp_path: Path) -> DatasetFolder:
    found = toolbox_folder(export_folder(images(), NAMES, tmp_path / "set"), image_size=SIZE)
    check_dataset(found)
    return found


def attacks(core: Any, data: DatasetFolder, model: nn.Module) -> dict[str, Callable[[], Any]]:
    corner = torch.zeros(SIZE, SIZE)
    corner[-4:, -4:] = 1
    grid = torch.stack(torch.meshgrid(*[torch.linspace(-1, 1, SIZE)] * 2, indexing="xy"), -1)[None]
    index = trigger_index(data)
    shared: dict[str, Any] = {
        "train_dataset": data,
        "test_dataset": data,
        "model": model,
        "loss": nn.CrossEntropyLoss(),
        "y_target": 2,
        "poisoned_rate": 0.25,
        "poisoned_transform_train_index": index,
        "poisoned_transform_test_index": index,
    }
    white = corner.mul(255).to(torch.uint8)
    return {
        "BadNets": lambda: core.BadNets(**shared, pattern=white, weight=corner),
        "Blended": lambda: core.Blended(**shared, pattern=white + 9, weight=corner * 0 + 0.3),
        "WaNet": lambda: core.WaNet(
            **shared, identity_grid=grid, noise_grid=0.05 * grid.flip(-1), noise=False
        ),
    }


@pytest.mark.toolbox
@pytest.mark.parametrize("name", ["BadNets", "Blended", "WaNet"])
def test_attacks_take_exported_folders(core: Any, folder: DatasetFolder, name: str) -> None:
    with torch.random.fork_rng():
        attack = attacks(core, folder, resnet())[name]()
    poisoned, poisoned_test = attack.get_poisoned_dataset()
    clean = image_set_of(folder)
    seen = image_set_of(poisoned)
    changed = {i for i in range(COUNT) if not torch.equal(seen[i][0], clean[i][0])}
    assert changed == set(poisoned.poisoned_set)
    assert len(changed) == COUNT // 4
    rates = evaluate(resnet(), folder, poisoned_test, 2)
    assert rates["asr"].n == COUNT - COUNT // len(NAMES)


@pytest.mark.toolbox
def test_our_numbers_are_the_toolbox_numbers(
    core: Any, folder: DatasetFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = resnet()
    with torch.random.fork_rng():
        poisoned = attacks(core, folder, model)["BadNets"]().get_poisoned_dataset()[1]
    ours = defense(model, train_dataset=folder)
    ours.test_dataset = folder
    schedule = {
        "batch_size": 8,
        "num_workers": 0,
        "y_target": 2,
        "save_dir": str(tmp_path / "runs"),
        "experiment_name": "compared",
    }
    result = re.compile(r"(result on .*=)\n\[.*\] (.*), time")
    found = ours.test({**schedule, "poisoned_test_dataset": poisoned})
    expected = result.findall(capsys.readouterr().out)
    lines = []
    for metric, data in (("BA", folder), ("ASR", poisoned), ("ASR_NoTarget", poisoned)):
        core.utils.test(model, copy.copy(data), {**schedule, "metric": metric})
        lines += result.findall(capsys.readouterr().out)
    assert lines == expected
    assert len(lines) == 3
    assert found["asr"].n == 20


@pytest.mark.toolbox
def test_every_required_key_is_read_by_its_class(core: Any) -> None:
    from invertune_plugin.adapters.backdoorbox.schedules import PLAIN_ATTACKS, REQUIRED

    for whose, keys in REQUIRED.items():
        name = whose.partition(".")[0]
        owner = core.utils.test if name == "utils" else getattr(core, name, None)
        if owner is None or name == "BAAT":
            continue
        files = [sys.modules[owner.__module__].__file__]
        if name in PLAIN_ATTACKS or name == "Blind":
            files.append(core.attacks.base.__file__)
        source = "".join(Path(file).read_text(encoding="utf-8") for file in files if file)
        absent = [
            key
            for key in keys
            if not re.search(rf"['\"]{key.partition('.')[2] or key}['\"]", source)
        ]
        assert not absent, whose


@pytest.mark.toolbox
def test_required_keys_are_enough(core: Any, folder: DatasetFolder, tmp_path: Path) -> None:
    from invertune_plugin.adapters.backdoorbox.schedules import REQUIRED, check_schedule

    values: dict[str, Any] = {
        "benign_training": False,
        "num_workers": 0,
        "lr": 0.01,
        "schedule": [],
        "metric": "BA",
        "save_dir": str(tmp_path / "runs"),
        "experiment_name": "least",
    }
    with torch.random.fork_rng():
        attack = attacks(core, folder, resnet())["BadNets"]()
        tuning = core.FineTuning(folder, folder, resnet(), ["full layers"], nn.CrossEntropyLoss())
        calls = {
            "BadNets.train": attack.train,
            "BadNets.test": attack.test,
            "FineTuning.repair": tuning.repair,
            "utils.test": tuning.test,
        }
        for whose, call in calls.items():
            schedule = {key: values.get(key, 1) for key in REQUIRED[whose]} | {"batch_size": 12}
            check_schedule(schedule, whose)
            call(schedule)
    assert list((tmp_path / "runs").glob("least_*/ckpt_epoch_1.pth"))


@pytest.mark.toolbox
def test_invertune_stands_beside_the_other_defenses(core: Any, folder: DatasetFolder) -> None:
    torch.manual_seed(0)
    model = core.models.ResNet(18, len(NAMES))
    invertune = core.InverTune(
        train_dataset=folder,
        test_dataset=folder,
        model=model,
        loss=nn.CrossEntropyLoss(),
        config=TAKES_ALL,
    )
    assert invertune.repair(schedule={"device": "CPU"}).outcome is Outcome.OK
    assert type(invertune.get_model()) is type(model)
    assert set(invertune.test()) == {"ca"}
