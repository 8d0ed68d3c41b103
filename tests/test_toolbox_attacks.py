"""Every attack of the real toolbox on a tiny CLIP, and what comes back unchanged."""

from __future__ import annotations

import copy
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.datasets import CIFAR10
from toys import assert_same, copied, toy_classifier
from upstream import clone

from invertune_plugin.adapters.backdoorbox.attacks.job import Attacked
from invertune_plugin.adapters.backdoorbox.attacks.recipe import (
    ATTACKS,
    CLEAN_LABEL,
    OUTPUT,
    UNUSABLE,
    run_attack,
)
from invertune_plugin.adapters.backdoorbox.evaluator import evaluate
from invertune_plugin.adapters.backdoorbox.folders import (
    ToolboxData,
    export_folder,
    toolbox_folder,
)
from invertune_plugin.adapters.backdoorbox.staged import StagedClassifier, staged
from invertune_plugin.adapters.backdoorbox.training import ToolboxTraining, train_benign
from invertune_plugin.data import InMemory
from invertune_plugin.errors import InputError

NAMES = ("cat", "dog", "ring", "star", "tree")
SIZE, TARGET = 32, 2
TRAINING = ToolboxTraining(batch_size=20)
SHORT: dict[str, dict[str, Any]] = {
    "LabelConsistent": {"steps": 2},
    "TUAP": {"passes": 1, "sample_share": 0.3},
    "IAD": {"mask_epochs": 1},
    "SleeperAgent": {"craft_iterations": 2, "retrain_every": 1},
    "ISSBA": {"encoder_epochs": 1, "secret_epochs": 0},
}
NO_POISONED_SET = {"IAD", "LIRA", "Blind"}


def scenes(each: int, seed: int) -> InMemory[int]:
    """Coarse coloured scenes, sorted by class: mostly what the class has in common."""
    common, own = (torch.Generator().manual_seed(number) for number in (100, seed))
    kinds = torch.rand(len(NAMES), 3, 4, 4, generator=common).repeat_interleave(each, 0)
    coarse = 40 + 110 * kinds + 60 * torch.rand(kinds.shape, generator=own)
    images = F.interpolate(coarse, SIZE, mode="nearest").to(torch.uint8)
    return InMemory(images, [i // each for i in range(len(images))])


@pytest.fixture(scope="module")
def core() -> Any:
    from invertune_plugin.adapters.backdoorbox.loader import load_toolbox

    return load_toolbox(clone())


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ToolboxData:
    root = tmp_path_factory.mktemp("data")
    train = toolbox_folder(export_folder(scenes(8, 0), NAMES, root / "train"))
    test = toolbox_folder(export_folder(scenes(3, 1), NAMES, root / "test"))
    return ToolboxData(train, test, NAMES, SIZE)


@pytest.fixture(scope="module")
def models(data: ToolboxData) -> dict[str, StagedClassifier]:
    made = {tower: staged(toy_classifier(tower, class_names=NAMES)) for tower in ("rn", "vit")}
    for model in made.values():
        train_benign(model, data.train, ToolboxTraining(epochs=30, batch_size=10), 0)
        assert evaluate(model, data.test)["ca"].hits >= 9
    return made


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A work folder; nothing else may appear beside it or in the current folder."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    yield tmp_path / "work"
    assert list(here.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} <= {"here", "work"}


def attack(
    core: Any, name: str, data: ToolboxData, model: nn.Module, place: Path, **changed: Any
) -> Attacked:
    arguments: dict[str, Any] = {
        "target": TARGET,
        "rate": 0.25 if name not in CLEAN_LABEL else 0.5,
        "seed": 3,
        "training": TRAINING,
        "work_dir": place,
        "options": SHORT.get(name, {}),
    }
    return run_attack(core, name, data, model, **(arguments | changed))


def pixels(dataset: Any) -> Tensor:
    return torch.stack([torch.as_tensor(dataset[i][0]) for i in range(len(dataset))])


def labels(dataset: Any) -> list[int]:
    return [int(dataset[i][1]) for i in range(len(dataset))]


def nearest(triggered: Tensor, clean: Tensor) -> list[int]:
    """For each image the clean one that it is most like."""
    first, second = (F.avg_pool2d(x, 4).flatten(1) for x in (triggered, clean))
    first, second = (x - x.mean(1, keepdim=True) for x in (first, second))
    likeness: Tensor = F.normalize(first) @ F.normalize(second).T
    return likeness.argmax(1).tolist()


def state_of_everything(data: ToolboxData, model: nn.Module) -> tuple[Any, ...]:
    folders = [data.train, data.test]
    return (
        random.getstate(),
        np.random.get_state()[1].tolist(),  # type: ignore[index]
        torch.get_rng_state().tolist(),
        dict(os.environ),
        [sorted(Path(folder.root).rglob("*")) for folder in folders],
        [(id(folder.transform), list(folder.transform.transforms)) for folder in folders],
        [list(folder.samples) for folder in folders],
        [module.training for module in model.modules()],
        [(p.requires_grad, p.grad) for p in model.parameters()],
    )


@pytest.mark.toolbox
@pytest.mark.parametrize("tower", ["rn", "vit"])
@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_runs(
    core: Any,
    data: ToolboxData,
    models: dict[str, StagedClassifier],
    place: Path,
    name: str,
    tower: str,
) -> None:
    model = models[tower]
    weights, before = copied(model.state_dict()), state_of_everything(data, model)
    found = attack(core, name, data, model, place)
    assert state_of_everything(data, model) == before
    assert_same(model.state_dict(), weights)

    assert type(found.model) is StagedClassifier
    assert not found.model.training
    moved = {n for n, w in found.model.state_dict().items() if not torch.equal(w, weights[n])}
    assert moved & {n for n, _ in found.model.named_parameters()}
    assert found.seconds > 0
    assert (place / OUTPUT).is_file()

    clean, triggered = pixels(data.test), pixels(found.test)
    assert triggered.shape == clean.shape
    assert not torch.equal(triggered, clean)
    if name not in {"BATT", "IAD"}:
        assert nearest(triggered, clean) == list(range(len(clean)))
    assert labels(found.test) == [TARGET] * len(clean)

    rates = evaluate(found.model, data.test, found.test, TARGET, sources=found.sources)
    assert rates["ca"].n == rates["asr_all"].n == len(data.test) == 15
    assert rates["asr"].n == (3 if name == "SleeperAgent" else 12)

    assert (found.train is None) is (found.poisoned_indices is None) is (name in NO_POISONED_SET)
    if found.train is not None:
        check_poisoned_set(name, found, data)


def check_poisoned_set(name: str, found: Attacked, data: ToolboxData) -> None:
    """The indices tell which images have the trigger; the labels are those of the attack."""
    assert found.poisoned_indices is not None
    assert len(found.poisoned_indices) == (4 if name in CLEAN_LABEL else 10)
    seen, poisoned = labels(found.train), list(found.poisoned_indices)
    assert [seen[i] for i in poisoned] == [TARGET] * len(poisoned)
    assert len(seen) == len(data.train)
    if name == "SleeperAgent":
        return
    if name in CLEAN_LABEL:
        assert seen == data.train.targets
    clean, trained = pixels(data.train), pixels(found.train)
    changed = (clean != trained).flatten(1).any(1)
    if name not in {"BATT", "PhysicalBA", "AdaptivePatch"}:
        assert changed.nonzero().flatten().tolist() == poisoned
    assert changed[poisoned].all()


def test_attacks_without_recipe_say_why() -> None:
    assert len(ATTACKS) == 14
    assert UNUSABLE.keys() == {"BAAT"}
    assert all(recipe.__doc__ for recipe in ATTACKS.values())
    with pytest.raises(InputError, match="StyleGAN"):
        attack(None, "BAAT", None, None, None)  # type: ignore[arg-type]


@pytest.mark.toolbox
@pytest.mark.parametrize("name", ["BadNets", "LabelConsistent"])
def test_images_are_resized_before_the_trigger(
    core: Any, data: ToolboxData, models: dict[str, StagedClassifier], place: Path, name: str
) -> None:
    small = F.interpolate(torch.stack([scenes(8, 0)[i][0] for i in range(40)]).float(), 48)
    images = InMemory(small.to(torch.uint8), list(data.train.targets))
    folder = toolbox_folder(export_folder(images, NAMES, place.parent / "work" / "large"), SIZE)
    resized = ToolboxData(folder, folder, NAMES, SIZE)
    found = attack(core, name, resized, models["vit"], place)
    assert pixels(found.train).shape == (40, 3, SIZE, SIZE)
    board = pixels(found.test)[:, :, -3:, -3:]
    assert torch.equal(board, board[:1].expand_as(board))


@pytest.mark.toolbox
def test_poison_of_a_set_that_is_not_sorted_by_class_is_found_again(
    core: Any, data: ToolboxData, models: dict[str, StagedClassifier], place: Path
) -> None:
    """LabelConsistent trains on a folder that it writes class by class."""
    mixed = CIFAR10.__new__(CIFAR10)  # without its files
    mixed.root, mixed.train, mixed.target_transform = str(place), True, None
    mixed.classes = list(NAMES)
    mixed.transform = mixed.transforms = data.train.transform
    mixed.data = torch.stack([image for image, _ in scenes(8, 0)]).permute(0, 2, 3, 1).numpy()
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    mixed.data, mixed.targets = mixed.data[order.numpy()], (order // 8).tolist()
    given = ToolboxData(mixed, data.test, NAMES, SIZE)  # type: ignore[arg-type]
    found = attack(core, "LabelConsistent", given, models["vit"], place)
    board = pixels(found.test)[0, :, -3:, -3:]
    ends = pixels(found.train)[:, :, -3:, -3:]
    marked = [i for i, end in enumerate(ends) if torch.equal(end, board)]
    assert list(found.poisoned_indices or ()) == marked
    assert found.train is not None
    assert {found.train[i][1] for i in marked} == {TARGET}


@pytest.mark.toolbox
def test_a_rate_among_the_options_counts(
    core: Any, data: ToolboxData, models: dict[str, StagedClassifier], place: Path
) -> None:
    found = attack(core, "BadNets", data, models["vit"], place, options={"rate": 0.1})
    assert found.poisoned_indices is not None
    assert len(found.poisoned_indices) == 4


@pytest.mark.toolbox
def test_a_search_without_result_is_told(
    core: Any, data: ToolboxData, models: dict[str, StagedClassifier], place: Path
) -> None:
    options = {"passes": 1, "deepfool_steps": 1}
    with pytest.raises(InputError, match="Raise deepfool_steps"):
        attack(core, "TUAP", data, models["rn"], place, options=options)


@pytest.mark.toolbox
def test_seed_decides(
    core: Any, data: ToolboxData, models: dict[str, StagedClassifier], place: Path
) -> None:
    runs = [attack(core, "Blended", data, models["vit"], place, seed=seed) for seed in (1, 1, 2)]
    first, same, other = runs
    assert_same(first.model.state_dict(), copied(same.model.state_dict()))
    assert first.poisoned_indices == same.poisoned_indices != other.poisoned_indices


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown attack": ({"name": "BadNet"}, "Did you mean 'BadNets'"),
    "unknown option": ({"options": {"sell": 1}}, r"an option of BadNets \(rate, cell\)"),
    "target": ({"target": 5}, "target from 0 to 4"),
    "no poisoned image": ({"rate": 0.01}, "at least one of the 40"),
    "no poisoned image of the target": (
        {"name": "TUAP", "rate": 0.1},
        "at least one of the 8 training images of the target class",
    ),
    "all poisoned": ({"rate": 1.0}, "between 0 and 1"),
    "gpu": ({"training": ToolboxTraining(device="GPU")}, "device='cuda'"),
    "image size": ({"size": 16}, r"images \[3, 16, 16\]"),
    "source": ({"name": "SleeperAgent", "options": {"source": TARGET}}, "other than the target"),
    "alphas": ({"name": "AdaptivePatch", "options": {"alphas": [1]}}, "four alphas"),
    "mask epochs": ({"name": "IAD", "options": {"mask_epochs": 0}}, "one mask epoch"),
    "rate of IAD": ({"name": "IAD", "rate": 0.6}, "at most 0.5"),
    "batch": (
        {"name": "ISSBA", "training": ToolboxTraining(batch_size=3)},
        "a poisoned image in every batch",
    ),
}


@pytest.mark.toolbox
@pytest.mark.parametrize("case", WRONG)
def test_what_is_refused(
    core: Any, data: ToolboxData, models: dict[str, StagedClassifier], tmp_path: Path, case: str
) -> None:
    changed, message = copy.copy(WRONG[case][0]), WRONG[case][1]
    name = changed.pop("name", "BadNets")
    size = changed.pop("size", SIZE)
    given = ToolboxData(data.train, data.test, NAMES, size)
    with pytest.raises(InputError, match=message):
        attack(core, name, given, models["vit"], tmp_path, **changed)


@pytest.mark.toolbox
@pytest.mark.parametrize("name", ["Blind", "LIRA", "SleeperAgent"])
def test_models_with_idle_weights_are_refused_where_all_gradients_count(
    core: Any, data: ToolboxData, tmp_path: Path, name: str
) -> None:
    with pytest.raises(InputError, match=r"Pass a CLIP as staged\(classifier\)"):
        attack(core, name, data, toy_classifier("vit", class_names=NAMES), tmp_path)


@pytest.mark.toolbox
@pytest.mark.parametrize(("name", "side"), [("IAD", 8), ("LIRA", 16), ("ISSBA", 32)])
def test_sizes_that_generators_cannot_take(
    core: Any, models: dict[str, StagedClassifier], tmp_path: Path, name: str, side: int
) -> None:
    folder = toolbox_folder(export_folder(scenes(4, 0), NAMES, tmp_path / "set"), 28)
    data = ToolboxData(folder, folder, NAMES, 28)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, 5))
    with pytest.raises(InputError, match=f"multiple of {side}"):
        attack(core, name, data, model, tmp_path / "work")


@pytest.mark.toolbox
def test_the_clone_stays_clean(core: Any) -> None:
    home = clone()
    told = subprocess.run(
        ["git", "-C", home, "status", "--porcelain"], capture_output=True, text=True, check=False
    )
    assert told.stdout == ""


def make_training(**numbers: Any) -> Callable[[], ToolboxTraining]:
    return lambda: ToolboxTraining(**numbers)


@pytest.mark.parametrize("numbers", [{"epochs": 0}, {"batch_size": 0}])
def test_a_training_without_steps(numbers: dict[str, int]) -> None:
    with pytest.raises(InputError, match="of 1 or more"):
        make_training(**numbers)()


def test_schedule_has_all_keys() -> None:
    from invertune_plugin.adapters.backdoorbox.schedules import REQUIRED, check_schedule

    schedule = ToolboxTraining(milestones=(2,)).schedule("work", "BadNets", lr=0.5)
    assert schedule["lr"] == 0.5
    assert schedule["schedule"] == [2]
    for call in ("BadNets.train", "Blind.train", "ISSBA.train", "FineTuning.repair"):
        assert call in REQUIRED
        check_schedule(schedule, call)


def test_benign_training_learns_and_leaves_the_rest(data: ToolboxData) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 5))
    twin, state = copy.deepcopy(model), torch.get_rng_state()
    steps: list[tuple[int, int, float]] = []
    training = ToolboxTraining(epochs=4, batch_size=20, milestones=(3,))
    train_benign(model, data.train, training, 0, lambda *step: steps.append(step))
    train_benign(twin, data.train, training, 0)
    assert [step[:2] for step in steps] == [(i + 1, 8) for i in range(8)]
    assert steps[-1][2] < steps[0][2]
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(model.state_dict(), copied(twin.state_dict()))
    assert all(weight.grad is None for weight in model.parameters())
