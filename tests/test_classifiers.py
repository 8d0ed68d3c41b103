"""The networks that purifiers of labelled sets read, and their training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from invertune_plugin.benchmark.classifiers import (
    TOWERS,
    ClassifierTraining,
    mirrored,
    small_cnn,
    trained_classifier,
)
from invertune_plugin.data import InMemory, to_unit
from invertune_plugin.errors import InputError
from invertune_plugin.metrics import clean_accuracy

SHORT = ClassifierTraining(epochs=2, batch_size=16, learning_rate=0.05)


def sides(count: int = 64) -> InMemory[int]:
    """Noise that is bright above or below: the class."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 60, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    for index in range(count):
        half = slice(0, 8) if index % 2 else slice(8, 16)
        images[index, :, half] += 150
    return InMemory(images, [index % 2 for index in range(count)])


def tiny() -> nn.Module:
    return small_cnn(2, 4)


def channels(model: nn.Module) -> list[int]:
    return [m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d)]


def strides(model: nn.Module) -> list[tuple[int, ...]]:
    return [m.stride for m in model.modules() if isinstance(m, nn.Conv2d)]


@pytest.mark.parametrize(
    ("name", "layers"), [("resnet18", 20), ("resnet18_narrow", 20), ("cnn", 7)]
)
def test_networks(name: str, layers: int) -> None:
    model = TOWERS[name](43).eval()
    assert len(channels(model)) == layers
    with torch.no_grad():
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 43)


def test_the_narrow_network_is_the_other_with_a_quarter_of_the_channels() -> None:
    wide, narrow = TOWERS["resnet18"](10), TOWERS["resnet18_narrow"](10)
    assert sorted(channels(wide)) == sorted(4 * count for count in channels(narrow))
    strides = [
        [m.stride for m in one.modules() if isinstance(m, nn.Conv2d)] for one in (wide, narrow)
    ]
    assert sorted(strides[0]) == sorted(strides[1])


def test_training_learns_and_the_seed_decides(tmp_path: Path) -> None:
    data = sides()
    model = trained_classifier(tiny, data, ClassifierTraining(8, 16, 0.05))
    assert clean_accuracy(model, data).value == 1.0
    assert not model.training
    one, same, other = (trained_classifier(tiny, data, SHORT, seed) for seed in (1, 1, 2))
    pixels = to_unit(data.images)
    with torch.no_grad():
        assert torch.equal(one(pixels), same(pixels))
        assert not torch.equal(one(pixels), other(pixels))


def test_training_in_bfloat16_learns_too_and_leaves_float32_weights() -> None:
    data = sides()
    model = trained_classifier(tiny, data, ClassifierTraining(8, 16, 0.05, bfloat16=True))
    assert clean_accuracy(model, data).value == 1.0
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    exact = trained_classifier(tiny, data, ClassifierTraining(8, 16, 0.05))
    assert not torch.equal(next(model.parameters()), next(exact.parameters()))


def test_a_stopped_training_goes_on_to_the_same_end(tmp_path: Path) -> None:
    data, resume = sides(), tmp_path / "state"

    def stopped(done: int, *_: object) -> None:
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trained_classifier(tiny, data, SHORT, 0, "cpu", resume, stopped)
    steps: list[int] = []
    model = trained_classifier(
        tiny, data, SHORT, 0, "cpu", resume, lambda done, *_: steps.append(done)
    )
    assert steps == [5, 6, 7, 8], "from the last whole epoch on"
    whole = trained_classifier(tiny, data, SHORT)
    for mine, theirs in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_half_of_the_images_are_mirrored() -> None:
    images = torch.rand(200, 3, 4, 4)
    seen = mirrored(images, torch.Generator().manual_seed(0))
    same = (seen == images).flatten(1).all(1)
    flipped = (seen == images.flip(3)).flatten(1).all(1)
    assert (same ^ flipped).all()
    assert 70 < int(same.sum()) < 130


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: ClassifierTraining(epochs=0), "an epoch or more"),
        (
            lambda: trained_classifier(tiny, sides(10), SHORT),
            "16 images or more to train on",
        ),
    ],
)
def test_bad_input(run: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run()
