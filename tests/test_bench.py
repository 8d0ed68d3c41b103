"""``invertune bench``: a small grid from models to rows, and what is refused before it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from recorded import Recorded
from tiny_bench import write_recipe

from invertune_plugin.adapters.tracking import opening
from invertune_plugin.benchmark.bench.cells import bench_cells
from invertune_plugin.benchmark.bench.recipe import GROUP, load_bench
from invertune_plugin.benchmark.bench.settings import recipe_in
from invertune_plugin.benchmark.commands.bench import run_grid
from invertune_plugin.benchmark.experiment.recipe import shipped_recipes
from invertune_plugin.benchmark.experiment.sources import ShapeSources
from invertune_plugin.benchmark.grid.bench import BenchOptions
from invertune_plugin.benchmark.grid.cells import in_order
from invertune_plugin.benchmark.grid.rows import flat, rows_of
from invertune_plugin.benchmark.grid.store import Store
from invertune_plugin.errors import InputError
from invertune_plugin.files import existing_file

GRID = """
name: small
recipes: [TINY]
attacks: [none, badnets]
defenses: {none: {}, fine_tuning: {max_steps: 1, batch_size: 16}, rvpt: {}, linear_probe: {}}
rebound: 2
"""


@pytest.fixture
def grid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A grid of seconds; its models are cached in the folder of the test."""
    monkeypatch.setenv("INVERTUNE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "small.yaml"
    path.write_text(GRID.replace("TINY", str(write_recipe(tmp_path))))
    return path


def test_a_small_grid(
    grid: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = tmp_path / "store"
    assert run_grid(str(grid), store, BenchOptions()) == 0
    rows = {(row["attack"], row["defense"]): row for row in found(store) if row["kind"] == "repair"}
    assert len(rows) == 8
    tuned = rows["badnets", "fine_tuning"]
    assert tuned["outcome"] == "ok"
    assert tuned["ca_after_n"] == 40
    assert 20 < tuned["asr_rebound_n"] < 40
    assert tuned["passes"] == 3 * 16
    assert tuned["found_target"] is None
    assert "false_alarm" not in rows["none", "fine_tuning"], "it accuses nobody"
    assert rows["badnets", "linear_probe"]["ca_after_n"] == 40
    assert "ca_rebound" not in rows["badnets", "linear_probe"], "it has no texts to train with"
    assert rows["badnets", "rvpt"]["outcome"] == "impossible"
    assert "ModifiedResNet" in rows["badnets", "rvpt"]["reason"]
    victims = [row for row in found(store) if row["kind"] == "victim"]
    rates = {row["attack"]: row["poisoned_rate"] for row in victims}
    assert rates == {"none": 0, "badnets": 6 / 64}
    bare, victim = rows["badnets", "none"], next(v for v in victims if v["attack"] == "badnets")
    assert bare["ca_after"] == victim["ca_before"], "no defence leaves the victim as it is"
    assert bare["ca_rebound"] == victim["ca_rebound"]
    assert bare["ca_lost"] == 0
    assert "8 rows" in capsys.readouterr().err
    folder = store / "artefacts"
    pictures = [{path.name for path in (folder / v["key"]).glob("*.png")} for v in victims]
    assert pictures == [{"clean.png", "triggered.png", "change.png"}] * 2
    curves = json.loads((folder / tuned["key"] / "curves.json").read_text())
    assert [step for step, _ in curves.pop("rebound")] == [1, 2]
    assert curves == {}, "one step of fine-tuning is no curve"
    before = (store / "claims").stat().st_mtime_ns
    tracker = Recorded()
    monkeypatch.setattr(opening, "KINDS", {"kept": lambda *about: tracker})
    assert run_grid(str(grid), store, BenchOptions(), "kept:x") == 0
    assert (store / "claims").stat().st_mtime_ns == before, "nothing runs twice"
    logged = tracker.curves[f"{tuned['base']}/{tuned['tower']}/badnets/fine_tuning/asr_rebound"]
    assert logged == [(tuned["seed"], tuned["asr_rebound"])]
    assert all("/rvpt/" not in name for name in tracker.curves), "it made no numbers"


def test_a_dry_run_trains_nothing(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = BenchOptions(only=("defense=fine_tuning", "attack=badnets"), dry_run=True)
    assert run_grid(str(grid), tmp_path / "store", options) == 0
    assert "3 of 3 cells to run" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
    (tmp_path / "store").mkdir()
    run_grid(str(grid), tmp_path / "store", options)
    assert not list((tmp_path / "store").iterdir())


def test_settings_of_a_recipe_and_of_a_victim_shape_the_cells(grid: Path, tmp_path: Path) -> None:
    before = keys(grid)
    text = (tmp_path / "tiny.yaml").read_text()
    (tmp_path / "tiny.yaml").write_text(text.replace("rate: 0.1", "rate: 0.2"))
    after = keys(grid)
    assert before["clean"] == after["clean"]
    assert before["victim"] != after["victim"]
    assert before["repair"].isdisjoint(after["repair"])


def test_a_grid_is_the_same_from_any_folder(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recipe and model config lie beside the grid."""
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(recipe.read_text().replace(str(tmp_path / "rn.json"), "rn.json"))
    grid.write_text(grid.read_text().replace(str(recipe), "tiny.yaml"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    there = keys(grid)
    monkeypatch.chdir(tmp_path)
    assert keys(Path("small.yaml")) == there
    names = next(bench_cells(load_bench(grid))).names
    assert (names["base"], names["tower"]) == ("tiny", "rn")


def test_a_cell_runs_with_what_it_was_planned_with(grid: Path, tmp_path: Path) -> None:
    cell = next(cell for cell in bench_cells(load_bench(grid)) if cell.names["attack"] == "none")
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(recipe.read_text().replace("target: star", "target: ring"))
    assert recipe_in(cell.parents[0].settings).attack.target == "star"


def test_a_changed_model_config_makes_new_cells(grid: Path, tmp_path: Path) -> None:
    before = keys(grid)
    config = json.loads((tmp_path / "rn.json").read_text())
    config["embed_dim"] *= 2
    (tmp_path / "rn.json").write_text(json.dumps(config))
    after = keys(grid)
    assert all(before[kind].isdisjoint(after[kind]) for kind in before)


def test_the_content_of_data_files_makes_new_cells(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenes = tmp_path / "scenes.parquet"
    monkeypatch.setattr(ShapeSources, "files", classmethod(lambda *_: (existing_file(scenes),)))
    absent = keys(grid)
    seen = [absent]
    for content in ("one", "another"):
        scenes.write_text(content)
        seen.append(keys(grid))
    for kind in absent:
        assert len(set.union(*(found[kind] for found in seen))) == 3 * len(absent[kind])


def test_absent_data_are_told_and_looked_for_again(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes, options = tmp_path / "scenes.parquet", BenchOptions(only=("defense=none",))
    monkeypatch.setattr(ShapeSources, "files", classmethod(lambda *_: (existing_file(scenes),)))
    assert run_grid(str(grid), tmp_path / "store", options) == 1
    assert "2 cells need what is impossible here: Expected a" in capsys.readouterr().err
    assert {row["outcome"] for row in found(tmp_path / "store")} == {"impossible"}
    assert not (tmp_path / "cache").exists()
    scenes.touch()
    capsys.readouterr()
    run_grid(str(grid), tmp_path / "store", replace(options, dry_run=True))
    assert "5 of 5 cells to run" in capsys.readouterr().err


def test_a_target_that_is_no_class_is_told_before_anything_is_trained(
    grid: Path, tmp_path: Path
) -> None:
    (tmp_path / "zebra.yaml").write_text("target: zebra\ntrigger: {kind: patch}\n")
    grid.write_text(grid.read_text().replace("attacks: [none, badnets]", "attacks: [zebra.yaml]"))
    assert run_grid(str(grid), tmp_path / "store", BenchOptions()) == 1
    reasons = {row["outcome"]: row["reason"] for row in found(tmp_path / "store")}
    assert list(reasons) == ["impossible"]
    assert "Expected a target among the 10 classes" in reasons["impossible"]
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", shipped_recipes(GROUP))
def test_shipped_grids_can_be_planned(name: str) -> None:
    bench = load_bench(name)
    cells = list(bench_cells(bench))
    whole = len(bench.recipes) * len(bench.attacks) * len(bench.defenses) * len(bench.seeds)
    assert len({cell.key for cell in cells}) == len(cells) == whole


def test_the_quick_grid_is_a_part_of_the_full_one() -> None:
    quick, full = ({cell.key for cell in bench_cells(load_bench(n))} for n in ("quick", "full"))
    assert quick < full


def test_files_of_a_grid_are_found_beside_it(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.yaml").write_text("trigger: {kind: patch, size: 3}\n")
    text = grid.read_text().replace("badnets", "mine.yaml").replace(f"{tmp_path}/", "")
    grid.write_text(text)
    assert "recipes: [tiny.yaml]" in text
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    bench = load_bench(grid)
    assert bench.attacks == ("none", str(tmp_path / "mine.yaml"))
    assert bench.recipes == (str(tmp_path / "tiny.yaml"),)
    (elsewhere / "mine.yaml").write_text("trigger: {kind: patch, size: 4}\n")
    assert load_bench(grid).attacks == ("none", "mine.yaml"), "the current folder comes first"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("badnets]", "badnet]"), r"got 'badnet'\. Did you mean 'badnets'"),
        (("fine_tuning: {max", "fine_tunin: {max"), "known defence, got 'fine_tunin'"),
        (("max_steps: 1", "max_step: 1"), r"defenses\.fine_tuning\.max_step"),
        (("fine_tuning:", "toolbox:FineTunin:"), r"Did you mean 'toolbox:FineTuning'"),
        (("rvpt: {}", "toolbox:NAD: {options: {bet: 1}}"), "an option of NAD .*got 'bet'"),
        (("rvpt: {}", "toolbox:NAD: {epoch: 1}"), r"defenses\.toolbox:NAD\.epoch"),
        (("rebound: 2", "metrics: [recall]"), "metrics.*'classification' or 'retrieval'"),
        (("rebound: 2", "metrics: []"), "one or more entries in metrics"),
        (("[none, badnets]", "[badnets, mine/badnets.yaml]"), "attacks of different names.*mine/"),
        (("[none, badnets]", "[none, mine/none.yaml]"), "different names.*got none, mine/none"),
        (("[none, badnets]", "[mine/none.yaml]"), "different names.*got mine/none.yaml"),
        (("rebound: 2", "rebound: -1"), "rebound of 0 or more benign steps, got -1"),
        (("rebound: 2", "seeds: [0, 0]"), r"Expected different seeds, got \[0, 0\]"),
        (("rebound: 2", "seeds: [-1]"), "Expected a seed from 0 to 4294967295, got -1"),
        (("rebound: 2", "seeds: [4294967296]"), "to 4294967295, got 4294967296"),
        (("attacks: [none, badnets]", "attacks: []"), "one or more entries in attacks"),
    ],
)
def test_mistakes_are_named_before_anything_runs(
    grid: Path, tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    grid.write_text(grid.read_text().replace(*change))
    with pytest.raises(InputError, match=message):
        run_grid(str(grid), tmp_path / "store", BenchOptions())
    assert not (tmp_path / "store").exists()


def found(store: Path) -> list[dict[str, Any]]:
    return [flat(row) for row in rows_of(Store.open(store, create=False))]


def keys(grid: Path) -> dict[str, set[str]]:
    made: dict[str, set[str]] = {}
    for cell in in_order(bench_cells(load_bench(grid))):
        made.setdefault(cell.kind.name, set()).add(cell.key)
    return made
