"""What FLARE says of planted clusters, and of images with a mark."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from invertune_plugin.data import InMemory
from invertune_plugin.defenses.flare import FLARE, FlareConfig, flare
from invertune_plugin.defenses.flare.clusters import ClusterConfig
from invertune_plugin.defenses.flare.features import Features
from invertune_plugin.defenses.flare.projection import ProjectionConfig, projected
from invertune_plugin.defenses.flare.sides import (
    share_of_classes,
)
from invertune_plugin.defenses.flare.subspace import Selection, SubspaceConfig
from invertune_plugin.defenses.flare.verdict import verdict
from invertune_plugin.errors import InputError
from invertune_plugin.outcome import Outcome

hdbscan = pytest.importorskip("hdbscan", reason="FLARE's clusters need hdbscan")


PCA = FlareConfig(projection=ProjectionConfig("pca"), clusters=ClusterConfig(min_cluster_size=30))


def planted(
    poisoned: int = 60, classes: float = 0.0, count: int = 600
) -> tuple[Features, list[int]]:
    """Six layers: poison stands out in the first three, two classes in the last three.

    Across the classes poison stands out a little there, too.
    """
    rng = np.random.default_rng(0)
    values = rng.normal(size=(count, 6)) * 0.5
    labels = (rng.random(count) < 0.3).astype(np.int64)
    chosen = np.sort(rng.permutation(count)[:poisoned])
    labels[chosen] = 1
    values[chosen, :3] -= 12
    values[chosen, 3:5] += (-2, 2)
    values[:, 3:] += classes * labels[:, None]
    names = tuple(f"layer{i}" for i in range(6))
    return Features(values.astype(np.float32), names, labels, count), chosen.tolist()


def test_planted_poison_is_found() -> None:
    features, chosen = planted()
    found = verdict(features, PCA)
    assert found.poisoned == chosen
    assert found.evidence["clusters"] == [540, 60]
    assert found.evidence["dropped"] == []
    assert found.scores[chosen].min() > np.delete(found.scores, chosen).max()
    assert "60 of 600 samples stand apart in the first 6 of 6" in found.reason


def test_refining_is_told() -> None:
    features, chosen = planted()
    found = verdict(features, replace(PCA, refine=True))
    assert (found.poisoned, found.evidence["refined"]) == (chosen, len(chosen))
    above = np.flatnonzero(found.scores > 0)
    assert above.tolist() == chosen, "scores are those of the discriminant"


@pytest.mark.parametrize("selection", ["none", "adaptive"])
def test_layers_that_tell_classes_are_dropped(selection: Selection) -> None:
    features, chosen = planted(classes=200.0)
    found = verdict(features, replace(PCA, subspace=SubspaceConfig(selection)))
    if selection == "none":
        assert (found.poisoned, found.outcome) == ((), Outcome.REJECTED)
        return
    assert found.poisoned == chosen
    assert found.evidence["dropped"] == ["layer3", "layer4", "layer5"]
    assert found.evidence["share_of_classes"][0] > 0.9 > found.evidence["share_of_classes"][-1]


@pytest.mark.parametrize("apart", [12.0, 30.0, 200.0])
def test_a_class_that_splits_off_beside_the_poison_is_left(apart: float) -> None:
    rng = np.random.default_rng(0)
    read = rng.integers(0, 10, 3000)
    odd_class = read == 7
    chosen = np.sort(rng.permutation(3000)[:300])
    read[chosen] = 1
    values = rng.normal(size=(3000, 6)) * 0.5
    values[chosen, :3] -= 12
    values[chosen, 3:5] += (-2, 2)
    values[odd_class, 3:] += apart
    features = Features(values.astype(np.float32), tuple("abcdef"), read, 3000)
    found = verdict(features, FlareConfig(projection=ProjectionConfig("pca")))
    assert set(found.poisoned) <= set(chosen.tolist())
    assert len(found.poisoned) > 0.85 * len(chosen)


@pytest.mark.parametrize("classes", [0.0, 200.0])
@pytest.mark.parametrize("count", [100, 600, 2000])
def test_a_clean_set_is_reported_clean(classes: float, count: int) -> None:
    features, _ = planted(0, classes, count)
    found = verdict(features, PCA)
    assert (found.poisoned, found.outcome) == ((), Outcome.REJECTED)
    assert f"of the {count} samples stands apart" in found.reason
    assert len(found.scores) == count


def test_the_published_rule_takes_a_class_for_poison() -> None:
    features, _ = planted(0, classes=200.0)
    published = replace(
        PCA, clusters=replace(PCA.clusters, persistence=1.0, least_share=0.0), most_of_classes=1.0
    )
    found = verdict(features, published)
    assert len(found.poisoned) > 100
    assert share_of_classes(features.predictions, np.array(found.poisoned)) == 1.0


@pytest.mark.parametrize("confirmed", [True, False])
@pytest.mark.parametrize("shared", [300, 220, 100])
def test_what_another_projection_does_not_split_off_is_left(
    monkeypatch: pytest.MonkeyPatch, shared: int, confirmed: bool
) -> None:
    """Of 300 samples that the first projection tears off, the second tears off so many."""
    first, second = np.arange(300), np.arange(300 - shared, 600 - shared)

    def torn(values: np.ndarray, _: ProjectionConfig, seed: int) -> np.ndarray:
        places = np.random.default_rng(seed).normal(size=(len(values), 2))
        places[first if seed == 0 else second] += 50
        return places

    module = import_module("invertune_plugin.defenses.flare.verdict")
    monkeypatch.setattr(module, "projected", torn)
    monkeypatch.setattr(module, "projection_kind", lambda _: "umap")
    features, _ = planted(0, 0.0, 2000)
    features.values[np.union1d(first, second), 3:] += 3
    config = FlareConfig(subspace=SubspaceConfig("none"), confirmed=confirmed)
    found = verdict(features, config)
    if shared >= 220 or not confirmed:
        assert set(found.poisoned) == set(first.tolist())
        return
    assert (found.outcome, found.poisoned) == (Outcome.REJECTED, ())
    assert found.evidence["unconfirmed"] == [300]
    assert "1 split(s) did not come again in another projection" in found.reason


def test_what_fades_in_the_later_layers_is_no_poison() -> None:
    features, chosen = planted()
    features.values[chosen, 3:5] -= (-2, 2)
    found = verdict(features, PCA)
    assert (found.outcome, found.poisoned) == (Outcome.REJECTED, ())
    assert set(found.evidence["faded"]) == {60}
    assert "4 split(s) fade in the later layers" in found.reason
    assert verdict(features, replace(PCA, least_late=0.0)).poisoned == chosen


def test_all_samples_alike_is_no_split() -> None:
    values = np.zeros((200, 4), dtype=np.float32)
    features = Features(values, ("a", "b", "c", "d"), np.zeros(200, dtype=np.int64), 200)
    assert verdict(features, PCA).outcome is Outcome.REJECTED


def test_copies_of_poisoned_samples_are_found() -> None:
    """Distances of 0, which is an infinite density."""
    features, chosen = planted()
    features.values[chosen] = features.values[chosen[0]]
    assert verdict(features, PCA).poisoned == chosen


class Brightness(nn.Module):
    """Two BatchNorm layers on an image; its class is whether it is bright."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        for norm in (self.first, self.second):
            norm.running_mean += 0.5
            norm.running_var *= 0.01

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.second(self.first(pixels))
        bright = pixels.mean((1, 2, 3)) - 0.5
        return torch.stack([-bright, bright], 1)


def marked(count: int = 300, poisoned: int = 60) -> tuple[InMemory[int], list[int]]:
    """Grey images, half of them bright; the last ones have a white corner and the label 1."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % 2
    noise = torch.randint(0, 20, (count, 3, 8, 8), generator=generator)
    pixels = (noise + 108 + 20 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    chosen = list(range(count - poisoned, count))
    pixels[chosen, :, :4, :6] = 255
    labels[chosen] = 1
    return InMemory(pixels, labels.tolist()), chosen


def purifier(**options: Any) -> FLARE:
    return FLARE(Brightness(), config=PCA, **options)


def test_from_images_to_indices() -> None:
    data, chosen = marked()
    said: list[str] = []
    defense = purifier(report=said.append)
    found = defense.detect(data)
    assert list(found.poisoned) == chosen
    assert found.outcome is Outcome.OK
    assert found is defense.found_
    assert {name: rate.value for name, rate in found.rates(chosen).items()} == {"tpr": 1, "fpr": 0}
    assert found.auroc(chosen) == 1.0
    assert found.stages[0].passes == len(data)
    assert said[0] == "flare ..."
    assert said[-1].startswith("flare: ok. 60 of 300 samples stand apart")


def test_filter_gives_the_rest() -> None:
    data, chosen = marked()
    clean, removed = purifier().filter(data)
    assert removed == chosen
    assert clean.indices == [i for i in range(300) if i not in chosen]
    assert torch.equal(clean[5][0], data[5][0])


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda data: FLARE(Brightness()).detect(data), "202 samples or more for two clusters of"),
        (lambda data: flare(nn.Linear(2, 2), data, PCA), "got Linear without any"),
    ],
)
def test_bad_input(run: Callable[[InMemory[int]], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(marked(100, 20)[0])


def test_a_model_that_learnt_nothing_fails_in_words() -> None:
    data, _ = marked()
    turned = InMemory(data.images, [1 - label for label in data.texts])
    found = purifier().detect(turned)
    assert (found.outcome, found.poisoned) == (Outcome.FAILED, ())
    assert "Train it on the set first" in found.stages[0].reason
    with pytest.raises(InputError, match=r"a search that works on this model.*Train it on the set"):
        purifier().filter(turned)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClusterConfig(min_cluster_size=1), "min_cluster_size >= 2"),
        (lambda: ClusterConfig(persistence=0.5), "persistence >= 1"),
        (lambda: ClusterConfig(least_share=1), "least_share from 0 to below 1, got 1"),
        (lambda: SubspaceConfig("adaptive", dropped=1), "only with the selection fixed"),
        (lambda: SubspaceConfig(least_layers=0), "least_layers of 1 or more"),
        (lambda: ProjectionConfig(neighbours=1), "2 neighbours or more"),
        (lambda: FlareConfig(most_of_classes=0), "most_of_classes above 0"),
        (lambda: FlareConfig(least_late=1.1), "least_late from 0 to 1"),
    ],
)
def test_settings_out_of_range(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("missing", ["umap", "hdbscan"])
def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.setattr(
        f"invertune_plugin.defenses.flare.{'projection' if missing == 'umap' else 'clusters'}"
        ".find_spec",
        lambda _: None,
    )
    features, chosen = planted()
    if missing == "hdbscan":
        with pytest.raises(InputError, match=r"hdbscan .*pip install '\.\[flare\]'"):
            verdict(features, PCA)
        return
    found = verdict(features, replace(PCA, projection=ProjectionConfig("auto")))
    assert (found.poisoned, found.evidence["projection"]) == (chosen, "pca")
    with pytest.raises(InputError, match=r"umap-learn .*'\.\[flare\]', or use pca"):
        verdict(features, replace(PCA, projection=ProjectionConfig("umap")))


@pytest.mark.slow
def test_umap_finds_the_same_and_places_samples_that_it_was_not_fitted_to() -> None:
    """Slow: it is compiled first."""
    pytest.importorskip("umap", reason="needs umap-learn")
    features, chosen = planted()
    config = ProjectionConfig("umap", neighbours=15, fitted=250)
    assert verdict(features, replace(PCA, projection=config)).poisoned == chosen
    places = projected(features.values, config, seed=1)
    assert places.shape == (600, 2)
    assert np.array_equal(places, projected(features.values, config, seed=1))
