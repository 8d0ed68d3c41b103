"""Defences of others under the toolbox's names."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import pytest
from fake_toolbox import write_toolbox
from test_toolbox_loader import apart  # noqa: F401

from invertune_plugin import InputError, load_toolbox, register
from invertune_plugin.adapters.backdoorbox import registration


class Mine:
    """A defence of mine."""


class Other:
    """Another one."""


@pytest.fixture
def core(apart: None, tmp_path: Path) -> Iterator[ModuleType]:  # noqa: F811
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_toolbox(write_toolbox(tmp_path))


def test_invertune_is_one_of_the_defences(core: ModuleType) -> None:
    defense = importlib.import_module("invertune_plugin.adapters.backdoorbox.defense")
    assert core.InverTune is core.defenses.InverTune is defense.InverTuneDefense


def test_all_ways_to_import(core: ModuleType) -> None:
    register(core, Mine=Mine)
    names: dict[str, object] = {}
    exec("from core.defenses import *", names)
    exec("from core.defenses.Mine import Mine as direct", names)
    exec("from core import Mine as short", names)
    assert {core.Mine, core.defenses.Mine} == {Mine}
    assert {names["Mine"], names["direct"], names["short"]} == {Mine}
    assert names["Pruning"] is core.Pruning, "the others are still there"


def test_registering_again_changes_nothing(core: ModuleType) -> None:
    register(core, Mine=Mine)
    register(core, Mine=Mine)
    assert core.defenses.__all__.count("Mine") == 1


def test_a_class_that_was_defined_again_takes_its_place(core: ModuleType) -> None:
    """As happens in notebooks."""
    register(core, Mine=Mine)
    again = type("Mine", (), {"__module__": Mine.__module__})
    register(core, Mine=again)
    assert core.Mine is importlib.import_module("core.defenses.Mine").Mine is again


@pytest.mark.parametrize("name", ["Pruning", "BadNets", "ResNet", "attacks", "BAAT"])
def test_no_name_of_the_toolbox_is_covered(core: ModuleType, name: str) -> None:
    before = getattr(core, name)
    with pytest.raises(InputError, match=f"free in the toolbox, got {name}, one of the toolbox's"):
        register(core, Other=Other, **{name: Mine})
    assert getattr(core, name) is before
    assert not hasattr(core, "Other"), "all or nothing"


def test_no_module_of_the_toolbox_is_covered(core: ModuleType) -> None:
    with pytest.raises(InputError, match="Spectral, the name of one of the toolbox's modules"):
        register(core, Spectral=Mine)


def test_no_name_of_another_package_is_covered(core: ModuleType) -> None:
    register(core, Mine=Mine)
    with pytest.raises(InputError, match="a name that test_toolbox_registration registered"):
        register(core, Mine=Other)


def test_only_classes(core: ModuleType) -> None:
    with pytest.raises(InputError, match="Expected a class to register as Mine, got <"):
        register(core, Mine=Mine())  # type: ignore[arg-type]


def test_entry_points(core: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    here, group = __name__, registration.GROUP
    points = [
        EntryPoint("Mine", f"{here}:Mine", group),
        EntryPoint("Broken", "a_module_that_nobody_has:Broken", group),
        EntryPoint("Pruning", f"{here}:Other", group),
    ]
    monkeypatch.setattr(registration, "entry_points", lambda group: points)
    with pytest.warns(UserWarning, match="was not registered") as told:
        registration.register_all(core)
    assert core.Mine is Mine
    said = [str(warning.message) for warning in told]
    assert any("Broken" in text and "a_module_that_nobody_has" in text for text in said)
    assert any("Pruning" in text and "one of the toolbox's own" in text for text in said)
    assert sys.modules["core.defenses"].Pruning is not Other
