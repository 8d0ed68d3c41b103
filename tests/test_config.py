from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from trigger_table import every_plain, unit_images

from invertune_plugin.benchmark.experiment.recipe import (
    Recipe,
    load_recipe,
    model_config,
    shipped_recipes,
)
from invertune_plugin.config import parse, read_yaml
from invertune_plugin.defenses.invertune import InverTuneConfig
from invertune_plugin.errors import InputError
from invertune_plugin.training import TrainingConfig
from invertune_plugin.triggers import (
    TRIGGERS,
    Blend,
    Chain,
    Jpeg,
    Patch,
    Pick,
    Sinusoid,
    Text,
    Trigger,
)


@dataclass(frozen=True)
class Inner:
    steps: int = 3
    rule: Literal["one", "two"] = "one"
    most: int | None = None


@dataclass(frozen=True)
class Outer:
    name: str
    trigger: Trigger
    rate: float = 0.5
    sizes: tuple[int, ...] = (1,)
    inner: Inner = field(default_factory=Inner)


BOARD = {"kind": "patch", "place": [1, 2]}
SMALLEST: dict[str, Any] = {"name": "x", "trigger": {"kind": "patch"}}


def test_what_is_left_out_keeps_its_default() -> None:
    assert parse(Outer, SMALLEST) == Outer("x", Patch())


def test_nested_settings() -> None:
    found = parse(
        Outer,
        {
            "name": "x",
            "trigger": {"kind": "patch", "place": [2, 3], "size": 5},
            "rate": 1,
            "sizes": [4, 5],
            "inner": {"steps": 7, "rule": "two", "most": 9},
        },
    )
    assert found == Outer("x", Patch(size=5, place=(2, 3)), 1.0, (4, 5), Inner(7, "two", 9))
    assert isinstance(found.rate, float)


def test_parsing_leaves_the_mapping_as_it_was() -> None:
    values = {"name": "x", "trigger": {"kind": "blend", "alpha": 0.5}}
    parse(Outer, values)
    assert values == {"name": "x", "trigger": {"kind": "blend", "alpha": 0.5}}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"kind": "patch", "pattern": "noise", "seed": 3}, Patch(pattern="noise", seed=3)),
        ({"kind": "patch", "place": "random"}, Patch(place="random")),
        ({"kind": "blend", "alpha": 0.1}, Blend(alpha=0.1)),
        ({"kind": "sinusoid", "frequency": 2}, Sinusoid(frequency=2.0)),
        ({"kind": "text", "word": "hi", "colour": [0, 1, 0]}, Text("hi", colour=(0.0, 1.0, 0.0))),
        ({"kind": "chain", "parts": []}, Chain()),
        (
            {
                "kind": "pick",
                "weights": [1, 2],
                "parts": [{"kind": "chain", "parts": [{"kind": "blend"}, {"kind": "jpeg"}]}, BOARD],
            },
            Pick((Chain((Blend(), Jpeg())), Patch(place=(1, 2))), (1.0, 2.0)),
        ),
    ],
)
def test_triggers_by_kind(values: dict[str, Any], expected: Trigger) -> None:
    found = parse(Trigger, values)  # type: ignore[type-abstract]
    assert found == expected
    assert found.fingerprint() == expected.fingerprint()


@every_plain
def test_every_trigger_that_can_be_written_is_read(trigger: Trigger) -> None:
    written = yaml.safe_load(yaml.safe_dump(json.loads(json.dumps(trigger.parameters()))))
    found = parse(Trigger, written)  # type: ignore[type-abstract]
    assert found == trigger
    assert torch.equal(found(unit_images(3)), trigger(unit_images(3)))
    assert trigger.kind in TRIGGERS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ratte": 1}, r"Expected a known setting, got ratte\. Did you mean 'rate'\?"),
        ({"zzz": 1}, r"got zzz\. Known are inner, name, rate, sizes, trigger\."),
        ({"inner": {"step": 1}}, r"got inner\.step\. Did you mean 'steps'\?"),
        (
            {"trigger": {"kind": "patch", "sise": 1}},
            r"got trigger\.sise\. Did you mean 'size'\?",
        ),
        (
            {"trigger": {"kind": "pach"}},
            r"Expected a known trigger, got trigger\.kind\. Did you mean 'patch'\?",
        ),
        ({"trigger": {"size": 3}}, r"got trigger\.kind\. Known are blend, .*, watermark\."),
        ({"trigger": {"kind": 3}}, r"got trigger\.kind\. Known are"),
        ({"trigger": {"kind": ["patch"]}}, r"got trigger\.kind\."),
        ({"inner": {1: 2}}, r"Expected a known setting, got inner\.1"),
        ({"rate": "much"}, r"Expected another value for rate: .*number.*; got 'much'\."),
        ({"rate": None}, r"value for rate: .*; got None"),
        ({"inner": {"steps": 2.5}}, r"value for inner\.steps: .*integer.*; got 2\.5"),
        ({"inner": {"rule": "three"}}, r"value for inner\.rule: .*'one' or 'two'; got 'three'"),
        ({"sizes": [1, "b"]}, r"value for sizes: .*; got \[1, 'b'\]"),
        ({"trigger": {"kind": "patch", "size": "big"}}, r"value for trigger\.size: .*; got 'big'"),
        ({"trigger": {"kind": "patch", "pattern": "dots"}}, r"trigger\.pattern: .*'checkerboard'"),
        ({"trigger": {"kind": "patch", "place": [1, 2, 3]}}, r"value for trigger\.place"),
        (
            {"trigger": {"kind": "chain", "parts": [{"kind": "patch"}, {"kind": "warp", "kk": 3}]}},
            r"got trigger\.parts\[1\]\.kk\. Did you mean 'k'\?",
        ),
        (
            {"trigger": {"kind": "chain", "parts": [{"kind": "pach"}]}},
            r"got trigger\.parts\[0\]\.kind\. Did you mean 'patch'\?",
        ),
        (
            {"trigger": {"kind": "pick", "parts": {"kind": "patch"}}},
            r"a list in trigger\.parts, got \{'kind': 'patch'\}\. Begin each",
        ),
        ({"trigger": {"kind": "pick", "parts": ["patch"]}}, r"in trigger\.parts\[0\], got 'patch'"),
        ({"trigger": {"kind": "pick"}}, "triggers to pick from, got none"),
        ({"trigger": {"kind": "masked-pattern"}}, r"Expected a known trigger, got trigger\.kind"),
        ({"trigger": {"kind": "blend-picture"}}, r"settings in trigger, but .*Not set: path\."),
        ({"trigger": {"kind": "text", "colour": [1, 2]}}, r"value for trigger\.colour: .*required"),
        ({"trigger": {"kind": "colour-filter", "name": "lomo"}}, r"trigger\.name: .*'nashville'"),
        ({"name": 3}, r"value for name: .*string; got 3"),
        ({"inner": [1]}, r"Expected settings \(key: value\) in inner, got \[1\]\."),
        ({"inner": None}, r"settings \(key: value\) in inner, got None"),
        ({"trigger": "patch"}, r"settings \(key: value\) in trigger, got 'patch'"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(Outer, {**SMALLEST, **change})


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(InputError, match=r"Expected all needed settings in the file.*'trigger'"):
        parse(Outer, {"name": "x"})


def test_only_needed_settings_are_missed() -> None:
    with pytest.raises(InputError, match="trigger") as error:
        parse(Outer, {"name": "x"})
    assert "sizes" not in str(error.value), "it has a default"


@pytest.mark.parametrize("values", [None, [], "text", 3])
def test_settings_are_a_mapping(values: Any) -> None:
    with pytest.raises(InputError, match=r"Expected settings \(key: value\) in the file, got"):
        parse(Outer, values)
    with pytest.raises(InputError, match=r"in defence\.target, got"):
        parse(Inner, values, "defence.target")


def test_yaml_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("name: Äpfel\nlist: [1, 2]\n", encoding="utf-8")
    assert read_yaml(path) == {"name": "Äpfel", "list": [1, 2]}
    assert read_yaml(str(path)) == read_yaml(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "Expected YAML in .*x.yaml, got what is none"),
        (b"\xff\xfe\xff", "Expected YAML in .*x.yaml, got what is none"),
        (b"!!python/object/apply:os.getcwd []", "got what is none: could not determine"),
        (b"", "Expected settings .*x.yaml, got NoneType"),
        (b"- 1", "got list"),
        (b"hello", "got str"),
    ],
)
def test_what_is_no_settings_file_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_yaml(tmp_path / "x.yaml")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "no.yaml", tmp_path):
        with pytest.raises(InputError, match=f"Expected a YAML file, got {re.escape(str(path))}"):
            read_yaml(path)


def test_the_shipped_recipes_are_found() -> None:
    assert {"demo", "real"} <= set(shipped_recipes())


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_parses(name: str) -> None:
    recipe = load_recipe(name)
    assert isinstance(recipe, Recipe)
    assert recipe.name == name
    assert 0 < recipe.attack.rate < 1
    assert Path(model_config(recipe.model)).is_file()


def test_the_demo_is_what_its_file_says() -> None:
    recipe = load_recipe("demo")
    assert recipe.attack.trigger == Patch(size=4, place="bottom-right")
    assert recipe.attack.target == "star"
    assert recipe.clean == TrainingConfig(epochs=5, batch_size=256, learning_rate=3e-3)
    assert recipe.defence == InverTuneConfig()


def test_a_recipe_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yml"
    path.write_text(
        "name: mine\nmodel: RN50\ndata: {test: 10}\nclean: {max_steps: 3}\n"
        "attack: {trigger: {kind: blend}, target: star, rate: 0.1, training: {epochs: 1}}\n"
        "defence: {target: {candidates: 2}, tuning: {units: published}}\n"
    )
    recipe = load_recipe(path)
    assert recipe.attack.trigger == Blend()
    assert recipe.clean.max_steps == 3
    assert recipe.defence.target.candidates == 2
    assert recipe.defence.tuning.units == "published"


def test_an_unknown_recipe_names_the_nearest_or_all() -> None:
    with pytest.raises(InputError, match=r"or the path of a \.yaml file, got 'dmeo'.*'demo'"):
        load_recipe("dmeo")
    with pytest.raises(InputError, match=r"got 'xyz'\. Known are demo, demo_vit"):
        load_recipe("xyz")


def test_model_configs_are_shipped_ones_or_names() -> None:
    assert model_config("shapes_rn").endswith("shapes_rn.json")
    assert model_config("RN50") == "RN50"
