"""Steps 1 and 2 of InverTune on classifiers whose costs can be told by hand."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from toys import noise_images

from invertune_plugin.defenses.invertune.inversion import (
    InversionConfig,
    invert_trigger,
    success,
)
from invertune_plugin.defenses.invertune.target import TargetConfig, find_target
from invertune_plugin.outcome import Outcome
from invertune_plugin.triggers import MaskedPattern

GREY = torch.full((3, 32, 32), 0.5)
STEPS = TargetConfig(shift_steps=20, cost_steps=60, batch_size=16)


class Brightness(nn.Module):
    """Darkest images are class 0, brightest class 2; bounds lie at two levels of the mean."""

    class_names: ClassVar = ["dark", "grey", "bright"]

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(60.0))
        self.low, self.high = low, high

    def forward(self, images: Tensor) -> Tensor:
        level = images.mean((1, 2, 3))
        return self.scale * torch.stack([self.low - level, 0 * level, level - self.high], 1)


def scenes(level: int, count: int = 40) -> Tensor:
    return noise_images(count) // 8 + level


def test_a_class_that_most_images_are_read_as_is_no_shortcut() -> None:
    """Thirty of forty images are grey: over all of them it costs next to nothing.

    The dark rest lies beside it and would be cheap to move as well: a shortcut of any model.
    """
    images = torch.cat([scenes(100, 30), scenes(40, 10)])
    suspect = Brightness(0.3, 0.55)
    found = find_target(suspect, images, STEPS)
    assert {candidate.name for candidate in found.candidates} == {"dark", "bright"}
    assert 1 not in found.ranking
    assert found.stage.outcome is not Outcome.OK
    told = "'grey', which 75% of the images are read as, cannot be judged by them."
    assert found.stage.reason.endswith(told)
    every = TargetConfig(shift_steps=20, cost_steps=60, batch_size=16, most_share=1.0)
    careless = find_target(suspect, images, every)
    assert careless.candidates[0].name == "grey"


def test_one_class_left_cannot_be_compared() -> None:
    suspect = Brightness(0.3, 0.9)
    suspect.class_names = ["dark", "grey"]  # type: ignore[misc]
    suspect.forward = lambda images: Brightness.forward(suspect, images)[:, :2]  # type: ignore[method-assign]
    found = find_target(suspect, scenes(120), STEPS)
    assert found.stage.outcome is Outcome.REJECTED
    assert "Fewer than two classes are left" in found.stage.reason
    assert [candidate.name for candidate in found.candidates] == ["dark"]
    assert found.ranking == [0]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_values_that_are_not_finite_end_the_search(value: float) -> None:
    suspect = Brightness(0.3, 0.9)
    suspect.scale.data.fill_(value)
    assert find_target(suspect, scenes(120), STEPS).stage.outcome is Outcome.FAILED


def test_no_trigger_is_believed_where_no_image_is_left_to_send() -> None:
    """All held-back images are dark already: 0 of 0 is no success, and no evidence against one."""

    class Encoder(Brightness):
        def encode_image(self, images: Tensor) -> Tensor:
            return self(images)

        def logits_of(self, features: Tensor) -> Tensor:
            return features

    suspect, images = Encoder(0.3, 0.9), scenes(10)
    assert math.isnan(success(suspect, images, MaskedPattern(torch.ones(1, 32, 32), GREY), 0))
    found = invert_trigger(suspect, images, images, 0, InversionConfig(steps=2, batch_size=4))
    assert found.stage.outcome is Outcome.REJECTED
    assert "All clean images that judge are read as 'dark'" in found.stage.reason
    assert found.asr == 0.0
