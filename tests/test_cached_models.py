"""Models of a recipe in the cache: made once, whoever asks for them."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tiny_bench import write_recipe

from invertune_plugin.benchmark.experiment import models
from invertune_plugin.benchmark.experiment.recipe import load_recipe
from invertune_plugin.benchmark.experiment.victims import build_clean


def test_two_at_once_train_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Any] = []

    def slow(classifier: Any, *_: Any, **__: Any) -> None:
        trained.append(classifier)
        time.sleep(0.3)

    def build(_: int) -> str | None:
        return build_clean(recipe, 0, lambda _: lambda *_: None)[1].source_sha256

    monkeypatch.setenv("INVERTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(models, "train_contrastive", slow)
    recipe = load_recipe(write_recipe(tmp_path))
    with ThreadPoolExecutor(3) as pool:
        hashes = list(pool.map(build, range(3)))
    assert len(trained) == 1
    assert len(set(hashes)) == 1


def test_a_training_that_failed_leaves_the_next_one_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVERTUNE_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "model.safetensors"
    with suppress(RuntimeError), models.to_be_made(path):
        raise RuntimeError("no memory")
    with models.to_be_made(path) as missing:
        assert missing
        path.touch()
    with models.to_be_made(path) as missing:
        assert not missing
