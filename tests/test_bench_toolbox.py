"""BackdoorBox's defences in ``invertune bench``: rows like those of our own repairs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_bench import write_recipe
from upstream import clone

from invertune_plugin.adapters.backdoorbox.defenses.job import Defended
from invertune_plugin.attacks.attack import plant
from invertune_plugin.benchmark.bench import cells as planning
from invertune_plugin.benchmark.bench import toolbox as bench_toolbox
from invertune_plugin.benchmark.bench.cells import bench_cells
from invertune_plugin.benchmark.bench.defenses import toolbox_defense
from invertune_plugin.benchmark.bench.opening import open_victim
from invertune_plugin.benchmark.bench.recipe import load_bench
from invertune_plugin.benchmark.bench.toolbox import suspicion_of
from invertune_plugin.benchmark.bench.training import trained_on
from invertune_plugin.benchmark.grid.cells import Cell, Parent, Result
from invertune_plugin.benchmark.grid.plan import plan_cells
from invertune_plugin.benchmark.grid.store import Store
from invertune_plugin.errors import InputError

REPAIRS = ("FineTuning", "NAD", "ABL")
FILTERS = ("Pruning", "ShrinkPad", "AutoEncoderDefense", "REFINE")
DETECTORS = ("SCALE_UP", "IBD_PSC")
OPTIONS = {"REFINE": "options: {first_channels: 4}", "ABL": "options: {split_ratio: 0.1}"}


@pytest.mark.parametrize(
    ("settings", "milestones"),
    [
        ({}, (7,)),
        ({"epochs": 100}, (70,)),
        ({"epochs": 100, "milestones": [80, 90]}, (80, 90)),
        ({"milestones": []}, ()),
    ],
)
def test_the_rate_falls_late_in_a_training_of_any_length(
    settings: dict[str, Any], milestones: tuple[int, ...]
) -> None:
    assert toolbox_defense(settings).milestones == milestones


class Bench:
    """The cells of a small grid, each computed once and in this process."""

    def __init__(self, folder: Path) -> None:
        lines = [
            f"  toolbox:{name}: {{epochs: 1, {OPTIONS.get(name, '')}}}"
            for name in (*REPAIRS, *FILTERS, *DETECTORS)
        ]
        path = folder / "grid.yaml"
        path.write_text(
            f"name: toolbox\nrecipes: [{write_recipe(folder)}]\nattacks: [none, badnets]\n"
            "metrics: [classification, retrieval]\nrebound: 1\ndefenses:\n" + "\n".join(lines)
        )
        self.folder = folder
        self.cells = {
            (cell.names["attack"], cell.settings["defense"].removeprefix("toolbox:")): cell
            for cell in bench_cells(load_bench(path))
        }
        self.known: dict[str, Result] = {}

    def result(self, cell: Cell) -> Result:
        if cell.key not in self.known:
            parents = tuple(
                Parent(p.kind.name, p.settings, self.result(p).record, self.folder)
                for p in cell.parents
            )
            folder = self.folder / cell.key
            folder.mkdir()
            compute = cell.kind.compute
            self.known[cell.key] = compute(cell.settings, parents, folder, lambda _: None)
        return self.known[cell.key]

    def row(self, attack: str, defense: str) -> dict[str, Any]:
        return dict(self.result(self.cells[attack, defense]).record)

    def victim(self, attack: str) -> Any:
        settings = self.cells[attack, "ABL"].parents[0].settings
        return open_victim(settings, lambda _: None)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("bench")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INVERTUNE_CACHE", str(folder / "cache"))
        yield Bench(folder)


@pytest.mark.toolbox
@pytest.mark.parametrize("name", [*REPAIRS, *FILTERS, *DETECTORS])
def test_rows_have_the_fields_of_the_grid(bench: Bench, name: str) -> None:
    clone()
    row = bench.row("badnets", name)
    assert row["outcome"] == "ok", row["reason"]
    assert row["seconds_repair"] > 0
    assert (bench.folder / bench.cells["badnets", name].key / "output.txt").is_file()
    if name in DETECTORS:
        assert (row["fpr_n"], 20 < row["tpr_n"] < 40) == (40, True)
        assert 0 <= row["auroc"] <= 1
        assert "ca_after" not in row
        return
    assert (row["ca_after_n"], row["ca_after_second_n"]) == (40, 40)
    assert 20 < row["asr_after_n"] < 40
    before = bench.result(bench.cells["badnets", name].parents[0]).record["ca_before"]
    assert row["ca_lost"] == round(before - row["ca_after"], 5)
    assert ("ca_rebound" in row) == ("i2t_r1_after" in row) == (name in REPAIRS), "a CLIP again"


@pytest.mark.toolbox
def test_a_clean_model_has_false_alarms_only(bench: Bench) -> None:
    clone()
    row = bench.row("none", "SCALE_UP")
    assert row["fpr_n"] == 40
    assert "tpr" not in row
    assert "auroc" not in row


def test_what_is_trained_anew_has_the_texts_it_was_trained_with(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An ABL that does nothing leaves the clean model, and not its images with a victim's texts."""

    def idle(*_: Any, options: Any, **__: Any) -> Defended:
        return Defended(options["initial"], seconds=1.0)

    clone_of = SimpleNamespace(clone=planning.Clone(bench.folder, "0" * 40))
    monkeypatch.setattr(bench_toolbox, "load_toolbox", lambda: None)
    monkeypatch.setattr(bench_toolbox, "loaded_toolbox", lambda _: clone_of)
    monkeypatch.setattr(bench_toolbox, "run_defense", idle)
    cell = bench.cells["badnets", "ABL"]
    victim = bench.result(cell.parents[0]).record
    parent = Parent("victim", cell.parents[0].settings, victim, bench.folder)
    folder = bench.folder / "idle"
    folder.mkdir()
    row = bench_toolbox.compute_toolbox(cell.settings, (parent,), folder, lambda _: None).record
    for name, value in victim.items():
        if "_clean" in name:
            assert row[name.replace("_clean", "_after")] == value, name


def test_the_images_of_the_training_are_made_again(bench: Bench) -> None:
    opened, config = bench.victim("badnets"), bench.victim("badnets").recipe.attack
    pairs = opened.sources.pairs("attack")
    planted = plant(config, opened.clean, pairs, None, 0).poisoned
    assert planted is not None
    trained = trained_on(opened, 0, True)
    images, places = trained.labelled(opened.sources)
    poisoned = sorted(trained.targets)
    assert (poisoned, places) == (planted.poisoned, list(range(64)))
    assert len(poisoned) == round(0.1 * len(pairs))
    assert all(torch.equal(images[i][0], planted[i][0]) for i in range(len(pairs)))
    untouched = trained_on(bench.victim("none"), 0, False)
    assert not untouched.targets
    clean, _ = untouched.labelled(opened.sources)
    changed = [i for i in range(64) if not torch.equal(images[i][0], clean[i][0])]
    assert changed == poisoned
    star = opened.suspect.class_index("star")
    assert {images[i][1] for i in poisoned} == {star} != {clean[i][1] for i in poisoned}
    assert all(images[i][1] == clean[i][1] for i in set(range(64)) - set(poisoned))


def test_detectors_are_shown_triggered_images_of_other_classes(bench: Bench) -> None:
    opened = bench.victim("badnets")
    shown = suspicion_of(opened, 0, True, with_training=False)
    labels = [shown.test[i][1] for i in range(40)]
    star = opened.suspect.class_index("star")
    others = [i for i in range(40) if labels[i] != star]
    triggered: Any = shown.poisoned_test
    assert len(triggered) == len(others)
    trigger = opened.backdoor.trigger
    wanted = trigger(torch.stack([shown.test[i][0] for i in others]), torch.tensor(others))
    found = torch.stack([triggered[i][0] for i in range(len(others))])
    assert (found - wanted).abs().max() <= 0.5 / 255, "to the nearest grey level"
    assert shown.poisoned_train is None


@pytest.mark.parametrize("home", [None, "nowhere"])
def test_without_a_clone_the_cells_are_impossible_before_anything_runs(
    bench: Bench, home: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if home is None:
        monkeypatch.delenv("BACKDOORBOX_HOME", raising=False)
        monkeypatch.setattr(
            "invertune_plugin.adapters.backdoorbox.locate.core_on_path", lambda: None
        )
    else:
        monkeypatch.setenv("BACKDOORBOX_HOME", str(tmp_path / home))
    planning._clone.cache_clear()
    cells = list(bench.cells.values())
    plan = plan_cells(cells, Store.open(tmp_path / "store"))
    assert not plan.missing, "no victim is needed either"
    assert set(plan.marked) == {cell.key for cell in cells}
    for mark in plan.marked.values():
        assert mark.outcome == "impossible"
        assert "BACKDOORBOX_HOME" in mark.reason
        assert "git clone" in mark.reason


@pytest.mark.toolbox
def test_pairs_that_cannot_work_are_told(tmp_path: Path) -> None:
    clone()
    path = tmp_path / "grid.yaml"
    path.write_text(
        "name: limits\nrecipes: [demo_vit]\nattacks: [badencoder]\n"
        "defenses: {'toolbox:ABL': {}, 'toolbox:IBD_PSC': {}, 'toolbox:NAD': {}}\n"
    )
    plan = plan_cells(bench_cells(load_bench(path)), Store.open(tmp_path / "store"))
    told = {mark.about.names["defense"]: mark.reason for mark in plan.marked.values()}
    assert told.keys() == {"toolbox:ABL", "toolbox:IBD_PSC"}
    assert "trains the encoder without any" in told["toolbox:ABL"]
    assert "BatchNorm2d" in told["toolbox:IBD_PSC"]


def test_a_grid_has_the_same_keys_with_and_without_a_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a mark is gone once its cell has run."""
    path = tmp_path / "grid.yaml"
    path.write_text(
        f"name: keys\nrecipes: [{write_recipe(tmp_path)}]\nattacks: [none]\n"
        "defenses: {'toolbox:NAD': {}}\n"
    )
    (tmp_path / "core").mkdir()
    source = tmp_path / "core" / "nad.py"

    def key(clone: Any) -> str:
        monkeypatch.setattr(planning, "_clone", clone)
        (cell,) = bench_cells(load_bench(path))
        return cell.key

    def absent(_: Any) -> Any:
        raise InputError("there is none")

    def there(commit: str | None, dirty: bool = False) -> Any:
        return lambda _: planning.Clone(tmp_path, commit, dirty)

    tested = "af3afd1" + 33 * "0"
    assert key(absent) == key(there(tested))
    assert key(there("0" * 40)) != key(there(tested))
    for told_by_its_files in (there(None), there(tested, True)):
        source.write_text("beta = 1")
        before = key(told_by_its_files)
        source.write_text("beta = 2")
        assert before not in (key(there(tested)), key(told_by_its_files))
