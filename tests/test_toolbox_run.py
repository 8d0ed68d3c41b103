"""``invertune toolbox run``: what is kept, gone on with and refused."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from upstream import clone

from invertune_plugin import cli
from invertune_plugin.benchmark.commands import toolbox_run
from invertune_plugin.benchmark.commands.toolbox_run import print_comparison, run_comparison
from invertune_plugin.benchmark.experiment.recipe import recipe_path, shipped_recipes
from invertune_plugin.benchmark.toolbox.recipe import GROUP, ModelSpec, load_toolbox_recipe
from invertune_plugin.errors import InputError

RECIPE = """
name: small
target: star
models: {clip: {recipe: demo, training: {epochs: 2}}}
attacks: {BadNets: {}, WaNet: {}}
defenses: {none: {}, InverTune: {}}
"""


class Stopped(Exception):
    """Somebody pressed a key."""


class Grid:
    """Cells of two attacks and two defences; ``stop`` cells run at most."""

    def __init__(self) -> None:
        self.ran: list[tuple[str, str, int]] = []
        self.stop = 100

    def __call__(
        self, core: Any, recipe: Any, seed: int, folder: Path, done: Collection[Any], *_: Any
    ) -> Iterator[dict[str, Any]]:
        for attack in recipe.attacks:
            for defense in recipe.defenses:
                if ("clip", attack, defense, seed) in done:
                    continue
                if len(self.ran) == self.stop:
                    raise Stopped
                self.ran.append((attack, defense, seed))
                row = {"tower": "clip", "attack": attack, "defense": defense, "seed": seed}
                yield row | {"outcome": "ok", "ca_after": 0.5, "asr_after": 0.25 * (seed + 1)}


@pytest.fixture
def grid(monkeypatch: pytest.MonkeyPatch) -> Grid:
    fake = Grid()
    monkeypatch.setattr(toolbox_run, "run_grid", fake)
    monkeypatch.setattr(toolbox_run, "load_toolbox", lambda _: None)
    return fake


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(RECIPE)
    return path


def test_a_comparison_that_was_stopped_goes_on(grid: Grid, recipe: Path, tmp_path: Path) -> None:
    grid.stop = 3
    with pytest.raises(Stopped):
        run_comparison(str(recipe), tmp_path / "out", [0], None, False)
    kept = json.loads((tmp_path / "out" / "result.json").read_text())["rows"]
    assert len(kept) == 3
    grid.stop = 100
    rows = run_comparison(str(recipe), tmp_path / "out", [0], None, False)
    assert len(grid.ran) == 4, "nothing runs twice"
    assert json.loads((tmp_path / "out" / "result.json").read_text())["rows"] == rows


def test_what_failed_is_told_and_changes_the_exit_code(
    grid: Grid,
    recipe: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def failing(*given: Any) -> Iterator[dict[str, Any]]:
        for row in grid(*given):
            lost = row["attack"] == "WaNet"
            yield {**row, "outcome": "failed", "reason": "no luck"} if lost else row

    def run() -> int:
        words = ["invertune", "toolbox", "run", str(recipe), "--out", str(tmp_path / "out")]
        monkeypatch.setattr("sys.argv", words)
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0)

    monkeypatch.setattr(toolbox_run, "run_grid", failing)
    assert run() == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "failed: InverTune against WaNet on clip, seed 0: no luck" in said
    assert run() == 1, "also where nothing is left to run"


def test_what_failed_is_run_again_where_asked(grid: Grid, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_comparison(str(recipe), out, [0], None, False)
    content = json.loads((out / "result.json").read_text())
    content["rows"][1] |= {"outcome": "failed", "reason": "no luck"}
    (out / "result.json").write_text(json.dumps(content))
    run_comparison(str(recipe), out, [0], None, False)
    assert len(grid.ran) == 4, "it stays failed"
    rows = run_comparison(str(recipe), out, [0], None, False, again=True)
    assert len(grid.ran) == 5
    assert {row["outcome"] for row in rows} == {"ok"}


def test_two_runs_do_not_write_one_result(grid: Grid, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with FileLock(out / ".lock"), pytest.raises(InputError, match="another run works there"):
        run_comparison(str(recipe), out, [0], None, False)


def test_seeds_can_be_added(
    grid: Grid, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_comparison(str(recipe), tmp_path / "out", [0], None, False)
    rows = run_comparison(str(recipe), tmp_path / "out", [0, 1], None, False)
    assert [row["seed"] for row in rows] == [0] * 4 + [1] * 4
    assert "50.0 / 37.5" in capsys.readouterr().out, "the mean of 25 and 50 %"


def test_another_recipe_behind_a_name_is_another_comparison(
    grid: Grid, recipe: Path, tmp_path: Path
) -> None:
    scenes = tmp_path / "scenes.yaml"
    shipped = recipe_path("demo").read_text()
    scenes.write_text(shipped)
    recipe.write_text(RECIPE + f"scenes: {scenes}\n")
    run_comparison(str(recipe), tmp_path / "out", [0], None, False)
    scenes.write_text(shipped.replace("epochs: 5", "epochs: 6"))
    with pytest.raises(InputError, match="other settings"):
        run_comparison(str(recipe), tmp_path / "out", [0], None, False)


def test_other_settings_are_refused_and_can_be_replaced(
    grid: Grid, recipe: Path, tmp_path: Path
) -> None:
    run_comparison(str(recipe), tmp_path / "out", [0], None, False)
    recipe.write_text(RECIPE + "rate: 0.2")
    with pytest.raises(InputError, match="other settings"):
        run_comparison(str(recipe), tmp_path / "out", [0], None, False)
    run_comparison(str(recipe), tmp_path / "out", [0], None, True)
    assert len(grid.ran) == 8


def test_one_that_starts_anew_forgets_the_earlier_rows(
    grid: Grid, recipe: Path, tmp_path: Path
) -> None:
    """Also where it is stopped before its first row."""
    run_comparison(str(recipe), tmp_path / "out", [0], None, False)
    grid.ran, grid.stop = [], 0
    with pytest.raises(Stopped):
        run_comparison(str(recipe), tmp_path / "out", [0], None, True)
    grid.stop = 100
    run_comparison(str(recipe), tmp_path / "out", [0], None, False)
    assert len(grid.ran) == 4


def test_bad_input_takes_no_earlier_rows(
    grid: Grid, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any) -> Iterator[dict[str, Any]]:
        raise InputError("Expected data, got none.")

    rows = run_comparison(str(recipe), tmp_path / "out", [0], None, False)
    monkeypatch.setattr(toolbox_run, "run_grid", refused)
    with pytest.raises(InputError, match="Expected data"):
        run_comparison(str(recipe), tmp_path / "out", [0], None, True)
    assert json.loads((tmp_path / "out" / "result.json").read_text())["rows"] == rows
    assert not list((tmp_path / "out").glob("*.earlier"))


def test_the_table_of_many_defences_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"defence-{number:02}" for number in range(14)]
    measured = {"outcome": "ok", "ca_after": 0.5, "asr_after": 0.25}
    print_comparison([{"tower": "a", "attack": "b", "defense": n, **measured} for n in names])
    lines = capsys.readouterr().out.splitlines()
    for name in names:
        assert any(name in line and "50.0 / 25.0" in line for line in lines)
    assert max(map(len, lines)) <= 80


def test_a_file_that_is_no_result_is_refused(grid: Grid, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "result.json").write_text("[1, 2]")
    with pytest.raises(InputError, match="result of an earlier run"):
        run_comparison(str(recipe), tmp_path / "out", [0], None, False)
    assert (tmp_path / "out" / "result.json").read_text() == "[1, 2]"


@pytest.mark.parametrize("name", shipped_recipes(GROUP))
def test_shipped_comparisons_can_be_read(name: str) -> None:
    recipe = load_toolbox_recipe(name)
    assert recipe.name == name
    assert all(isinstance(spec, ModelSpec) for spec in recipe.models.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("BadNets: {}", "BadNet: {}"), r"known attack, got 'BadNet'\. Did you mean 'BadNets'"),
        (("InverTune: {}", "Invertune: {}"), r"known defence.*Did you mean 'InverTune'"),
        (("recipe: demo", "resnet: 18, recipe: demo"), r"either recipe or resnet"),
        (("BadNets: {}", "BadNets: {sizes: 3}"), r"option of BadNets \(rate, .*got 'sizes'"),
        (("InverTune: {}", "Pruning: {prune: 1}"), r"option of Pruning \(.*got 'prune'"),
        (("epochs: 2", "epoch: 2"), r"models\.clip\.training\.epoch.*'epochs'"),
    ],
)
def test_mistakes_in_a_comparison_are_named(
    recipe: Path, change: tuple[str, str], message: str
) -> None:
    recipe.write_text(RECIPE.replace(*change))
    with pytest.raises(InputError, match=message):
        load_toolbox_recipe(recipe)


def test_an_unknown_comparison_is_refused() -> None:
    with pytest.raises(InputError, match=r"Expected a comparison.*got 'tables'.*'table'"):
        load_toolbox_recipe("tables")


REAL = """
name: real
target: star
data: {train: 60, clean: 64, test: 40}
models: {resnet18: {resnet: 18, benign: {}, benign_images: 60, clean_seed: 5}}
attacks: {BadNets: {}, TUAP: {rate: 0.01}}
defenses: {none: {}, Pruning: {}, ABL: {split_ratio: 0.1}, NAD: {target_layers: [nothing]}}
"""


@pytest.mark.toolbox
def test_a_comparison_inside_the_real_toolbox(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVERTUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "real.yaml").write_text(REAL)
    rows = run_comparison(str(tmp_path / "real.yaml"), tmp_path / "out", [0], Path(clone()), False)
    found = {(row["attack"], row["defense"]): row for row in rows}
    assert len(found) == 8
    none = found["BadNets", "none"]
    assert none["outcome"] == "ok"
    assert (none["ca_before_n"], none["ca_after"]) == (40, none["ca_before"])
    assert 20 < none["asr_after_n"] < 40, "images of the target class do not count"
    assert found["BadNets", "Pruning"]["outcome"] == found["BadNets", "ABL"]["outcome"] == "ok"
    assert found["BadNets", "ABL"]["seconds"] > 0
    assert "got nothing" in found["BadNets", "NAD"]["reason"]
    assert "the attack failed" in found["TUAP", "none"]["reason"]
    assert "ca_before" not in found["TUAP", "none"]
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 1, "the clean ResNet"
    again = run_comparison(str(tmp_path / "real.yaml"), tmp_path / "out", [0], Path(clone()), False)
    assert again == rows
