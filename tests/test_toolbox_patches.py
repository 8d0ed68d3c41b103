"""Every patch, against the real clone: it fits the lines it names, and they fail without it."""

from __future__ import annotations

import ast
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import TensorDataset
from torchvision.datasets import DatasetFolder
from torchvision.transforms import Compose, ToTensor

from invertune_plugin import load_toolbox
from invertune_plugin.adapters.backdoorbox import shims
from invertune_plugin.adapters.backdoorbox.loader import loaded_toolbox
from invertune_plugin.adapters.backdoorbox.locate import TESTED_COMMIT
from invertune_plugin.adapters.backdoorbox.patches import PATCHES

HOME = os.environ.get("BACKDOORBOX_HOME")
CUDA = torch.cuda.is_available()
pytestmark = [
    pytest.mark.toolbox,
    pytest.mark.skipif(not HOME, reason="BACKDOORBOX_HOME names no clone of BackdoorBox"),
]
SIDE, CLASSES = 16, 5
STEPS = {
    "batch_size": 5,
    "num_workers": 0,
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "gamma": 0.1,
    "schedule": [],
    "milestones": [],
    "epochs": 1,
    "log_iteration_interval": 100,
    "test_epoch_interval": 100,
    "save_epoch_interval": 100,
    "benign_training": False,
    "experiment_name": "x",
}


class Net(nn.Module):
    """Smallest classifier with a layer to prune."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=4)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(64, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(images)).flatten(1))


class Bench:
    """What the scenarios are played with."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        for i in range(4 * CLASSES):
            path = folder / "images" / str(i % CLASSES) / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(path)
        self.folder = folder
        self.loss = nn.CrossEntropyLoss()
        self.steps = {**STEPS, "save_dir": str(folder / "out")}

    @property
    def images(self) -> DatasetFolder:
        root = str(self.folder / "images")
        return DatasetFolder(root, _opened, ("png",), Compose([ToTensor()]))

    @property
    def common(self) -> dict[str, Any]:
        torch.manual_seed(0)
        sets = {"train_dataset": self.images, "test_dataset": self.images}
        return {**sets, "model": Net(), "loss": self.loss, "y_target": 1}

    def blind(self, module: Any, **more: Any) -> Any:
        pattern, alpha = torch.zeros(3, SIDE, SIDE), torch.zeros(3, SIDE, SIDE)
        more = {"use_neural_cleanse": False, "pattern": pattern, "alpha": alpha, **more}
        return module.Blind(**self.common, **more)

    def issba(self, module: Any) -> Any:
        sizes = {"secret_size": 4, "enc_height": SIDE, "enc_width": SIDE, "enc_in_channel": 3}
        encoder = {**sizes, "enc_total_epoch": 0, "enc_secret_only_epoch": 0, "enc_use_dis": False}
        batch = (torch.rand(1, 3, SIDE, SIDE), torch.ones(1, 4))
        module.DataLoader = lambda *_, **__: [batch]
        module.lpips = SimpleNamespace(LPIPS=_lpips)
        attack = module.ISSBA(
            "gtsrb", train_steg_set=None, poisoned_rate=0.1, encoder_schedule=encoder,
            schedule=self.steps, **self.common,
        )  # fmt: skip
        attack.device, attack.work_dir, attack.log = torch.device("cpu"), str(self.folder), print
        module.StegaStampEncoder = lambda **_: _Residual()
        module.StegaStampDecoder = module.Discriminator = lambda **_: nn.LazyLinear(1)
        module.get_secret_acc = lambda *_: 1.0
        return attack

    def sleeper(self, module: Any) -> None:
        attack = module.SleeperAgent(
            **self.common, patch=torch.zeros(3, 4, 4), random_patch=False, eps=0.1, y_source=0,
            poisoned_rate=0.2,
        )  # fmt: skip
        part = {"pretrain_schedule": self.steps, "retrain_schedule": self.steps}
        steps = {**self.steps, **part, "craft_iters": 2, "retrain_iter_interval": 9}
        attack.train(lambda model: model, steps)


class _Residual(nn.Linear):
    def __init__(self) -> None:
        super().__init__(1, 1)

    def forward(self, inputs: list[Tensor]) -> Tensor:
        return 0.1 * (inputs[1] - 0.5)


def _lpips(net: str, pnet_rand: bool = False) -> nn.Module:
    if not pnet_rand:
        raise URLError("no network")
    return nn.Identity()


def _opened(path: str) -> Image.Image:
    return Image.open(path).convert("RGB")


def parsed(path: Path) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(path.read_text(encoding="utf-8"), str(path))


def variant(name: str, without: str | None = None, device: str = "cpu") -> ModuleType:
    """A module of the loaded toolbox, executed again with all patches but one."""
    name = f"core.{name}"
    path = str(sys.modules[name].__file__)
    tree = parsed(Path(path))
    for patch in PATCHES:
        if patch.name != without:
            patch.apply(name, tree)
    module = ModuleType(name)
    module.__file__, module.__package__ = path, name.rpartition(".")[0]
    vars(module).update(_device=torch.device(device), _shims=shims)
    exec(compile(tree, path, "exec"), vars(module))
    return module


@pytest.fixture(scope="session")
def core() -> ModuleType:
    return load_toolbox(HOME)


@pytest.fixture
def bench(core: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path)


def cuda_calls(module: Any, bench: Bench) -> None:
    module.SCALE_UP(Net())


def schedule_device(module: Any, bench: Bench) -> None:
    defense = module.Pruning(bench.images, bench.images, Net(), "conv", 0.5)
    defense.repair(bench.steps)
    kept = defense.get_model()(torch.rand(1, 3, SIDE, SIDE))
    assert kept.shape == (1, CLASSES)


def tuap_device(module: Any, bench: Bench) -> None:
    more = {"poisoned_rate": 0.2, "mask": torch.ones(3, SIDE, SIDE), "num_classes": CLASSES}
    attack = module.TUAP(
        **bench.common, benign_model=Net(), **more, max_iter_uni=1, max_iter_df=2, epsilon=0.1,
        delta=0.2, p_norm=np.inf, overshoot=0.02, p_samples=0.05,
    )  # fmt: skip
    assert attack.pattern.device.type == "cpu"


def issba_device(module: Any, bench: Bench) -> None:
    attack = bench.issba(module)
    attack.device = None
    attack.train_encoder_decoder()


def lpips_offline(module: Any, bench: Bench) -> None:
    attack = bench.issba(module)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        attack.train_encoder_decoder()
    assert any("random" in str(warning.message) for warning in told)


def issba_workers(module: Any, bench: Bench) -> None:
    attack, asked = bench.issba(module), []
    module.DataLoader = lambda *_, num_workers, **__: asked.append(num_workers) or []
    attack.encoder = attack.decoder = nn.Identity()
    attack.current_schedule = {**bench.steps, "num_workers": 3}
    attack.get_img()
    assert asked == [3]


def imageio_uint8(module: Any, bench: Bench) -> None:
    attack = bench.issba(module)
    attack.train_encoder_decoder()
    attack.get_img()
    assert (bench.folder / "residual.jpg").is_file()


def mask_on_cpu(module: Any, bench: Bench) -> None:
    module.SCALE_UP(Net())._test(bench.images)


def blind_learning_rate(module: Any, bench: Bench) -> None:
    bench.blind(module).train(bench.steps)


def blind_pretrain(module: Any, bench: Bench) -> None:
    attack, path = bench.blind(module), str(bench.folder / "pretrain.pth")
    torch.save({"model": Net().state_dict(), "nc_model": attack.nc_model.state_dict()}, path)
    attack.train({**bench.steps, "epochs": 0, "pretrain": path})


def same_schedule(module: Any, bench: Bench) -> None:
    bench.blind(module, schedule=bench.steps).test(bench.steps)


def own_poisoned_set(module: Any, bench: Bench) -> None:
    attack = bench.issba(module)
    module.DataLoader = torch.utils.data.DataLoader
    attack.test(bench.steps)


def sleeper_agent(module: Any, bench: Bench) -> None:
    bench.sleeper(module)


def scale_up_threshold(module: Any, bench: Bench) -> None:
    assert module.SCALE_UP(Net(), threshold=0.3).T == 0.3
    assert module.SCALE_UP(Net()).T == 0.5


def one_class_matrix(module: Any, bench: Bench) -> None:
    """No benign image is read correctly, so that only poisoned ones are left."""
    defense = module.SCALE_UP(Net())
    scores = [torch.zeros(0), torch.ones(4)]
    defense._test = lambda _: scores.pop(0)
    defense.test(None, None)


def refine_predict(module: Any, bench: Bench) -> None:
    calls: list[int] = []

    class Unet(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            calls.append(len(images))
            return images

    defense = module.REFINE(Unet(), Net(), num_classes=CLASSES)
    found = defense.predict(torch.rand(7, 3, SIDE, SIDE), bench.steps)
    assert found.shape == (7, CLASSES)
    assert calls == [5, 2], "the network runs once over every image"


def abl_filtered_set(module: Any, bench: Bench) -> None:
    sets = bench.images, bench.images, bench.images
    for images in sets:
        images.poisoned_transform = images.transform  # type: ignore[attr-defined]
    module.TensorsDataset = sys.modules["core.defenses.ABL"].TensorsDataset  # to be pickled
    defense = module.ABL(Net(), bench.loss, *sets)
    parts = ("pre_isolation", "split", "clean", "unlearning", "test")
    steps = {**bench.steps, "epochs": 0}
    schedule = {**bench.steps, **{f"{part}_schedule": steps for part in parts}}
    single = nn.CrossEntropyLoss(reduction="none")
    defense.train(0.2, bench.loss, 0.5, schedule, nn.Identity(), single)
    assert len(defense.get_filtered_poisoned_dataset()) == 4


def imported(module: Any, bench: Bench) -> None:
    """That the module could be executed is all."""


def numpy_int(module: Any, bench: Bench) -> None:
    defense = module.CutMix(Net(), bench.loss, beta=1.0, cutmix_prob=1.0)
    assert len(defense.rand_bbox((1, 3, 8, 8), 0.5)) == 4


def reflected(module: Any, bench: Bench) -> None:
    trigger = module.AddTriggerMixin(
        4, [np.full((SIDE, SIDE, 3), 200, np.uint8)], max_image_size=32, ghost_rate=1.0
    )
    assert {3, 8} >= {trigger.offset_xs.min(), trigger.offset_xs.max()} - set(range(4, 8))
    trigger._add_trigger(torch.full((3, SIDE, SIDE), 100, dtype=torch.uint8), 0)


def random_integers(module: Any, bench: Bench) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trigger = module.AddTriggerMixin(500, [np.zeros((8, 8, 3), np.uint8)])
    assert set(trigger.offset_xs) == set(range(3, 9)), "both ends belong to the range"


def hdbscan_class(module: Any, bench: Bench) -> None:
    module.HDBSCAN(min_cluster_size=5, gen_min_span_tree=True, prediction_data=True)


def flare_predictions(module: Any, bench: Bench) -> None:
    """Dark and light images, without the projection, which takes long to compile."""
    same = SimpleNamespace(fit_transform=lambda likelihoods: likelihoods)
    module.umap = SimpleNamespace(UMAP=lambda **_: same)
    light = torch.tensor([0.2] * 160 + [0.9] * 120)
    images = torch.rand(280, 3, SIDE, SIDE) * 0.1 + light.view(-1, 1, 1, 1)
    defense = module.FLARE(Net())
    defense.detect(TensorDataset(images, torch.zeros(280)), light.numpy() > 0.5)
    assert defense.y_preds.shape == (280,)


def label_shuffle(module: Any, bench: Bench) -> None:
    path, allowed = bench.folder / "label_shuffle.pth", torch.serialization.get_safe_globals()
    torch.save(np.arange(CLASSES)[::-1].copy(), path)
    defense = module.REFINE(nn.Identity(), Net(), arr_path=str(path), num_classes=CLASSES)
    assert defense.arr_shuffle.tolist() == [4, 3, 2, 1, 0]
    assert set(torch.serialization.get_safe_globals()) == set(allowed)


def safe_load(module: Any, bench: Bench) -> None:
    path = bench.folder / "unet.pth"
    torch.save(Net().state_dict(), path)
    asked: dict[str, Any] = {}
    read = torch.load
    module.torch = SimpleNamespace(**vars(torch))
    module.torch.load = lambda path, **how: asked.update(how) or read(path, **how)
    module.REFINE(Net(), Net(), pretrain=str(path), num_classes=CLASSES)
    assert asked == {"map_location": "cpu", "weights_only": True}


Scenario = Callable[[Any, Bench], None]
SCENARIOS: dict[str, tuple[str, Scenario, type[Exception] | tuple[type[Exception], ...]]] = {
    "cuda-calls": ("defenses.SCALE_UP", cuda_calls, (RuntimeError, AssertionError)),
    "schedule-device": ("defenses.Pruning", schedule_device, (RuntimeError, AssertionError)),
    "tuap-device": ("attacks.TUAP", tuap_device, (RuntimeError, TypeError)),
    "issba-device": ("attacks.ISSBA", issba_device, (RuntimeError, AssertionError)),
    "mask-on-cpu": ("defenses.SCALE_UP", mask_on_cpu, RuntimeError),
    "blind-learning-rate": ("attacks.Blind", blind_learning_rate, TypeError),
    "blind-pretrain": ("attacks.Blind", blind_pretrain, TypeError),
    "test-schedule": ("attacks.Blind", same_schedule, AttributeError),
    "own-poisoned-set": ("attacks.ISSBA", own_poisoned_set, AttributeError),
    "sleeper-agent-test": ("attacks.SleeperAgent", sleeper_agent, ValueError),
    "scale-up-threshold": ("defenses.SCALE_UP", scale_up_threshold, AttributeError),
    "one-class-matrix": ("defenses.SCALE_UP", one_class_matrix, ValueError),
    "refine-predict": ("defenses.REFINE", refine_predict, (NameError, TypeError)),
    "abl-filtered-set": ("defenses.ABL", abl_filtered_set, ValueError),
    "flare-predictions": ("defenses.FLARE", flare_predictions, AttributeError),
    "zero-gradients": ("attacks.TUAP", imported, ImportError),
    "numpy-int": ("defenses.CutMix", numpy_int, AttributeError),
    "numpy-pad": ("attacks.Refool", reflected, AttributeError),
    "numpy-random-integers": ("attacks.Refool", random_integers, (Warning, AttributeError)),
    "keep-gradients": ("attacks.SleeperAgent", sleeper_agent, (TypeError, AttributeError)),
    "hdbscan-class": ("defenses.FLARE", hdbscan_class, TypeError),
    "issba-workers": ("attacks.ISSBA", issba_workers, AssertionError),
    "lpips-offline": ("attacks.ISSBA", lpips_offline, URLError),
    "imageio-uint8": ("attacks.ISSBA", imageio_uint8, TypeError),
    "curves-of-package": ("models.resnet_curve", imported, ModuleNotFoundError),
    "label-shuffle": ("defenses.REFINE", label_shuffle, Exception),
    "safe-load": ("defenses.REFINE", safe_load, AssertionError),
}
NEEDS_NO_CUDA = {"cuda-calls", "schedule-device", "tuap-device", "issba-device"}


def test_every_patch_has_a_scenario() -> None:
    assert set(SCENARIOS) == {patch.name for patch in PATCHES}


@pytest.mark.parametrize("name", SCENARIOS)
def test_with_the_patch_it_works(name: str, bench: Bench) -> None:
    module, scenario, _ = SCENARIOS[name]
    scenario(variant(module), bench)


@pytest.mark.parametrize("name", SCENARIOS)
def test_without_the_patch_it_fails(name: str, bench: Bench) -> None:
    if CUDA and name in NEEDS_NO_CUDA:
        pytest.skip("fails only on a machine without CUDA")
    if not CUDA and name == "mask-on-cpu":
        pytest.skip("fails only on a machine with CUDA")
    module, scenario, error = SCENARIOS[name]
    device = "cuda" if name == "mask-on-cpu" else "cpu"
    with pytest.raises(error):
        scenario(variant(module, without=name, device=device), bench)


def test_every_patch_changes_the_lines_it_names(core: ModuleType) -> None:
    commit = loaded_toolbox(core).clone.commit
    if not (commit or "").startswith(TESTED_COMMIT):
        pytest.skip(f"the lines are those of {TESTED_COMMIT}, the clone is at {commit}")
    changed = {patch.name: dict(patch.places) for patch in PATCHES}
    for name in sorted({module for patch in PATCHES for module in patch.places}):
        tree = parsed(Path(str(core.__file__)).parent / (name.replace(".", "/") + ".py"))
        for patch in PATCHES:
            lines = patch.apply(f"core.{name}", tree)
            assert lines is None or tuple(lines) == changed[patch.name].pop(name), patch.name
    assert not any(changed.values())
