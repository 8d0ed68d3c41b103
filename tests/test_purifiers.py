"""Every purifier keeps one contract; the scores of each against numbers by hand."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import NAMES, assert_same, copied, noise_images, toy_classifier

from invertune_plugin.data import ClassCaptions, InMemory
from invertune_plugin.defenses.purifiers import PURIFIERS, Purified, run_purifier
from invertune_plugin.defenses.purifiers.activation_clustering import (
    ActivationClustering,
    two_clusters,
)
from invertune_plugin.defenses.purifiers.embeddings import image_embeddings
from invertune_plugin.defenses.purifiers.local_outliers import (
    LocalOutliers,
    batch_scores,
    dao,
    intrinsic_dimension,
    k_distance,
    neighbours,
    slof,
)
from invertune_plugin.defenses.purifiers.outliers import OutlierConfig, removed_outliers
from invertune_plugin.defenses.purifiers.spectral_signatures import spectral_scores
from invertune_plugin.errors import InputError
from invertune_plugin.metrics import Rate
from invertune_plugin.outcome import Outcome, Stage
from invertune_plugin.zero_shot import ZeroShotClassifier

pytest.importorskip("hdbscan", reason="FLARE's clusters need hdbscan")

COUNT = 64
SHORT: dict[str, dict[str, Any]] = {
    "none": {},
    "flare": {
        "projection": {"kind": "pca"},
        "clusters": {"min_cluster_size": 5, "persistence": 1.0},
        "most_of_classes": 1.0,
    },
    "directions": {"depth": 1.0, "significance": 0.0, "least_samples": 2, "most_of_classes": 1.0},
    "spectral_signatures": {},
    "activation_clustering": {"components": 3},
    "clip_score": {"deviations": 2.0},
    "k_distance": {"k": 3, "deviations": 2.0},
    "slof": {"k": 3, "deviations": 2.0},
    "dao": {"k": 3, "deviations": 2.0},
    "isolation_forest": {"trees": 10, "deviations": 2.0},
}
ON_BOTH = [(name, tower) for name in PURIFIERS for tower in ("rn", "vit")]


def labelled() -> InMemory[int]:
    return InMemory(noise_images(COUNT), [i % len(NAMES) for i in range(COUNT)])


def data_for(name: str) -> Any:
    if name in ("flare", "directions", "clip_score"):
        return ClassCaptions(labelled(), NAMES, ("a photo of a {} .", "a {} ."))
    return labelled()


def model_of(tower: str) -> ZeroShotClassifier:
    """As if trained: BatchNorm has seen images."""
    classifier = toy_classifier(tower, layers=2)
    for module in classifier.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean += 0.1
    return classifier


def short(name: str, model: nn.Module, seed: int = 3) -> Purified:
    return run_purifier(name, model, data_for(name), SHORT[name], seed)


def random_state() -> tuple[Any, ...]:
    return (
        random.getstate(),
        [str(part) for part in np.random.get_state()],
        torch.random.get_rng_state().tolist(),
    )


def test_all_purifiers_are_here() -> None:
    assert set(SHORT) == set(PURIFIERS)


@pytest.mark.parametrize(("name", "tower"), ON_BOTH)
def test_model_and_random_state_stay_and_the_seed_decides(name: str, tower: str) -> None:
    model = model_of(tower).train()
    before, state = copied(model.state_dict()), random_state()
    found = short(name, model)
    assert_same(copied(model.state_dict()), before)
    assert random_state() == state
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    again = short(name, model_of(tower))
    assert again.poisoned == found.poisoned
    assert np.array_equal(again.scores, found.scores)


@pytest.mark.parametrize(("name", "tower"), ON_BOTH)
def test_what_comes_back(name: str, tower: str) -> None:
    said: list[str] = []
    found = run_purifier(name, model_of(tower), data_for(name), SHORT[name], 3, said.append)
    assert found.scores.shape == (COUNT,)
    assert found.scores.dtype == np.float64
    assert np.isfinite(found.scores).all()
    assert list(found.poisoned) == sorted(set(found.poisoned))
    assert sorted([*found.kept, *found.poisoned]) == list(range(COUNT))
    assert (found.outcome is Outcome.OK) == bool(found.poisoned)
    stage = found.stages[0]
    assert stage.name == name
    assert stage.reason.endswith(".")
    if name == "directions":
        parts = len(stage.evidence["parts"])
        assert COUNT <= stage.passes <= COUNT + 8000 * (parts + 1), "and what it puts into others"
    else:
        assert stage.passes == (0 if name == "none" else COUNT), "one forward pass"
    assert said[0] == f"{name} ..."
    assert said[-1] == f"{name}: {found.outcome.value}. {stage.reason}"


def test_any_classifier_with_a_linear_layer() -> None:
    """Embeddings are what its last linear layer takes in: here the mean of each channel."""
    net = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4))
    data = labelled()
    data.images[7] = 0
    found = run_purifier("k_distance", net, data, SHORT["k_distance"])
    assert found.poisoned[0] == found.scores.argmax() == 7
    means = data.images.double().mean((2, 3)) / 255
    expected = torch.cdist(means, means).fill_diagonal_(torch.inf).topk(3, largest=False)[0][:, -1]
    assert torch.from_numpy(found.scores) == pytest.approx(expected, abs=1e-6)


LINE = torch.tensor([[0.0], [1.0], [3.0], [7.0]])


def test_neighbourhoods_by_hand() -> None:
    """On a line at 0, 1, 3, 7 with k = 2: radii 3, 2, 3, 6."""
    near = neighbours(LINE, 2)
    assert near.distances.tolist() == [[1, 3], [1, 2], [2, 3], [4, 6]]
    assert near.indices.tolist() == [[1, 2], [0, 2], [1, 0], [2, 1]]
    assert k_distance(near).tolist() == [3, 2, 3, 6]
    ratios = [(3 / 2 + 3 / 3) / 2, (2 / 3 + 2 / 3) / 2, (3 / 2 + 3 / 3) / 2, (6 / 3 + 6 / 2) / 2]
    assert slof(near).tolist() == pytest.approx(ratios)
    dimension = [2 / math.log(3), 2 / math.log(2), 2 / math.log(1.5), 2 / math.log(1.5)]
    assert intrinsic_dimension(near).tolist() == pytest.approx(dimension)
    last = (dimension[2] * math.log(6 / 3) + dimension[1] * math.log(6 / 2)) / 2
    assert float(dao(near)[3]) == pytest.approx(last)


@pytest.mark.parametrize("score", [k_distance, slof, dao])
def test_copies_of_a_sample_have_finite_scores(score: Any) -> None:
    scores = score(neighbours(torch.cat([LINE, torch.zeros(6, 1)]), 2))
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize("name", ["k_distance", "slof", "dao"])
def test_copies_of_a_sample_accuse_nobody(name: str) -> None:
    score = {"k_distance": k_distance, "slof": slof, "dao": dao}[name]
    points = torch.randn(1000, 8, generator=torch.Generator().manual_seed(1))
    points[:18] = points[0]
    config = LocalOutliers()
    found = removed_outliers(batch_scores(points, score, config, seed=0), config)
    assert set(found.poisoned).isdisjoint(range(18))
    assert len(found.poisoned) <= 5


def test_scores_come_from_random_batches() -> None:
    points = torch.rand(50, 3, generator=torch.Generator().manual_seed(1))
    whole = batch_scores(points, slof, LocalOutliers(k=3, reference=50), seed=0)
    assert whole == pytest.approx(slof(neighbours(points, 3)).numpy())
    parts = batch_scores(points, slof, LocalOutliers(k=3, reference=20), seed=0)
    assert not np.array_equal(parts, whole)
    assert np.array_equal(parts, batch_scores(points, slof, LocalOutliers(k=3, reference=20), 0))


def test_outliers_by_hand() -> None:
    """Median 3, and a deviation is 1.4826: 5 lies 1.35 of them above it, 9 lies 4.05."""
    scores = np.array([1.0, 2, 3, 4, 5, 3, 9])
    assert removed_outliers(scores, OutlierConfig(deviations=4)).poisoned == [6]
    assert removed_outliers(scores, OutlierConfig(deviations=5)).poisoned == []
    assert removed_outliers(scores, OutlierConfig(deviations=1.3)).poisoned == [4, 6]


def test_nothing_is_far_from_scores_that_are_equal() -> None:
    scores = np.array([1.0, 1, 1, 1, 1 + 1e-9, 2])
    found = removed_outliers(scores, OutlierConfig())
    assert found.poisoned == []
    assert "equal" in found.reason


def test_spectral_scores_by_hand() -> None:
    """The main direction is the first axis: centred squares 9, 1, 16 over their mean."""
    points = torch.tensor([[-3.0, 0.1], [-1.0, -0.2], [4.0, 0.1]])
    expected = torch.tensor([9.0, 1.0, 16.0]) / (26 / 3)
    assert spectral_scores(points).float() == pytest.approx(expected, abs=0.1)


def two_groups(small: int) -> tuple[Tensor, list[int]]:
    points = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    points[:small] += 20
    return points, list(range(small))


def test_spectral_signatures_remove_a_share_of_each_label() -> None:
    found = short("spectral_signatures", model_of("vit"))
    of_label = [sum(i % len(NAMES) == label for i in found.poisoned) for label in range(len(NAMES))]
    assert of_label == [2, 2, 2, 2], "1.5 times a tenth of sixteen"


def test_spectral_signatures_of_a_class_with_one_image() -> None:
    labels = [0] * 10 + [1] * 10 + [2]
    data = InMemory(noise_images(21, 32), labels)
    found = run_purifier("spectral_signatures", model_of("vit"), data, {"rate": 0.2})
    assert [sum(labels[i] == k for i in found.poisoned) for k in range(3)] == [3, 3, 0]


@pytest.mark.parametrize("small", [40, 80])
def test_activation_clustering_finds_a_small_cluster(small: int) -> None:
    points, chosen = two_groups(small)
    scores, found, silhouette = two_clusters(points.numpy(), ActivationClustering(), 0)
    assert np.flatnonzero(found).tolist() == chosen
    assert (scores[chosen] > 0).all()
    assert (np.delete(scores, chosen) < 0).all()
    assert silhouette > 0.1


def test_one_odd_sample_among_many() -> None:
    points = torch.randn(6000, 4, generator=torch.Generator().manual_seed(1)).numpy()
    points[17] += 600
    _, found, silhouette = two_clusters(points, ActivationClustering(), 1)
    assert np.flatnonzero(found).tolist() == [17]
    assert silhouette > 0.5


def test_activation_clustering_of_equal_samples() -> None:
    scores, found, silhouette = two_clusters(np.ones((5, 3)), ActivationClustering(), 0)
    assert (scores.any(), found.any(), silhouette) == (False, False, 0.0)


@pytest.mark.parametrize("others", [1, 2])
def test_activation_clustering_of_copies(others: int) -> None:
    """Fewer dimensions than components: FastICA would divide by a singular value of zero."""
    points = np.ones((30, 16))
    points[:others] += np.random.default_rng(0).normal(size=(others, 16))
    _, found, _ = two_clusters(points, ActivationClustering(), 0)
    assert np.flatnonzero(found).tolist() in ([0], [1], [0, 1])


def test_clip_score_of_captions_that_do_not_fit() -> None:
    """Scores are minus the cosine of image and mean caption."""
    model, data = model_of("vit"), data_for("clip_score")
    found = run_purifier("clip_score", model, data)
    image, captions = data[5]
    with torch.no_grad():
        text = model.encode_text(list(captions)).mean(0)
        cosine = torch.cosine_similarity(model.encode_image(image[None] / 255)[0], text, dim=0)
    assert found.scores[5] == pytest.approx(-float(cosine), abs=1e-5)


def test_rates_and_auroc_by_hand() -> None:
    found = Purified(np.array([0.9, 0.8, 0.1, 0.7, 0.2]), (0, 3), (Stage("x", Outcome.OK, "."),))
    assert found.kept == [1, 2, 4]
    assert found.rates([0, 1]) == {"tpr": Rate(1, 2), "fpr": Rate(1, 3)}
    assert found.auroc([0, 3]) == pytest.approx(5 / 6), "five of six pairs in order"
    assert found.auroc([]) is None
    assert found.rates([])["tpr"].n == 0


@pytest.mark.parametrize("name", PURIFIERS)
def test_options_are_checked_before_any_work(name: str) -> None:
    with pytest.raises(InputError, match=rf"Expected a known setting, got {name}\.sped"):
        run_purifier(name, model_of("vit"), labelled(), {"sped": 1})


@pytest.mark.parametrize(
    ("name", "data", "options", "message"),
    [
        ("flair", labelled(), {}, r"known purifier, got 'flair'\. Did you mean 'flare'"),
        ("flare", labelled(), {}, "202 samples or more for two clusters of more than 100, got 64"),
        ("spectral_signatures", InMemory(noise_images(2), [0, -1]), {}, "labels .* got -1 at item"),
        ("activation_clustering", data_for("flare"), {}, r"labels for activation_clustering, got"),
        ("clip_score", labelled(), {}, "captions for clip_score, got 0 at item 0"),
        ("dao", InMemory(noise_images(0), []), {}, "images for dao, got an empty"),
        ("slof", labelled(), {"k": 64}, "more than 64 samples for slof, got 64"),
        ("slof", labelled(), {"k": 0}, "k from 1 to below reference, got 0 and 2048"),
        ("spectral_signatures", labelled(), {"rate": 0.9}, "above 0 and below 2/3"),
        ("activation_clustering", labelled(), {"most": 0.6}, "most between 0 and 0.5"),
        ("isolation_forest", labelled(), {"deviations": 0}, "positive deviations"),
        ("isolation_forest", labelled(), {"trees": 0}, "one or more trees, got 0"),
    ],
)
def test_bad_input(name: str, data: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_purifier(name, model_of("vit"), data, options)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["dao", "spectral_signatures", "directions"])
def test_activations_that_are_no_numbers_are_refused(name: str, value: float) -> None:
    model = model_of("rn")
    next(model.clip.visual.parameters()).data[0] = value
    with pytest.raises(InputError, match="Expected finite activations for"):
        run_purifier(name, model, data_for(name))


def test_captions_and_heads_that_are_no_numbers_are_refused() -> None:
    """A broken model must not read as a clean set."""
    model = model_of("rn")
    model.clip.text_projection.data[:] = math.nan
    with pytest.raises(InputError, match="Expected finite activations for clip_score"):
        run_purifier("clip_score", model, data_for("clip_score"))

    class Broken(nn.Module):
        """Numbers before its norm layer, and none behind it."""

        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.GroupNorm(1, 3), nn.Linear(3, 2)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.norm(images).mean((2, 3)) * math.nan)
            return logits

    with pytest.raises(InputError, match="Expected finite activations for directions"):
        run_purifier("directions", Broken(), data_for("directions"))


@pytest.mark.parametrize("name", ["flare", "directions", "spectral_signatures", "dao"])
def test_models_of_another_precision_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"model in float32, .* got one in torch\.bfloat16"):
        run_purifier(name, model_of("vit").bfloat16(), data_for(name), SHORT[name])


@pytest.mark.parametrize("name", ["flare", "directions"])
def test_a_model_that_gives_more_than_logits_is_refused(name: str) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.GroupNorm(1, 3), nn.Linear(3, 2)

        def forward(self, images: torch.Tensor) -> Any:
            features = self.norm(images).mean((2, 3))
            return self.head(features), features

    with pytest.raises(InputError, match=r"gives logits .*, got tuple"):
        run_purifier(name, Two(), data_for(name), SHORT[name])


def test_the_last_linear_layer_is_the_one_that_is_called_last() -> None:
    """Here the head is registered first, and one layer is never called."""

    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.body, self.spare = nn.Linear(5, 2), nn.Linear(3, 5), nn.Linear(5, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.body(images.mean((2, 3))))
            return logits

    net, data = Backwards(), labelled()
    found = image_embeddings("dao", net, data, 16, lambda _: None)
    means = data.images.float().div(255).mean((2, 3))
    assert torch.allclose(found, net.body(means).detach(), atol=1e-5)


def test_models_that_cannot_be_read() -> None:
    with pytest.raises(InputError, match="a linear layer at its end, got Sequential without any"):
        run_purifier("dao", nn.Sequential(nn.Conv2d(3, 1, 1), nn.Flatten()), labelled())
    with pytest.raises(InputError, match="CLIP with encode_text for clip_score, got Linear"):
        run_purifier("clip_score", nn.Linear(2, 2), data_for("clip_score"))
