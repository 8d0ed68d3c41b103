"""The tables and pictures of README and docs say what the committed results say."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from invertune_plugin.errors import InputError
from invertune_plugin.triggers import Patch

SCRIPTS = Path(__file__).parent.parent / "benchmarks"


def script(name: str) -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        return importlib.import_module(name)


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    return script("tables")


@pytest.fixture(scope="module")
def heat() -> ModuleType:
    return script("heat")


def test_the_pages_show_the_committed_results(tables: ModuleType) -> None:
    shown = 0
    for page in tables.pages():
        text = page.read_text(encoding="utf-8")
        shown += len(tables.MARKED.findall(text))
        assert tables.rewritten(text) == text, f"run benchmarks/tables.py: {page.name} is old"
    assert shown == len(tables.TABLES)


def test_a_cell_tells_means_and_what_did_not_work(tables: ModuleType) -> None:
    fine = {"outcome": "ok", "ca_after": 0.9, "asr_after": 0.5}
    left = {"outcome": "rejected", "ca_after": 0.8, "asr_after": 1.0}
    assert tables.cell([fine, left]) == "85.0 / 75.0; rejected 1 of 2"
    assert tables.cell([{"outcome": "impossible", "reason": "It has no maps."}]) == (
        "impossible: It has no maps."
    )
    assert tables.cell([{"outcome": "ok", "tpr": 0.25, "fpr": 0.125}]) == "TPR 25.0, FPR 12.5"
    assert tables.cell([]) == "not run"


def test_a_repair_is_told_over_the_seeds_that_have_it() -> None:
    after = script("bench_tables").after
    fine = {"outcome": "ok", "ca_after": 0.9, "asr_after": 0.1, "asr_rebound": 0.2}
    left = {"outcome": "rejected", "ca_after": 0.7, "asr_after": 0.9, "asr_rebound": 0.8}
    failed = {"outcome": "failed", "reason": "no luck"}
    assert after([fine]) == "90.0 / 10.0 → 20.0"
    assert after([left]) == "70.0 / 90.0 → 80.0, nothing found"
    assert after([fine, left]) == "80.0 / 50.0 → 50.0, nothing found 1 of 2"
    assert after([fine, failed]) == "90.0 / 10.0 → 20.0, repair failed 1 of 2"
    assert after([failed]) == "failed"
    assert after([{"outcome": "impossible"}]) == "impossible"


def test_rows_of_other_benign_steps_are_in_no_table(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = script("bench_tables")
    rows = [{"kind": "repair", "base": "demo", "rebound": steps} for steps in (100, 300)]
    only = script("rendering").only
    monkeypatch.setattr(tables, "read", lambda _, **wanted: only(rows, **wanted))
    assert tables.cells_of("repair", "demo") == rows[:1]


def test_searches_of_other_trainings_and_failed_ones_are_told_apart() -> None:
    found = script("flare_tables").searched
    fine = {"tpr": 1.0, "fpr": 0.0, "auroc": 1.0, "outcome": "ok"}
    failed = {"outcome": "failed", "reason": "The model has not learnt."}
    assert found([fine]) == "100.0 / 0.0 (1.000)"
    assert found([failed]) == "failed: The model has not learnt."
    assert found([fine, failed]) == "failed 1 of 2: The model has not learnt."


def test_a_new_training_is_held_against_a_clean_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where the clean one of the same seed has met the attack."""
    tables = script("flare_tables")
    fields = {"data": "gtsrb", "tower": "t", "images": 9, "epochs": 1, "retrained": True}
    fields |= {"bfloat16": False, "defense": "flare {xi: 1}", "fpr": 0.0, "poisoned_rate": 0.1}
    poisoned = fields | {"attack": "ut-blend", "tpr": 1.0, "auroc": 1.0, "asr_before": 0.9}
    poisoned |= {"asr_after": 0.24, "ca_before": 0.7, "ca_after": 0.71}
    clean = fields | {"attack": "none", "seed": 0, "ca_before": 0.72, "asr_of": {"ut-blend": 0.25}}
    rows = [clean, poisoned | {"seed": 0}, poisoned | {"seed": 1}]
    monkeypatch.setattr(tables, "read", lambda *_, **__: rows)
    first, second = tables.trained_again({})().splitlines()[2:]
    told = "| gtsrb | ut-blend | 0 | flare | 100.0 / 0.0 (1.000) | 90.0 -> 24.0 (25.0) |"
    assert first == f"{told} 70.0 -> 71.0 (72.0) |"
    assert second.endswith("| 90.0 -> 24.0 | 70.0 -> 71.0 |")


def test_rows_of_a_benchmark_belong_to_all_that_shapes_them() -> None:
    flare = script("flare_rows")
    training = flare.ClassifierTraining(epochs=2)
    setting = flare.Setting("cifar10", "cnn", "a2o-badnets", 0, 9, training)

    def row(retrain: bool = False, **other: Any) -> dict[str, Any]:
        made: dict[str, Any] = flare.described(replace(setting, **other), "flare", retrain)
        return made

    others = [
        row(seed=1),
        row(images=8),
        row(attack="a2a-badnets"),
        row(retrain=True),
        row(training=flare.ClassifierTraining(epochs=3)),
        row(training=flare.ClassifierTraining(epochs=2, bfloat16=True)),
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(script("flare_attacks").TRIGGERS, "badnets", Patch(size=5))
        others.append(row())
    with pytest.raises(InputError, match=r"Expected an attack among none, .* got 'a2o-badnet'"):
        row(attack="a2o-badnet")
    every = [flare.experiment(each) for each in (row(), *others)]
    assert len(set(every)) == len(every)
    assert flare.experiment(row()) == every[0]


def test_a_spread_tells_the_range_where_there_is_one(tables: ModuleType) -> None:
    assert tables.spread([{"ca": 0.5}, {"ca": 0.75}], "ca") == "62.5 (50.0–75.0)"
    assert tables.spread([{"ca": 0.5}, {}], "ca") == "50.0"
    assert tables.spread([{}], "ca") == ""


def test_the_pictures_show_the_committed_grid(heat: ModuleType) -> None:
    for base in heat.bases():
        picture = heat.PICTURES / f"{base}.png"
        shown = heat.shown_by(picture)
        assert shown == heat.fingerprint(heat.boxes_of(base)), f"run benchmarks/heat.py: {picture}"


def test_a_box_tells_rates_and_what_did_not_work(heat: ModuleType) -> None:
    left = {"outcome": "rejected", "ca_after": 0.8, "asr_after": 1.0}
    assert heat.box_of([left]) == heat.Box("100.0 ○", "80.0", 1.0)
    assert heat.box_of([{"outcome": "ok", "fpr": 0.125}]).small == "FPR 12.5"
    assert heat.box_of([{"outcome": "impossible"}]).small == "–"
    assert heat.box_of([{"outcome": "failed"}]).small == "failed"
    search = [{"outcome": "ok", "fpr": 0.1}, {"outcome": "failed"}]
    assert heat.box_of(search).small == "FPR 10.0\nfailed"
    assert heat.box_of([left, {"outcome": "failed"}]) == heat.Box("100.0 ○×", "80.0", 1.0)
    assert heat.box_of([]).small == "not run"


def test_a_picture_keeps_what_it_shows(heat: ModuleType, tmp_path: Path) -> None:
    boxes = {"badnets": [heat.Box("1.0", "97.0", 0.01)] * len(heat.COLUMNS)}
    picture = tmp_path / "heat.png"
    heat.write(heat.drawn(boxes), picture, heat.fingerprint(boxes))
    assert heat.shown_by(picture) == heat.fingerprint(boxes)
    other = {"badnets": [heat.Box("2.0", "97.0", 0.02)] * len(heat.COLUMNS)}
    assert heat.shown_by(picture) != heat.fingerprint(other)
