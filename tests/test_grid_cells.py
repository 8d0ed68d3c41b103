"""Keys of cells: what changes them, and what does not."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from grid_cells import CODE, NUMBER, REPAIR, grid, number

from invertune_plugin import __version__
from invertune_plugin.benchmark.bench import cells as bench_cells
from invertune_plugin.benchmark.grid import code
from invertune_plugin.benchmark.grid.cells import Cell, Kind, in_order
from invertune_plugin.benchmark.grid.code import code_digest
from invertune_plugin.errors import InputError


def pair(own: int = 1, **settings: Any) -> Cell:
    parent = Cell(NUMBER, {"name": "parent", "own": own, "nested": {"rate": 0.1, "steps": 3}})
    return Cell(NUMBER, {"name": "child"} | settings, (parent,))


def test_a_key_is_the_hash_of_what_made_the_cell() -> None:
    cell = Cell(NUMBER, {"b": 1, "a": 2})
    made_of = {
        "code": code_digest(("grid_cells", *CODE)),
        "kind": "number",
        "package": __version__,
        "parents": [],
        "settings": {"a": 2, "b": 1},
    }
    assert cell.key == hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:20]


def test_a_setting_of_a_parent_changes_the_key_of_the_child() -> None:
    assert pair(own=1).key == pair(own=1).key
    assert pair(own=1).key != pair(own=2).key
    assert pair(own=1).key != pair(own=1, more=1).key
    assert pair().key != replace(pair(), parents=()).key
    assert Cell(REPAIR, {}).key != Cell(NUMBER, {}).key


def test_the_order_of_settings_does_not_matter() -> None:
    one = Cell(NUMBER, {"a": 1, "b": {"c": [1, 2], "d": None}})
    other = Cell(NUMBER, {"b": {"d": None, "c": (1, 2)}, "a": 1})
    assert one.key == other.key


def test_settings_cannot_change_after_a_cell_was_made() -> None:
    settings = {"list": [1]}
    cell = Cell(NUMBER, settings)
    key = cell.key
    settings["list"].append(2)
    assert cell.settings == {"list": [1]}
    assert Cell(NUMBER, {"list": [1]}).key == key


def test_code_that_shapes_results_is_part_of_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "shaping"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text("x = 1\r\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    first = Cell(Kind("number", number, ("shaping",)), {}).key
    (package / "inner.py").write_bytes(b"x = 1\n")
    code.code_digest.cache_clear()
    assert Cell(Kind("number", number, ("shaping",)), {}).key == first, "line ends do not matter"
    (package / "inner.py").write_text("x = 2\n")
    code.code_digest.cache_clear()
    assert Cell(Kind("number", number, ("shaping",)), {}).key != first


def test_what_a_module_imports_of_this_package_is_part_of_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest(text: str) -> str:
        (tmp_path / "importing.py").write_text(text)
        code.imported.cache_clear()
        code.code_digest.cache_clear()
        return code_digest(("importing",))

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(code, "OWN", "own")
    inner = tmp_path / "own" / "inner"
    inner.mkdir(parents=True)
    (inner.parent / "__init__.py").write_text("")
    (inner / "__init__.py").write_text("")
    (inner / "direct.py").write_text("from own.inner import behind\n")
    (inner / "behind.py").write_text("x = 1\n")
    (inner / "beside.py").write_text("x = 1\n")
    text = "def f():\n    from own.inner.direct import x\n"
    first = digest(text)
    (inner / "beside.py").write_text("x = 2\n")
    assert digest(text) == first, "nothing imports it"
    (inner / "behind.py").write_text("x = 2\n")
    second = digest(text)
    assert second != first
    (inner / "__init__.py").write_text("y = 1\n")
    assert digest(text) != second, "it runs before the modules in it"


@pytest.mark.parametrize(
    ("kind", "inside", "outside"),
    [
        ("VICTIM", "attacks.badclip", "defenses.baselines.par"),
        ("VICTIM", "benchmark.experiment.measuring", "defenses.purifiers.directions"),
        ("REPAIR", "defenses.baselines.par", "benchmark.bench.toolbox"),
        ("PURIFICATION", "defenses.purifiers.directions", "benchmark.grid.store"),
        ("TOOLBOX_REPAIR", "adapters.backdoorbox.isolation", "benchmark.grid.store"),
    ],
)
def test_code_that_shapes_each_kind_of_cell(kind: str, inside: str, outside: str) -> None:
    made: Kind = getattr(bench_cells, kind)
    found = code.reached((made.compute.__module__, *made.code))
    assert f"invertune_plugin.{inside}" in found
    assert f"invertune_plugin.{outside}" not in found


def test_names_come_from_a_cell_and_its_parents() -> None:
    cell = grid()[1]
    assert cell.names == {
        "name": "patch-ft",
        "tower": "rn",
        "attack": "patch",
        "defense": "ft",
        "seed": 3,
    }
    title = "repair name=patch-ft tower=rn attack=patch defense=ft seed=3"
    assert cell.title == title


def test_shared_parents_come_once_and_first() -> None:
    names = [cell.settings["name"] for cell in in_order(grid())]
    assert names == [
        "clean",
        "victim-patch",
        "patch-none",
        "patch-ft",
        "victim-blend",
        "blend-none",
        "blend-ft",
    ]


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, Path("x")], ids=str)
def test_settings_that_are_no_json_are_refused(value: object) -> None:
    with pytest.raises(InputError, match=r"Expected JSON values as settings of a number cell"):
        Cell(NUMBER, {"a": value})


@pytest.mark.parametrize("name", ["invertune_plugin.nothing", "sys", "__main__", "no.such.module"])
def test_code_that_has_no_source_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=rf"Expected a module or package with source.*{name}"):
        code_digest((name,))
