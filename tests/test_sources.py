"""The data of the recipes: no image serves two purposes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn
from toys import noise_images

from invertune_plugin.adapters.data_root import data_root
from invertune_plugin.adapters.folders import ImageFolderSet
from invertune_plugin.benchmark.experiment.recipe import DataConfig, load_recipe, shipped_recipes
from invertune_plugin.benchmark.experiment.sources import (
    PARTS,
    ShapeSources,
    Sources,
    build_sources,
)
from invertune_plugin.benchmark.toolbox import models as toolbox_models
from invertune_plugin.benchmark.toolbox.models import (
    IMAGE_SIZE,
    build_arena,
    build_model,
    some_of,
)
from invertune_plugin.benchmark.toolbox.recipe import (
    GROUP,
    Amounts,
    ModelSpec,
    ToolboxRecipe,
    load_toolbox_recipe,
)
from invertune_plugin.data import InMemory, Items, texts_of
from invertune_plugin.errors import InputError

SOURCES = {name: load_recipe(name).data.source for name in shipped_recipes()}


def named(source: str) -> list[str]:
    return [name for name, found in SOURCES.items() if found == source]


def small(data: DataConfig) -> DataConfig:
    return replace(data, clean=400, attack=200, defence=100, rebound=200, test=100)


def hashes(dataset: Items[Any]) -> list[bytes]:
    """One hash per image, of the pixels that a model would see."""
    images = (dataset[i][0].numpy().tobytes() for i in range(len(dataset)))
    return [hashlib.blake2b(pixels, digest_size=16).digest() for pixels in images]


def disjoint(sets: Sequence[Items[Any]]) -> None:
    owner: dict[bytes, int] = {}
    for number, dataset in enumerate(sets):
        assert len(dataset)
        for key in hashes(dataset):
            assert owner.setdefault(key, number) == number, f"in sets {owner[key]} and {number}"


def all_of(sources: Sources) -> list[Items[Any]]:
    parts: list[Items[Any]] = [sources.pairs(part) for part in PARTS]
    return parts + [test.images for test in sources.tests()]


def test_attack_defence_and_evaluation_share_no_image() -> None:
    sources = build_sources(load_recipe("demo").data, 32, seed=0, clean_seed=0)
    sets = [sources.pairs(part) for part in PARTS] + [test.images for test in sources.tests()]
    keys = [{dataset.content_key(i) for i in range(len(dataset))} for dataset in sets]
    assert len(set().union(*keys)) == sum(len(some) for some in keys)


def test_every_recipe_is_drawn_or_real() -> None:
    assert {"demo", "demo_vit"} <= set(named("shapes"))
    assert set(named("shapes")) | set(named("real")) == set(shipped_recipes())


@pytest.mark.parametrize("seed", [0, 1, 12])
@pytest.mark.parametrize("name", named("shapes"))
def test_parts_of_drawn_recipes_share_no_image(name: str, seed: int) -> None:
    recipe = load_recipe(name)
    disjoint(all_of(build_sources(small(recipe.data), 32, seed, recipe.seed_of_clean(seed))))


def test_retrieval_is_measured_on_the_scenes_of_the_evaluation() -> None:
    sources = build_sources(small(load_recipe("demo").data), 32, 3, 0)
    assert hashes(sources.captioned_test()) == hashes(sources.tests()[0].images)


def test_an_unknown_source_is_told_with_the_nearest_name() -> None:
    with pytest.raises(InputError, match=r"got 'shape'\. Did you mean 'shapes'"):
        build_sources(replace(load_recipe("demo").data, source="shape"), 32, 0, 0)


def test_the_check_finds_a_shared_image() -> None:
    sources = build_sources(small(load_recipe("demo").data), 32, 0, 0)
    with pytest.raises(AssertionError, match="in sets 0 and 2"):
        disjoint([sources.pairs("attack"), sources.pairs("clean"), sources.images("attack")])


@pytest.mark.data
@pytest.mark.parametrize("name", named("real"))
def test_parts_of_real_recipes_share_no_image(name: str) -> None:
    if data_root() is None:
        pytest.skip("the real data sets are not in the folder of INVERTUNE_DATA")
    sources = build_sources(load_recipe(name).data, 32, seed=0, clean_seed=0)
    disjoint([*all_of(sources), sources.captioned_test()])


def clean_images(recipe: ToolboxRecipe, spec: ModelSpec, seed: int) -> Items[int]:
    """What the clean model of a comparison is trained on."""
    if spec.recipe is None:
        seed = seed if spec.clean_seed is None else spec.clean_seed
        return build_sources(small(load_recipe(recipe.scenes).data), 32, seed, seed).images("clean")
    clip = load_recipe(spec.recipe)
    clean_seed = clip.seed_of_clean(seed)
    return build_sources(small(clip.data), 32, seed, clean_seed).images("clean")


def test_other_amounts_have_other_images(tmp_path: Path) -> None:
    recipe = load_toolbox_recipe("attacks")
    for train in (100, 200):
        amounts = Amounts(train=train, clean=100, test=100)
        arena = build_arena(replace(recipe, data=amounts), 0, tmp_path)
        assert len(arena.attack.train) == train


def test_other_files_make_another_arena_and_another_clean_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test files tell arenas apart, training files both."""
    small_one = Amounts(train=100, clean=100, test=100)
    recipe = replace(load_toolbox_recipe("attacks"), data=small_one)
    keys: list[dict[str, Any]] = []

    def stop(kind: str, key: dict[str, Any]) -> Path:
        keys.append(key)
        raise InputError("Expected no training here.")

    monkeypatch.setattr(toolbox_models, "cached_path", stop)
    files = classmethod(lambda _, __, use: (tmp_path / use,))
    monkeypatch.setattr(ShapeSources, "files", files)
    core: Any = SimpleNamespace(models=SimpleNamespace(ResNet=lambda _, count: nn.Linear(1, count)))
    for training, test in (("a", "a"), ("a", "b"), ("b", "a")):
        (tmp_path / "training").write_text(training)
        (tmp_path / "classification").write_text(test)
        build_arena(recipe, 0, tmp_path / "arenas")
        with pytest.raises(InputError, match="no training"):
            build_model(core, ModelSpec(resnet=18), recipe, 0, lambda _: print)
    assert len(list((tmp_path / "arenas").iterdir())) == 3
    first, second, third = keys
    assert first == second != third


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", shipped_recipes(GROUP))
def test_parts_of_comparisons_share_no_image(name: str, seed: int, tmp_path: Path) -> None:
    recipe = replace(load_toolbox_recipe(name), data=Amounts(train=200, clean=100, test=100))
    build_arena(recipe, seed, tmp_path)
    (root,) = tmp_path.glob(f"*/seed-{seed}")
    parts = [ImageFolderSet(root / part, IMAGE_SIZE) for part in ("train", "clean", "test")]
    for spec in recipe.models.values():
        disjoint([clean_images(recipe, spec, seed), *parts])


def test_some_images_of_a_set_in_order_of_its_classes_are_of_all_classes() -> None:
    labels = [i // 20 for i in range(200)]
    images = InMemory(noise_images(200, 4), labels)
    chosen = list(texts_of(some_of(images, 100, 0)))
    assert chosen == sorted(chosen)
    assert set(chosen) == set(range(10))
    assert list(texts_of(some_of(images, 100, 0))) == chosen
    assert some_of(images, 200, 0) is images
