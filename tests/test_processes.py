"""Two processes train and repair like one.

They are compared in float64: in float32 AdamW makes whole steps of gradients that are only rounding
(biases of attention keys have none), and a BatchNorm network of random weights enlarges them.
"""

from __future__ import annotations

import io
import json
import os
import socket
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import rn_config
from torch import Tensor, nn
from torchvision.utils import save_image
from toys import NAMES, assert_same, copied, noise_images, toy_classifier, toy_pairs

from invertune_plugin import cli
from invertune_plugin.adapters.accelerated import joined
from invertune_plugin.adapters.open_clip import load_clip, save_clip
from invertune_plugin.batch_norm import shared_statistics
from invertune_plugin.console import console
from invertune_plugin.data import ClassCaptions, InMemory, to_unit
from invertune_plugin.defenses.baselines import DefenderData, run_repair
from invertune_plugin.defenses.baselines.clean_clip import CleanClip, in_modal_penalty
from invertune_plugin.defenses.baselines.par import Par, push_away
from invertune_plugin.errors import InputError
from invertune_plugin.processes import ALONE, Processes
from invertune_plugin.training import TrainingConfig, train_contrastive
from invertune_plugin.zero_shot import ZeroShotClassifier

pytest.importorskip("accelerate", reason="needs the extra [distributed]")

TRAINING = TrainingConfig(epochs=1, batch_size=6, learning_rate=3e-3, shift=1, flip=True, seed=3)
REPAIR: dict[str, Any] = {
    "least_images": 8,
    "target": {"candidates": 2, "shift_steps": 2, "cost_steps": 2, "batch_size": 5, "ratio": 1.0},
    "inversion": {"steps": 3, "batch_size": 5, "least_asr": 0.0, "most_area": 1.0},
    "tuning": {"rounds": 2, "steps": 2, "batch_size": 4, "most_asr": 1.0, "least_agreement": 0.0},
}
PROMPTS = {"shots": 3, "length": 3, "epochs": 1, "batch_size": 5}
Found = dict[str, Tensor]


def suspect(tower: str) -> ZeroShotClassifier:
    return toy_classifier(tower).double()


def weights(classifier: Any) -> Found:
    return copied(classifier.state_dict())


def training(tower: str, penalty_of: Callable[..., Any] | None = None) -> Callable[..., Found]:
    def job(processes: Processes, folder: Path) -> Found:
        mine, losses = suspect(tower), []
        penalty = None if penalty_of is None else penalty_of(mine, processes)
        train_contrastive(
            mine,
            toy_pairs(20),
            TRAINING,
            resume_path=folder / "resume" / f"{tower}-{processes.count}-{penalty is None}",
            report=lambda done, steps, loss: losses.append(loss),
            penalty=penalty,
            processes=processes,
        )
        return {
            **weights(mine),
            "class_weights": mine.class_weights,
            "losses": torch.tensor(losses),
        }

    return job


def clean_clip(mine: ZeroShotClassifier, processes: Processes) -> Any:
    return in_modal_penalty(mine, CleanClip(), 5, processes)


def par(mine: ZeroShotClassifier, processes: Processes) -> Any:
    return push_away(suspect("vit").requires_grad_(False), Par(), processes)


def repair(name: str, tower: str, options: dict[str, Any]) -> Callable[..., Found]:
    def job(processes: Processes, folder: Path) -> Found:
        images = InMemory(noise_images(15), [i % len(NAMES) for i in range(15)])
        data = DefenderData(ClassCaptions(images, NAMES, ("a photo of a {} .",)), images)
        torch.set_default_dtype(torch.float64)
        try:
            made = run_repair(name, suspect(tower), data, options, 3, processes=processes)
        finally:
            torch.set_default_dtype(torch.float32)
        told = [float(v) for stage in made.stages for v in stage.evidence.values()]
        passes = torch.tensor(sum(stage.passes for stage in made.stages) > 0)
        return {**weights(made.classifier), "told": torch.tensor(told), "passes": passes}

    return job


def normalising(processes: Processes, folder: Path) -> Found:
    """A BatchNorm that forgets slowly, one that averages, and one without weights or memory."""
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.BatchNorm2d(3),
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4, momentum=None),
        nn.BatchNorm2d(4, affine=False, track_running_stats=False),
    ).double()
    images = to_unit(noise_images(6, 8)).double().requires_grad_()
    with shared_statistics(layers, processes):
        for _ in range(2):
            processes.spread(layers, images).sin().square().sum().backward()
        processes.average([images, *layers.parameters()])
        layers.eval()
        still = processes.spread(layers, images)
    gradients = {f"{n}.grad": p.grad for n, p in layers.named_parameters() if p.grad is not None}
    assert images.grad is not None
    return {**weights(layers), **gradients, "still": still.detach(), "images.grad": images.grad}


JOBS: dict[str, Callable[[Processes, Path], Found]] = {
    "training of a ResNet": training("rn"),
    "CleanCLIP": training("rn", clean_clip),
    "PAR": training("vit", par),
    "linear probe": repair("linear_probe", "vit", {"batch_size": 7}),
    "prompts": repair("rvpt", "vit", PROMPTS),
    "InverTune on a ResNet": repair("inver_tune", "rn", REPAIR),
    "InverTune on a ViT": repair("inver_tune", "vit", REPAIR),
    "BatchNorm": normalising,
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint, classes, images and settings for the command."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "rn.json").write_text(json.dumps(rn_config()))
    torch.manual_seed(0)
    save_clip(folder / "rn.safetensors", load_clip(folder / "rn.json"), {})
    (folder / "classes.txt").write_text("\n".join(NAMES))
    (folder / "config.yaml").write_text(json.dumps(REPAIR))
    for i, image in enumerate(to_unit(noise_images(20))):
        part = folder / ("images" if i < 12 else "labelled") / NAMES[i % 4]
        part.mkdir(parents=True, exist_ok=True)
        save_image(image, part / f"{i:02}.png")
    return folder


def command(lab: Path, out: str) -> tuple[int, str]:
    """Exit code of ``invertune repair`` on the lab, and what it said."""
    files = {"images": "images", "test": "labelled", "classes": "classes.txt"}
    files |= {"config": "config.yaml", "out": out}
    words = [part for name, file in files.items() for part in (f"--{name}", str(lab / file))]
    os.environ["INVERTUNE_CACHE"] = str(lab / "cache")
    sys.argv = ["invertune", "repair", str(lab / "rn.safetensors"), "--device", "cpu", *words]
    said = io.StringIO()
    console.file = said
    with redirect_stdout(said):
        try:
            cli.main()
        except SystemExit as left:
            return int(left.code or 0), said.getvalue()
        finally:
            console.file = None
    return 0, said.getvalue()


def one_of_two(rank: int, folder: Path, lab: Path, port: int) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2")
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    with joined("cpu") as processes:
        for name, job in JOBS.items():
            torch.save(job(processes, folder), folder / f"{name}.{rank}")
        small = {
            "count": processes.count,
            "main": processes.is_main,
            "share": [processes.share(list("abcde")), processes.share(list("a"))],
            "rows": processes.share(torch.arange(4)).tolist(),
            "items": processes.gather_items([rank]),
            "agreed": processes.agree(f"from {rank}"),
            "total": processes.total(torch.tensor([1.0, rank])).tolist(),
            "command": command(lab, "two"),
        }
        processes.wait()
    (folder / f"small.{rank}").write_text(json.dumps(small))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, lab: Path) -> Path:
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(one_of_two, (folder, lab, port), nprocs=2)
    return folder


@pytest.mark.parametrize("name", JOBS)
def test_two_processes_do_what_one_does(name: str, two: Path, tmp_path: Path) -> None:
    first, second = (torch.load(two / f"{name}.{rank}") for rank in (0, 1))
    assert_same(second, first)
    expected = JOBS[name](ALONE, tmp_path)
    assert first.keys() == expected.keys()
    most = 1e-5 if name.startswith("InverTune") else 1e-8
    for part in expected:
        torch.testing.assert_close(first[part], expected[part], atol=most, rtol=0, msg=part)


def test_the_jobs_change_what_they_train(two: Path) -> None:
    """Equality would say nothing of a training that leaves the weights as they are."""
    before = weights(suspect("rn"))
    for name in ("training of a ResNet", "CleanCLIP", "InverTune on a ResNet"):
        after = torch.load(two / f"{name}.0")
        assert max(float((after[k] - before[k]).abs().max()) for k in before) > 1e-3, name


def test_batches_are_shared_and_gathered(two: Path) -> None:
    """Where a batch cannot be halved, the first rows come again; gathering drops them."""
    main, other = (json.loads((two / f"small.{rank}").read_text()) for rank in (0, 1))
    assert (main["main"], other["main"]) == (True, False)
    assert main["count"] == other["count"] == 2
    assert main["share"] == [["a", "b", "c"], ["a"]]
    assert other["share"] == [["d", "e", "a"], ["a"]]
    assert (main["rows"], other["rows"]) == ([0, 1], [2, 3])
    assert main["items"] == other["items"] == [0, 1]
    assert main["agreed"] == other["agreed"] == "from 0"
    assert main["total"] == other["total"] == [2.0, 1.0]


def test_the_command_repairs_with_two_processes_as_with_one(
    two: Path, lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVERTUNE_CACHE", "")
    monkeypatch.setattr(sys, "argv", [])
    code, said = command(lab, "one")
    main, other = (json.loads((two / f"small.{r}").read_text())["command"] for r in (0, 1))
    assert (main[0], other) == (code, [0, ""])
    assert main[1].replace(str(lab / "two"), str(lab / "one")) == said
    rows = [json.loads((lab / out / "result.json").read_text())["rows"] for out in ("one", "two")]
    measured = [{k: v for k, v in row.items() if k.startswith("ca_")} for (row,) in rows]
    assert measured[0] == measured[1] != {}
    one, other = (load_clip(None, lab / out / "repaired.safetensors") for out in ("one", "two"))
    for name, weight in one.model.state_dict().items():
        torch.testing.assert_close(other.model.state_dict()[name], weight, atol=1e-3, rtol=0)
    assert {path.name for path in (lab / "two").iterdir()} == {
        "repaired.safetensors",
        "report.html",
        "result.json",
    }


def test_a_process_alone_shares_nothing() -> None:
    rows = torch.rand(5, 2)
    assert ALONE.share(rows) is rows
    assert ALONE.gather(rows) is rows
    assert ALONE.is_main
    ALONE.refuse_uneven(7)


class TwoProcesses(Processes):
    count = 2


def test_uneven_batches_are_refused() -> None:
    both = TwoProcesses(torch.device("cpu"))
    with pytest.raises(InputError, match="batch size that 2 processes can share, got 7"):
        train_contrastive(
            toy_classifier("vit"), toy_pairs(20), TrainingConfig(batch_size=7), processes=both
        )
    images = InMemory(noise_images(16), [0] * 16)
    uneven = REPAIR | {"tuning": {"batch_size": 5}}
    with pytest.raises(InputError, match="batch size that 2 processes can share, got 5"):
        run_repair(
            "inver_tune",
            toy_classifier("vit"),
            DefenderData(images=images),
            uneven,
            processes=both,
        )


def refusal(device: str = "cpu") -> str:
    with pytest.raises(InputError) as refused, joined(device):
        pass
    return str(refused.value)


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with joined("cpu") as processes:
        assert type(processes) is Processes
        assert processes.device == torch.device("cpu")


def test_several_processes_need_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert refusal() == (
        "Expected the package accelerate for several processes, got none. "
        "In a clone of this package run: pip install '.[distributed]'"
    )


def test_several_processes_take_no_single_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert refusal("cpu:0").startswith("Expected auto, cpu or cuda as device of 2 processes")


def test_other_commands_take_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(sys, "argv", ["invertune", "bench", "quick", "--out", "nowhere"])
    with pytest.raises(SystemExit) as left:
        cli.main()
    said = " ".join(capsys.readouterr().err.split())
    assert left.value.code == 2
    assert said.startswith("invertune, process 1: Expected one process for invertune bench, got 2.")
    assert not Path("nowhere").exists()
