"""What other packages add by entry points, and the example of it in a grid."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from invertune_plugin.benchmark.bench.cells import bench_cells
from invertune_plugin.benchmark.bench.recipe import load_bench
from invertune_plugin.benchmark.commands.bench import run_grid
from invertune_plugin.benchmark.experiment.made_of import code_of
from invertune_plugin.benchmark.experiment.models import cached_path
from invertune_plugin.benchmark.experiment.recipe import DataConfig
from invertune_plugin.benchmark.experiment.sources import build_sources
from invertune_plugin.benchmark.grid.bench import BenchOptions
from invertune_plugin.benchmark.grid.cells import in_order
from invertune_plugin.benchmark.grid.code import code_digest
from invertune_plugin.benchmark.grid.rows import flat, rows_of
from invertune_plugin.benchmark.grid.store import Store
from invertune_plugin.defenses.baselines import BASELINES, baseline_of
from invertune_plugin.errors import InputError
from invertune_plugin.plugins import Catalogue, packages_of
from invertune_plugin.triggers import NAMED, Patch, load_trigger, save_trigger

EXAMPLE = Path(__file__).parent.parent / "examples" / "plugin"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the example is installed."""
    folder = tmp_path_factory.mktemp("example")
    shutil.copytree(EXAMPLE, folder / "source")
    words = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    words += ["--no-build-isolation", "--target", str(folder / "site"), str(folder / "source")]
    subprocess.run(words, check=True)
    return folder / "site"


@pytest.fixture
def example(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its grid with models that train in a second, in the folder of work."""
    monkeypatch.syspath_prepend(str(site))
    for name in [name for name in sys.modules if name.startswith("invertune_example")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setenv("INVERTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    for name in ("grid.yaml", "frame.yaml"):
        shutil.copy(EXAMPLE / name, name)
    recipe = yaml.safe_load((EXAMPLE / "gratings.yaml").read_text())
    recipe["data"] |= {"clean": 64, "attack": 64, "defence": 16, "rebound": 16, "test": 40}
    recipe["clean"] |= {"max_steps": 2, "batch_size": 32}
    recipe["attack"]["training"] |= {"max_steps": 2, "batch_size": 32}
    Path("gratings.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path


def test_the_example_in_a_grid(example: Path) -> None:
    assert run_grid("grid.yaml", example / "store", BenchOptions(only=("attack=frame",))) == 0
    rows = [flat(row) for row in rows_of(Store.open(example / "store", create=False))]
    found = {row["defense"]: row for row in rows if row["kind"] == "repair"}
    assert found.keys() == {"none", "rounding"}
    assert found["rounding"]["outcome"] == "ok"
    assert (found["rounding"]["ca_after_n"], found["rounding"]["asr_after_n"]) == (40, 30)
    (victim,) = (row for row in rows if row["kind"] == "victim")
    assert victim["trigger"].startswith("frame-")
    assert (victim["target"], victim["ca_before_n"]) == ("level", 40)


def test_code_of_the_package_shapes_the_cells_that_use_it(example: Path, site: Path) -> None:
    def keys() -> dict[str, str]:
        code_digest.cache_clear()
        cells = in_order(bench_cells(load_bench("grid.yaml")))
        return {cell.title: cell.key for cell in cells}

    def cached() -> str:
        return cached_path("victim", code_of(NAMED["frame"])).name

    before, module = keys(), site / "invertune_example" / "defense.py"
    name, text = cached(), module.read_text()
    module.write_text(text + "# changed\n")
    after = keys()
    assert cached() != name, "a model of an older trigger is not taken for one of the present one"
    module.write_text(text)
    assert len(before) == 1 + 2 + 4
    assert {title for title in before if before[title] == after[title]} == set(), (
        "the data come from the package, too"
    )
    assert keys() == before


def test_what_the_example_offers_keeps_the_contracts(example: Path) -> None:
    assert {"patch", "frame"} <= set(NAMED)
    assert {"par", "rounding"} <= set(BASELINES)
    sources = build_sources(DataConfig("gratings", 8, 8, 8, 8, 8), 16, 0, 0)
    keys = {
        sources.images(part).content_key(i)
        for part in ("clean", "attack", "defence", "rebound")
        for i in range(8)
    }
    assert len(keys) == 32, "no image serves two purposes"
    assert sources.pairs("attack")[1][1] == ("rising stripes", "a picture of rising stripes")
    frame = NAMED["frame"]()
    save_trigger(example / "frame.trigger.safetensors", frame)
    assert load_trigger(example / "frame.trigger.safetensors") == frame
    assert packages_of(frame, baseline_of("rounding").run, Patch()) == ("invertune_example",)


def offer(folder: Path, package: str, name: str, value: str) -> None:
    """A package that is nothing but an entry point."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[test.numbers]\n{name} = {value}\n")


def numbers(**own: int) -> Catalogue[Any]:
    return Catalogue("number", "test.numbers", own, lambda found: isinstance(found, int))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("math:pi", r"a number as math:pi.*of the group test\.numbers, got 3\.14"),
        ("nothing_of_that_name:x", "got ModuleNotFoundError: .*uninstall the package"),
        ("math:three", "got AttributeError"),
    ],
)
def test_what_cannot_be_used_is_told_when_it_is_asked_for(
    value: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, "some", "three", value)
    monkeypatch.syspath_prepend(str(tmp_path))
    found = numbers(one=1)
    assert list(found) == ["one", "three"]
    assert "three" in found
    assert found["one"] == 1
    with pytest.raises(InputError, match=message):
        found["three"]
    with pytest.raises(KeyError):
        found["four"]


def test_names_of_ours_stay_ours_and_two_packages_are_no_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path, "some", "best", "sys:maxsize")
    offer(tmp_path, "other", "best", "sys:hexversion")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert numbers(best=1)["best"] == 1
    with pytest.raises(InputError, match=r"one number 'best', got .* of two packages"):
        numbers()["best"]
    assert len(numbers(one=1)) == 2
