"""Runs are read back from what the real trackers wrote."""

from __future__ import annotations

import json
import sqlite3
import struct
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from recorded import Recorded
from tiny import rn_config
from toys import toy_classifier

from invertune_plugin.adapters.tracking import KINDS, Tracker, Untracked, opened
from invertune_plugin.adapters.tracking.tracker import flattened
from invertune_plugin.benchmark.commands.attack import AttackJob, attack_model
from invertune_plugin.benchmark.commands.run import run_experiment
from invertune_plugin.benchmark.commands.tracking import log_repair, log_row, together, tracked
from invertune_plugin.checkpoints import read_card
from invertune_plugin.data import InMemory
from invertune_plugin.defenses.invertune import InverTuneConfig, repair_classifier
from invertune_plugin.defenses.invertune.inversion import InversionConfig
from invertune_plugin.defenses.invertune.target import TargetConfig
from invertune_plugin.defenses.invertune.tuning import TuningConfig
from invertune_plugin.errors import InputError

CONFIG = {"seed": 3, "tuning": {"steps": 100}, "folder": Path("there")}


def feed(tracker: Tracker) -> None:
    """Two curves whose steps begin at 1 both, as a training and a tuning have them."""
    for step in (1, 2, 3):
        tracker.scalars({"train clean/loss": 1 / step}, step)
    tracker.scalars({"repair, tuning/loss": 0.5}, 1)
    tracker.scalars({"result/ca_after": 0.9, "result/asr_after": 0.02}, 0)
    image = torch.zeros(3, 4, 4)
    image[0] = 1.0
    tracker.image("trigger", image)


def test_tensorboard_holds_curves_settings_and_images(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the extra [tensorboard]")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with opened(f"tensorboard:{tmp_path}", "repair", CONFIG) as tracker:
        feed(tracker)
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("repair-")
    found = EventAccumulator(str(folder))
    found.Reload()
    curve = [(event.step, event.value) for event in found.Scalars("train clean/loss")]
    assert curve == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert [event.value for event in found.Scalars("result/asr_after")] == [pytest.approx(0.02)]
    (event,) = found.Images("trigger")
    assert (event.width, event.height) == (4, 4)
    (config,) = found.Tensors("config/text_summary")
    assert b'"steps": 100' in config.tensor_proto.string_val[0]


def mlflow_rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(folder / "mlflow.db") as database:
        return database.execute(query).fetchall()


@pytest.fixture
def mlflow_folder(tmp_path: Path) -> Path:
    for package in ("mlflow", "sqlalchemy", "alembic"):
        pytest.importorskip(package, reason="needs the extra [mlflow]")
    return tmp_path / "new"


def test_mlflow_holds_curves_settings_and_images(mlflow_folder: Path) -> None:
    with opened(f"mlflow:{mlflow_folder}", "repair", CONFIG) as tracker:
        feed(tracker)
    query = "select key, step, value from metrics order by key, step"
    assert mlflow_rows(mlflow_folder, query) == [
        ("repair_ tuning/loss", 1, 0.5),
        ("result/asr_after", 0, 0.02),
        ("result/ca_after", 0, 0.9),
        ("train clean/loss", 1, 1.0),
        ("train clean/loss", 2, 0.5),
        ("train clean/loss", 3, pytest.approx(1 / 3)),
    ]
    parameters = dict(mlflow_rows(mlflow_folder, "select key, value from params"))
    assert parameters == {"seed": "3", "tuning.steps": "100", "folder": "there"}
    assert mlflow_rows(mlflow_folder, "select name, status from runs") == [("repair", "FINISHED")]
    (picture,) = mlflow_folder.rglob("trigger.png")
    assert np.asarray(Image.open(picture))[0, 0].tolist() == [255, 0, 0]
    with pytest.raises(ZeroDivisionError), opened(f"mlflow:{mlflow_folder}", "second", {}):
        _ = 1 / 0
    statuses = dict(mlflow_rows(mlflow_folder, "select name, status from runs"))
    assert statuses == {"repair": "FINISHED", "second": "FAILED"}


def wandb_records(content: bytes) -> Iterator[bytes]:
    """Whole records of LevelDB's log format, after a file header of seven bytes."""
    assert content[:4] == b":W&B"
    place, record = 7, b""
    while place + 7 < len(content):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, part = struct.unpack("<IHB", content[place : place + 7])
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if place > len(content):
            return
        if part in (1, 4):
            yield record
            record = b""


def ended(path: Path, kind: Any, seconds: float = 60) -> list[Any]:
    """The records of a run once its end is among them, or after so many seconds."""
    start, records = time.monotonic(), [kind()]
    while not records[-1].HasField("exit") and time.monotonic() - start < seconds:
        time.sleep(0.05)
        if path.stat().st_size >= 7:
            every = wandb_records(path.read_bytes())
            records = [kind.FromString(data) for data in every] or records
    return records


def test_wandb_keeps_runs_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs the extra [wandb]")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    with opened("wandb:backdoors", "repair", CONFIG) as tracker:
        feed(tracker)
    (path,) = tmp_path.rglob("run-*.wandb")
    history: list[dict[str, Any]] = []
    settings: dict[str, Any] = {}
    for record in ended(path, Record):
        items = record.history.item
        history.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
        settings |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
    curve = [
        (h["train clean/step"], h["train clean/loss"]) for h in history if "train clean/loss" in h
    ]
    assert curve == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert {"step": 1, "loss": 0.5} in [
        {k.rsplit("/", 1)[1]: v for k, v in h.items() if k.startswith("repair, tuning/")}
        for h in history
    ]
    assert settings["tuning"] == {"steps": 100}
    assert len(list(tmp_path.rglob("media/images/trigger*.png"))) == 1


def test_a_repair_is_logged_with_all_its_steps_and_triggers() -> None:
    pixels = torch.randint(256, (16, 3, 32, 32), dtype=torch.uint8)
    config = InverTuneConfig(
        TargetConfig(candidates=2, shift_steps=1, cost_steps=1, batch_size=4, ratio=1.0),
        InversionConfig(steps=3, batch_size=4, least_asr=0.0, most_area=1.0),
        TuningConfig(rounds=2, steps=2, batch_size=4, most_asr=1.0, least_agreement=0.0),
        least_images=8,
    )
    repair = repair_classifier(toy_classifier("vit"), InMemory(pixels, [0] * 16), config)
    seen = Recorded()
    log_repair(seen, repair, "repair")
    name = repair.target.candidates[0].name if repair.target else ""
    for turn in (1, 2):
        title = f"repair/inversion {turn}, {name}"
        assert [step for step, _ in seen.curves[f"{title}/loss"]] == [1, 2, 3]
        assert seen.images[f"{title}/trigger"].shape == (3, 32, 32)
    assert [loss for _, loss in seen.curves["repair/inversion 1, " + name + "/loss"]] == (
        repair.inversions[0].losses
    )
    assert [step for step, _ in seen.curves["repair/tuning/loss"]] == [1, 2, 3, 4]
    costs = [n for n in seen.curves if n.startswith("repair/target/") and n.count("/") == 2]
    assert len(costs) == 4
    assert seen.curves["repair/tuning/passes"] == [(0, float(repair.stages[2].passes))]


def test_rows_are_logged_by_their_numbers() -> None:
    seen = Recorded()
    log_row(seen, {"ca": 0.5, "found": None, "reason": "x", "false_alarm": True}, "result", 2)
    assert seen.curves == {"result/ca": [(2, 0.5)], "result/false_alarm": [(2, 1.0)]}


def test_a_training_is_shown_and_logged() -> None:
    shown: list[tuple[str, int, int, float]] = []
    seen = Recorded()
    report = tracked(lambda title: lambda *told: shown.append((title, *told)), seen)("train victim")
    report(1, 2, 0.7)
    report(2, 2, 0.4)
    assert shown == [("train victim", 1, 2, 0.7), ("train victim", 2, 2, 0.4)]
    assert seen.curves == {"train victim/loss": [(1, 0.7), (2, 0.4)]}


def test_a_run_ends_well_or_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Recorded] = []

    def start(*about: Any) -> Recorded:
        made.append(Recorded(*about))
        return made[-1]

    monkeypatch.setattr("invertune_plugin.adapters.tracking.opening.KINDS", {"kept": start})
    with opened("kept:a:b", "run", CONFIG):
        pass
    with pytest.raises(KeyboardInterrupt), opened("kept:x", "run", {}):
        raise KeyboardInterrupt
    assert [tracker.finished for tracker in made] == [[True], [False]]
    assert made[0].about == ("a:b", "run", {**CONFIG, "folder": "there"})


class Unreachable(Recorded):
    """A tracker whose server answers no more."""

    def __init__(self, *about: Any, lost: str = "scalars, image, finish") -> None:
        super().__init__(*about)
        self.lost = lost

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        self._answer("scalars")
        super().scalars(values, step)

    def image(self, name: str, image: torch.Tensor) -> None:
        self._answer("image")
        super().image(name, image)

    def finish(self, succeeded: bool) -> None:
        self._answer("finish")
        super().finish(succeeded)

    def _answer(self, call: str) -> None:
        if call in self.lost:
            raise ConnectionError("no route to the server")


TOLD = (
    "Expected Unreachable to log this run, got ConnectionError: no route to the server. "
    "The run goes on untracked; look after the tracker."
)


def broken(tracker: Tracker) -> None:
    feed(tracker)
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("lost", "finished"),
    [("scalars", [False]), ("image", [False]), ("finish", []), ("scalars, image, finish", [])],
)
def test_a_tracker_that_fails_does_not_stop_the_run(
    lost: str, finished: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Unreachable(lost=lost)
    told: list[str] = []
    monkeypatch.setattr(
        "invertune_plugin.adapters.tracking.opening.KINDS", {"kept": lambda *about: seen}
    )
    with opened("kept:x", "run", {}, told.append) as tracker:
        feed(tracker)
        feed(tracker)
    assert told == [TOLD]
    assert seen.finished == finished
    told.clear()
    with pytest.raises(ZeroDivisionError), opened("kept:x", "run", {}, told.append) as tracker:
        broken(tracker)
    assert told == [TOLD]
    assert seen.finished == finished + [False] * len(finished)
    with (
        pytest.warns(UserWarning, match="The run goes on untracked"),
        opened("kept:x", "run", {}) as t,
    ):
        feed(t)


def test_a_command_says_that_its_tracker_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = {"kept": Unreachable}
    monkeypatch.setattr("invertune_plugin.adapters.tracking.opening.KINDS", kinds)
    with together("cpu", "kept:x", "run", {}) as (_, tracker):
        feed(tracker)
    assert capsys.readouterr().err.count(TOLD) == 1


def test_nothing_is_tracked_by_default() -> None:
    with opened(None, "run", CONFIG) as tracker:
        feed(tracker)
        assert isinstance(tracker, Untracked)


@pytest.mark.parametrize("spec", ["tensorbord:x", "mlflow", "wandb:", "", ":x"])
def test_unknown_trackers_are_refused(spec: str) -> None:
    with pytest.raises(InputError, match="Expected a tracker such as"), opened(spec, "run", {}):
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_package_is_named_with_its_extra(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in ("torch.utils.tensorboard", "mlflow", "wandb"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    message = rf"pip install '\.\[{kind}\]'"
    with pytest.raises(InputError, match=message), opened(f"{kind}:{tmp_path}", "run", {}):
        pass


def test_settings_become_one_level() -> None:
    nested = {"a": 1, "b": {"c": {"d": 2}, "e": [3]}, "f": {}}
    assert flattened(nested) == {"a": 1, "b.c.d": 2, "b.e": [3]}


SHORT = "{max_steps: 2, batch_size: 16, learning_rate: 1.0e-3}"
RECIPE = f"""
name: tiny
model: MODEL
data: {{source: shapes, clean: 32, attack: 32, defence: 32, rebound: 32, test: 20}}
clean: {SHORT}
attack: {{target: star, rate: 0.1, training: {SHORT}, trigger: {{kind: patch, size: 4}}}}
defence:
  least_images: 8
  target: {{candidates: 2, shift_steps: 1, cost_steps: 1, batch_size: 4, ratio: 1.0}}
  inversion: {{steps: 2, batch_size: 4, least_asr: 0.0, most_area: 1.0}}
  tuning: {{rounds: 1, steps: 2, batch_size: 4, most_asr: 1.0, least_agreement: 0.0}}
rebound_steps: 1
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Recorded]:
    """A recipe of seconds, and the tracker that ``kept:x`` opens."""
    seen = Recorded()
    monkeypatch.setenv("INVERTUNE_CACHE", str(tmp_path / "cache"))
    kinds = {"kept": lambda *about: seen}
    monkeypatch.setattr("invertune_plugin.adapters.tracking.opening.KINDS", kinds)
    (tmp_path / "rn.json").write_text(json.dumps(rn_config()))
    (tmp_path / "tiny.yaml").write_text(RECIPE.replace("MODEL", str(tmp_path / "rn.json")))
    return tmp_path, seen


def test_an_experiment_is_tracked(lab: tuple[Path, Recorded]) -> None:
    folder, seen = lab
    out = folder / "out"
    run_experiment(str(folder / "tiny.yaml"), out, 0, "cpu", False, "kept:x")
    for title in ("train clean", "train victim"):
        assert [step for step, _ in seen.curves[f"{title}/loss"]] == [1, 2]
    for row in json.loads((out / "result.json").read_text())["rows"]:
        kind = "result" if row["attack"] != "none" else "result of the clean model"
        for name in ("ca_before", "ca_after"):
            if name in row:
                logged = seen.curves[f"{kind}/{row['data']}/{row['defense']}/{name}"]
                assert logged == [(0, row[name])]
    assert {name.split("/")[0] for name in seen.images} == {
        "repair of the victim",
        "repair of the clean model",
    }
    assert seen.finished == [True]


def test_an_attack_is_tracked(lab: tuple[Path, Recorded]) -> None:
    folder, seen = lab
    out = folder / "victim.safetensors"
    attack_model(AttackJob("badnets", str(folder / "tiny.yaml"), out, track="kept:x"))
    assert [step for step, _ in seen.curves["train victim/loss"]] == [1, 2]
    assert seen.curves["result/victim CA"] == [(0, read_card(out)["victim"]["ca"])]
    changed = (seen.images["trigger"] != 0.5).any(0)
    assert 0 < int(changed.sum()) < changed.numel()
    assert seen.finished == [True]
