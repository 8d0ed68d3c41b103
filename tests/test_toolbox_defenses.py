"""Every defence of the real toolbox, and InverTune, on tiny CLIP classifiers."""

from __future__ import annotations

import copy
import os
import random
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset
from torchvision.datasets import DatasetFolder
from toys import assert_same, copied, noise_images, toy_classifier
from upstream import clone

from invertune_plugin.adapters.backdoorbox.defenses.inputs import Guarded, PlacedByContent
from invertune_plugin.adapters.backdoorbox.defenses.job import fitting
from invertune_plugin.adapters.backdoorbox.defenses.limits import map_layers
from invertune_plugin.adapters.backdoorbox.defenses.plain_sets import PlainSet
from invertune_plugin.adapters.backdoorbox.defenses.recipe import (
    DEFENSES,
    Defended,
    Suspicion,
    run_defense,
    why_not,
)
from invertune_plugin.adapters.backdoorbox.defenses.retraining import drawn_anew
from invertune_plugin.adapters.backdoorbox.evaluator import evaluate
from invertune_plugin.adapters.backdoorbox.folders import export_folder, toolbox_folder
from invertune_plugin.adapters.backdoorbox.staged import staged
from invertune_plugin.adapters.backdoorbox.training import ToolboxTraining
from invertune_plugin.data import InMemory, to_unit
from invertune_plugin.errors import InputError
from invertune_plugin.metrics import Rate

toolbox = pytest.mark.toolbox
NAMES = ("cat", "dog", "ring", "star", "boat")
SIZE, TARGET, BATCH = 32, 2, 16
TRAINED = ("FineTuning", "NAD", "CutMix", "ABL", "MCR")
IN_FRONT = ("ShrinkPad", "AutoEncoderDefense", "REFINE")
OF_TRIGGERS = ("SCALE_UP", "IBD_PSC")
NEEDS_BATCH_NORM = ("IBD_PSC", "FLARE")
FINDS_ALWAYS: dict[str, Any] = {
    "target": {"shift_steps": 1, "cost_steps": 1, "candidates": 2, "ratio": 1e9},
    "inversion": {"steps": 2, "batch_size": 4, "visual_images": 2, "least_asr": 0, "most_area": 1},
    "tuning": {"steps": 2, "rounds": 1, "batch_size": 8, "most_asr": 1, "least_agreement": 0},
    "least_images": 8,
}
OPTIONS: dict[str, dict[str, Any]] = {
    "InverTune": {"config": FINDS_ALWAYS},
    "Pruning": {"prune_rate": 0.9},
    "REFINE": {"first_channels": 4},
}
"""Settings that make a defence small, or sure to act on random weights."""


@dataclass(frozen=True)
class Bench:
    """What the defences are played with."""

    core: Any
    clean: DatasetFolder
    test: DatasetFolder
    poisoned_train: Any
    poisoned_test: Any

    def suspicion(self, model: nn.Module) -> Suspicion:
        return Suspicion(
            model=model,
            clean=self.clean,
            test=self.test,
            poisoned_train=self.poisoned_train,
            poisoned_test=self.poisoned_test,
            poisoned_indices=tuple(self.poisoned_train.poisoned_set),
            class_names=NAMES,
            image_size=SIZE,
        )

    def run(self, name: str, suspicion: Suspicion, work_dir: Path, **options: Any) -> Defended:
        return run_defense(
            self.core,
            name,
            suspicion,
            target=TARGET,
            seed=3,
            training=ToolboxTraining(batch_size=BATCH),
            work_dir=work_dir,
            options={**OPTIONS.get(name, {}), **options},
        )


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    from invertune_plugin.adapters.backdoorbox.loader import load_toolbox

    core = load_toolbox(clone())
    root = tmp_path_factory.mktemp("sets")
    sets = []
    for seed, (name, count) in enumerate({"clean": 33, "test": 20, "train": 40}.items()):
        labels = [i % len(NAMES) for i in range(count)]
        images = InMemory(noise_images(count, SIZE, seed), labels)
        sets.append(toolbox_folder(export_folder(images, NAMES, root / name)))
    clean, test, train = sets
    pattern = torch.zeros(SIZE, SIZE, dtype=torch.uint8)
    pattern[-8:, -8:] = 255
    attack = core.BadNets(
        train_dataset=train,
        test_dataset=test,
        model=nn.Identity(),
        loss=nn.CrossEntropyLoss(),
        y_target=TARGET,
        poisoned_rate=0.2,
        pattern=pattern,
        weight=(pattern > 0).float(),
    )
    return Bench(core, clean, test, *attack.get_poisoned_dataset())


def classifier(tower: str) -> nn.Module:
    layers = 2 if tower == "vit" else 1
    return staged(toy_classifier(tower, layers=layers, class_names=NAMES))


def shared_state() -> tuple[Any, ...]:
    """What a process has only once."""
    kind, keys, *rest = np.random.get_state()
    backends = torch.backends.cudnn
    return (
        random.getstate(),
        (kind, np.asarray(keys).tobytes(), *rest),
        torch.get_rng_state().numpy().tobytes(),
        torch.are_deterministic_algorithms_enabled(),
        (backends.deterministic, backends.benchmark),
        {name: os.environ.get(name) for name in ("PYTHONHASHSEED", "CUDA_VISIBLE_DEVICES")},
    )


def state_of(model: nn.Module) -> tuple[Any, ...]:
    return (
        [module.training for module in model.modules()],
        [parameter.requires_grad for parameter in model.parameters()],
        [len(module._forward_hooks) for module in model.modules()],
        [parameter.grad is None for parameter in model.parameters()],
    )


def seen(dataset: Any) -> tuple[Any, ...]:
    """Settings and items of a data set."""
    steps = {name: id(getattr(dataset, name, None)) for name in ("transform", "poisoned_transform")}
    items = [(image.numpy().tobytes(), int(label)) for image, label in dataset]
    return steps, items


def clone_state() -> str:
    command = ["git", "-C", clone(), "status", "--porcelain", "--ignored"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def assert_fits(name: str, given: nn.Module, found: Defended) -> None:
    """The model is what this defence gives back."""
    if name in (*OF_TRIGGERS, "FLARE"):
        assert found.model is None
        return
    assert found.model is not None
    images = to_unit(noise_images(3, SIZE, 9))
    with torch.no_grad():
        logits = copy.deepcopy(found.model).eval()(images)
        before = copy.deepcopy(given).eval()(images)
    assert logits.shape == (3, len(NAMES))
    assert logits.isfinite().all()
    assert torch.equal(logits, before) == (name == "none")
    if name == "none":
        assert found.model is given
    elif name in IN_FRONT:
        assert isinstance(found.model, Guarded)
        assert not found.model.training
        assert_same(found.model.model.state_dict(), given.state_dict())
    else:
        old, new = given.state_dict(), found.model.state_dict()
        assert type(found.model) is type(given)
        assert new.keys() == old.keys()
        assert any(not torch.equal(new[key], old[key]) for key in new) == (name != "Pruning")
        assert [m.training for m in found.model.modules()] == [m.training for m in given.modules()]


def assert_numbers(name: str, found: Defended) -> None:
    if name in OF_TRIGGERS:
        assert found.tpr is not None
        assert found.fpr is not None
        assert found.auroc is not None
        assert found.tpr.n == found.fpr.n == 20
        assert 0 <= found.auroc <= 1
    else:
        assert (found.tpr, found.fpr, found.auroc) == (None, None, None)
    assert (found.found_target is None) == (name != "InverTune")
    assert found.seconds > 0


PAIRS = [(name, tower) for name in DEFENSES for tower in ("rn", "vit") if name != "FLARE"]


@toolbox
@pytest.mark.parametrize(("name", "tower"), PAIRS)
def test_a_defence_runs_and_changes_nothing(
    name: str, tower: str, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = classifier(tower)
    next(model.parameters()).requires_grad_(False)
    next(model.children()).train()
    sets = (bench.clean, bench.test, bench.poisoned_train, bench.poisoned_test)
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    weights, modes, items = copied(model.state_dict()), state_of(model), [*map(seen, sets)]
    clone, shared = clone_state(), shared_state()

    found = bench.run(name, bench.suspicion(model), tmp_path / "work")

    assert shared_state() == shared
    assert_same(model.state_dict(), weights)
    assert state_of(model) == modes
    assert [*map(seen, sets)] == items
    assert clone_state() == clone
    assert not list(here.iterdir())
    assert {path.name for path in tmp_path.iterdir()} <= {"here", "work"}
    if name in NEEDS_BATCH_NORM and tower == "vit":
        assert found.outcome == "impossible"
        assert found.reason == why_not(name, model)
        return
    assert found.outcome == "ok", found.reason
    assert_fits(name, model, found)
    assert_numbers(name, found)
    if found.model is not None:
        rates = evaluate(found.model, bench.test, bench.poisoned_test, TARGET)
        assert rates["ca"].n == 20
        assert shared_state() == shared


def light_and_dark(count: int = 280) -> tuple[TensorDataset, tuple[int, ...]]:
    """Images of two kinds that every layer tells apart; the light ones count as poisoned."""
    poisoned = tuple(range(count * 4 // 7, count))
    light = torch.zeros(count)
    light[list(poisoned)] = 0.7
    images = torch.rand(count, 3, SIZE, SIZE) * 0.1 + light.view(-1, 1, 1, 1)
    return TensorDataset(images, torch.zeros(count, dtype=torch.long)), poisoned


@toolbox
@pytest.mark.slow
def test_flare_scores_the_training_set(bench: Bench, tmp_path: Path) -> None:
    """Slow: its projection is compiled first."""
    images, poisoned = light_and_dark()
    suspicion = replace(
        bench.suspicion(classifier("rn")), poisoned_train=images, poisoned_indices=poisoned
    )
    shared = shared_state()
    found = bench.run("FLARE", suspicion, tmp_path)
    assert shared_state() == shared
    assert found.outcome == "ok", found.reason
    assert found.tpr is not None
    assert found.fpr is not None
    assert (found.tpr.n, found.fpr.n) == (len(poisoned), len(images) - len(poisoned))
    assert found.auroc is None
    assert found.model is None


@toolbox
def test_flare_without_a_stable_split_fails(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def detect(*_: Any) -> None:
        raise TypeError("'NoneType' object is not subscriptable")

    monkeypatch.setattr(bench.core.FLARE, "detect", detect)
    images, poisoned = light_and_dark()
    suspicion = bench.suspicion(classifier("rn"))
    suspicion = replace(suspicion, poisoned_train=images, poisoned_indices=poisoned)
    found = bench.run("FLARE", suspicion, tmp_path)
    assert (found.outcome, found.tpr, found.fpr) == ("failed", None, None)
    assert "No split" in found.reason


@toolbox
def test_the_same_seed_gives_the_same_result(bench: Bench, tmp_path: Path) -> None:
    suspicion = bench.suspicion(classifier("rn"))
    for name in ("CutMix", "ABL", "REFINE"):
        states = []
        for turn in range(2):
            torch.rand(1), np.random.rand(), random.random()
            found = bench.run(name, suspicion, tmp_path / f"{name}{turn}")
            assert found.model is not None
            states.append(copied(found.model.state_dict()))
        assert_same(*states)


@toolbox
@pytest.mark.parametrize(
    ("name", "train"), [("AutoEncoderDefense", "train_autoencoder"), ("REFINE", "train_unet")]
)
def test_with_more_epochs_the_rate_falls_later(
    name: str, train: str, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Told(Exception):
        pass

    def tell(_: Any, train_set: Any, test_set: Any, schedule: dict[str, Any]) -> None:
        raise Told(schedule["epochs"], schedule["schedule"])

    monkeypatch.setattr(getattr(bench.core, name), train, tell)
    training = ToolboxTraining(epochs=10, milestones=(5, 7))
    for options, expected in (({}, (10, [5, 7])), ({"epochs": 30}, (30, [15, 21]))):
        with pytest.raises(Told) as told:
            run_defense(
                bench.core,
                name,
                bench.suspicion(classifier("rn")),
                target=TARGET,
                seed=0,
                training=training,
                work_dir=tmp_path,
                options=options,
            )
        assert told.value.args == expected


@toolbox
def test_pruned_channels_stay_silent_and_move_with_the_model(bench: Bench, tmp_path: Path) -> None:
    found = bench.run("Pruning", bench.suspicion(classifier("vit")), tmp_path, prune_rate=0.5)
    assert found.model is not None
    for model in (found.model, copy.deepcopy(found.model)):
        layer = model.get_submodule("block1")
        images = torch.rand(2, 16, 17, 1)
        with torch.no_grad():
            silent = layer(images).abs().sum((0, 2, 3)) == 0
        assert int(silent.sum()) == 8
        model.double()
        assert layer(images.double()).dtype == torch.float64
        assert layer.get_buffer("pruning_mask").dtype == torch.float64


@toolbox
def test_layers_by_name(bench: Bench, tmp_path: Path) -> None:
    model = classifier("rn")
    found = bench.run("FineTuning", bench.suspicion(model), tmp_path / "a", layer=["attnpool"])
    assert found.model is not None
    old, new = dict(model.named_parameters()), dict(found.model.named_parameters())
    changed = {key.split(".")[0] for key in new if not torch.equal(new[key], old[key])}
    assert changed == {"attnpool"}
    for name, options, message in (
        ("FineTuning", {"layer": ["layer9"]}, "among stem, layer1"),
        ("Pruning", {"layer": "attnpool"}, "which are stem, layer1, layer2, layer3, layer4, got"),
        ("NAD", {"target_layers": ["head"]}, "got head"),
    ):
        with pytest.raises(InputError, match=message):
            bench.run(name, bench.suspicion(model), tmp_path / name, **options)


@toolbox
def test_abl_begins_with_the_initial_model(bench: Bench, tmp_path: Path) -> None:
    suspicion, initial = bench.suspicion(classifier("vit")), classifier("vit")
    with torch.no_grad():
        initial.get_submodule("embed").get_parameter("class_embedding").fill_(7.0)
    before = copied(initial.state_dict())
    found = bench.run("ABL", suspicion, tmp_path / "a", initial=initial)
    assert found.model is not None
    assert_same(initial.state_dict(), before)
    assert (found.model.get_submodule("embed").get_parameter("class_embedding") > 6).all()
    with pytest.raises(InputError, match="the architecture of the suspect"):
        bench.run("ABL", suspicion, tmp_path / "b", initial=classifier("rn"))


@toolbox
def test_detectors_rate_all_images(bench: Bench, tmp_path: Path) -> None:
    """Their flags are those of ``detect``, which upstream gives for one batch."""
    model = classifier("vit")
    found = bench.run("SCALE_UP", bench.suspicion(model), tmp_path / "a", threshold=0.9)
    detector = bench.core.SCALE_UP(copy.deepcopy(model), threshold=0.9)
    flags = [detector.detect(PlainSet(s)) for s in (bench.poisoned_test, bench.test)]
    assert [found.tpr, found.fpr] == [Rate(int(f.sum()), len(f)) for f in flags]
    normalised = bench.run("SCALE_UP", bench.suspicion(model), tmp_path / "b", normalized=True)
    assert normalised.outcome == "ok"


@toolbox
def test_a_detector_without_a_layer_to_begin_with_fails(bench: Bench, tmp_path: Path) -> None:
    found = bench.run("IBD_PSC", bench.suspicion(classifier("rn")), tmp_path, xi=1.0)
    assert found.outcome == "failed"
    assert "no layer to begin with" in found.reason


@toolbox
def test_nothing_found_gives_the_suspect_back(bench: Bench, tmp_path: Path) -> None:
    model = classifier("vit")
    target = {**FINDS_ALWAYS["target"], "ratio": 0.0, "doubtful_ratio": 0.0}
    config = {**FINDS_ALWAYS, "target": target}
    found = bench.run("InverTune", bench.suspicion(model), tmp_path, config=config)
    assert (found.outcome, found.found_target) == ("rejected", None)
    assert found.model is model
    assert found.reason


@toolbox
def test_what_is_printed_is_kept(
    bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.run("FineTuning", bench.suspicion(classifier("vit")), tmp_path / "new" / "folder")
    assert not capsys.readouterr().out
    assert "fine tuning" in (tmp_path / "new" / "folder" / "output.txt").read_text()


@toolbox
@pytest.mark.parametrize(
    ("name", "changes", "options", "message"),
    [
        ("Pruneing", {}, {}, "known defence, got 'Pruneing'. Did you mean 'Pruning'"),
        ("Pruning", {}, {"rate": 1}, r"option of Pruning \(layer, prune_rate\), got 'rate'"),
        ("none", {}, {"layer": 1}, r"\(it has none\)"),
        ("none", {"class_names": NAMES[:2]}, {}, "target from 0 to 1, got 2"),
        ("ABL", {"poisoned_train": None}, {}, "poisoned training set .* Give it as poisoned_train"),
        ("ABL", {}, {"split_ratio": 0.9}, "at most half of the 40 training images, got 0.9"),
        ("SCALE_UP", {"poisoned_test": None}, {}, "poisoned test set"),
        ("FLARE", {}, {}, "200 training images or more.*got 40 images and some"),
    ],
)
def test_bad_input(
    name: str,
    changes: dict[str, Any],
    options: dict[str, Any],
    message: str,
    bench: Bench,
    tmp_path: Path,
) -> None:
    suspicion = replace(bench.suspicion(classifier("rn")), **changes)
    with pytest.raises(InputError, match=message):
        bench.run(name, suspicion, tmp_path, **options)


class Flat(nn.Module):
    """A classifier without maps, without BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * SIZE * SIZE, len(NAMES))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.flatten(1))


def test_why_not() -> None:
    plain = {"rn": classifier("rn"), "vit": classifier("vit"), "flat": Flat()}
    refused = {(n, m) for n in DEFENSES for m, model in plain.items() if why_not(n, model, SIZE)}
    assert refused == {
        *((name, "vit") for name in NEEDS_BATCH_NORM),
        *((name, "flat") for name in (*NEEDS_BATCH_NORM, "Pruning", "NAD")),
    }
    assert why_not("Pruning", plain["flat"]) == why_not("Pruning", plain["flat"], SIZE)
    zero_shot = toy_classifier("vit", class_names=NAMES)
    assert "staged()" in str(why_not("NAD", zero_shot))
    assert "multiple of 8 pixels, and these have 28" in str(
        why_not("AutoEncoderDefense", Flat(), 28)
    )
    assert "of 16 pixels or more, and these have 8" in str(why_not("REFINE", Flat(), 8))
    with pytest.raises(InputError, match="known defence"):
        why_not("NADA", Flat())


def test_map_layers() -> None:
    model = classifier("vit")
    assert map_layers(model, SIZE) == ("embed", "block0", "block1")
    assert map_layers(classifier("rn"), SIZE)[-1] == "layer4"
    with pytest.raises(InputError, match="takes images of 20 x 20"):
        map_layers(model, 20)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    ("wanted", "count", "expected"),
    [(64, 33, 33), (16, 33, 15), (16, 32, 16), (2, 5, 3), (8, 1, 1), (64, 2, 2)],
)
def test_no_batch_of_one_image(wanted: int, count: int, expected: int) -> None:
    assert fitting(wanted, count) == expected


def test_weights_drawn_anew() -> None:
    model = classifier("vit")
    before = copied(model.state_dict())
    state = drawn_anew(model).state_dict()
    learned = {name for name, p in model.named_parameters() if before[name].std() > 0}
    assert learned
    assert all(not torch.equal(state[name], before[name]) for name in learned)
    assert torch.equal(state["class_weights"], before["class_weights"])


def test_a_place_follows_from_the_image() -> None:
    def shift(image: Tensor) -> Tensor:
        return image.roll(random.randrange(8), -1)

    images = torch.rand(12, 3, 8, 8)
    state = random.getstate()
    place = PlacedByContent(shift, seed=1)
    found = place(images)
    assert random.getstate() == state
    assert torch.equal(found, torch.cat([place(images[:5]), place(images[5:])]))
    assert not torch.equal(found, PlacedByContent(shift, seed=2)(images))


def test_a_plain_set_is_a_view() -> None:
    pairs = [(noise_images(1)[0], torch.tensor(4)), (torch.rand(3, 32, 32), 2)]
    view = PlainSet(pairs)
    view.transform = view.poisoned_transform = F.relu
    items = list(view)
    assert [label for _, label in items] == [4, 2]
    assert all(image.is_floating_point() and image.max() <= 1 for image, _ in items)
    assert [label for _, label in PlainSet(pairs, [0, 1])] == [0, 1]
