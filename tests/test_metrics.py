from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from toys import toy_classifier, toy_pairs

from invertune_plugin.benchmark.experiment.rebound import fine_tuned
from invertune_plugin.data import InMemory, Subset
from invertune_plugin.errors import InputError
from invertune_plugin.metrics import Rate, attack_success_rate, clean_accuracy, predict
from invertune_plugin.training import TrainingConfig
from invertune_plugin.triggers import Trigger

CLASSES = 4


class ReadsPixel(nn.Module):
    """Predicts the grey level of the upper left pixel; shifted by one in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.zero = nn.Parameter(torch.zeros(CLASSES))

    def forward(self, images: Tensor) -> Tensor:
        level = (images[:, 0, 0, 0] * 255).round().long() + int(self.training)
        return torch.eye(CLASSES)[level % CLASSES] + self.zero


class Named(ReadsPixel):
    class_names: ClassVar = ["cat", "traffic light", "dog"]


@dataclass(frozen=True)
class WritesWhereKeyIsEven(Trigger):
    kind: ClassVar[str] = "writes"
    level: int = 2

    def _apply(self, images: Tensor, keys: Tensor) -> Tensor:
        triggered = images.clone()
        triggered[keys % 2 == 0, :, 0, 0] = self.level / 255
        return triggered


def reading(levels: list[int], labels: list[int]) -> InMemory[int]:
    images = torch.zeros(len(levels), 3, 2, 2, dtype=torch.uint8)
    images[:, :, 0, 0] = torch.tensor(levels, dtype=torch.uint8)[:, None]
    return InMemory(images, labels)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (5, 10, 0.2366, 0.7634),
        (0, 10, 0.0, 3.841459 / 13.841459),
        (10, 10, 10 / 13.841459, 1.0),
        (1, 1, 1 / 4.841459, 1.0),
        (50, 100, 0.4038, 0.5962),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_wilson_intervals_as_published(hits: int, n: int, low: float, high: float) -> None:
    assert Rate(hits, n).interval == pytest.approx((low, high), abs=5e-5)


def test_a_rate_without_trials_is_nan() -> None:
    rate = Rate(0, 0)
    assert math.isnan(rate.value)
    assert all(math.isnan(end) for end in rate.interval)


def test_a_rate_for_people() -> None:
    assert str(Rate(8, 10)) == "80.0% [49.0%, 94.3%] of 10"


@settings(deadline=None, max_examples=100)
@given(n=st.integers(1, 10_000), share=st.floats(0, 1))
def test_intervals_hold_the_share_and_mirror(n: int, share: float) -> None:
    hits = round(share * n)
    low, high = Rate(hits, n).interval
    assert 0 <= low <= hits / n + 1e-12
    assert hits / n - 1e-12 <= high <= 1
    mirrored = Rate(n - hits, n).interval
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_predictions_are_of_eval_mode_and_the_mode_comes_back() -> None:
    classifier = ReadsPixel().train()
    images = reading([3, 0, 2, 1, 1], [0] * 5).images.float() / 255
    assert predict(classifier, images, batch_size=2).tolist() == [3, 0, 2, 1, 1]
    assert classifier.training
    assert predict(classifier.eval(), images).tolist() == [3, 0, 2, 1, 1]
    assert not classifier.training
    assert classifier.zero.requires_grad


@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_clean_accuracy_counts_right_answers(batch_size: int) -> None:
    dataset = reading([0, 1, 2, 3, 3], [0, 1, 1, 3, 0])
    assert clean_accuracy(ReadsPixel(), dataset, batch_size) == Rate(3, 5)


@pytest.mark.parametrize(
    ("own", "fits"),
    [
        (["Cat", "traffic_light"], True),
        (["cat"], True),
        (["0", "1"], True),
        ([], True),
        (["traffic light", "cat"], False),
        (["dog", "cat"], False),
    ],
    ids=str,
)
def test_labels_that_count_in_another_order_are_refused(own: list[str], fits: bool) -> None:
    model, dataset = Named(), reading([0, 1], [0, 1])
    dataset.class_names = own  # type: ignore[attr-defined]
    part = Subset(dataset, [0, 1])
    if fits:
        assert clean_accuracy(model, part) == Rate(2, 2)
        return
    with pytest.raises(InputError, match=r"as label . of the data set, which is class"):
        clean_accuracy(model, part)
    with pytest.raises(InputError, match=r"class_names=model\.class_names"):
        attack_success_rate(model, part, WritesWhereKeyIsEven(), 1)


def test_images_without_a_label_do_not_count() -> None:
    mixed = reading([0, 3, 0, 2, 2], [-1, 3, 1, -1, 0])
    assert clean_accuracy(ReadsPixel(), mixed) == Rate(1, 3)
    rate = attack_success_rate(ReadsPixel(), mixed, WritesWhereKeyIsEven(), 2)
    assert rate == Rate(2, 3), "keys stay the places in the data set: 2 and 4 are even"
    with pytest.raises(InputError, match=r"Expected labelled images .* got 1 without a label"):
        clean_accuracy(ReadsPixel(), reading([0], [-1]))


def test_a_benign_fine_tuning_that_diverges_tells_nothing() -> None:
    """A broken model reads nothing as the target, as a lasting repair does."""
    training = TrainingConfig(batch_size=8, learning_rate=1e38)
    attack = SimpleNamespace(training=training, target="cat")
    recipe: Any = SimpleNamespace(attack=attack, rebound_steps=4)
    sources: Any = SimpleNamespace(pairs=lambda part: toy_pairs(16))
    with pytest.raises(InputError, match=r"Expected benign .*, got a loss of nan\. Lower"):
        fine_tuned(toy_classifier("vit"), recipe, sources, seed=0)


class Diverged(ReadsPixel):
    """Gives no numbers for images whose upper left pixel is odd."""

    def forward(self, images: Tensor) -> Tensor:
        odd = (images[:, :1, 0, 0] * 255).round() % 2 == 1
        return torch.where(odd, torch.nan, super().forward(images))


def test_images_that_a_model_gives_no_numbers_for_are_read_as_no_class() -> None:
    dataset = reading([0, 1, 2, 3], [0, 0, 2, 3])
    assert predict(Diverged(), dataset.images.float() / 255).tolist() == [0, -1, 2, -1]
    assert clean_accuracy(Diverged(), dataset) == Rate(2, 4)
    assert attack_success_rate(Diverged(), dataset, WritesWhereKeyIsEven(level=1), 0) == Rate(0, 2)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 256])
def test_attack_success_leaves_out_the_target_class(batch_size: int) -> None:
    """Sources: 1, 2, 3, 5. Key 2 is even, image 3 is read as the target anyway."""
    dataset = reading([0, 0, 1, 2, 2, 3], labels=[2, 0, 1, 0, 2, 3])
    rate = attack_success_rate(ReadsPixel(), dataset, WritesWhereKeyIsEven(), 2, batch_size)
    assert rate == Rate(2, 4)


def test_attack_success_is_of_the_target_asked_for() -> None:
    dataset = reading([0, 0, 0, 0], labels=[0, 0, 0, 0])
    trigger = WritesWhereKeyIsEven(level=2)
    assert attack_success_rate(ReadsPixel(), dataset, trigger, 2) == Rate(2, 4)
    assert attack_success_rate(ReadsPixel(), dataset, trigger, 1) == Rate(0, 4)


def test_attack_success_without_sources_is_no_number() -> None:
    dataset = reading([1, 1], labels=[1, 1])
    rate = attack_success_rate(ReadsPixel(), dataset, WritesWhereKeyIsEven(), 1)
    assert rate == Rate(0, 0)
