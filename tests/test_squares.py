"""The closer look: a backdoor's square is told from a direction that needs the whole image."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from toys import noise_images

from invertune_plugin.defenses.invertune.inversion import InversionResult, success
from invertune_plugin.defenses.invertune.squares import SquareConfig, closer_look, fit_square
from invertune_plugin.errors import InputError
from invertune_plugin.outcome import Outcome, Stage
from invertune_plugin.triggers import MaskedPattern

IMAGES, HELD_BACK = noise_images(32), noise_images(16, seed=1)
CONFIG = SquareConfig(steps=40)


class Suspect(nn.Module):
    """Red pixels at rows 8-11, columns 20-23 mean class 0; a green image class 1; else class 2."""

    class_names = ("patch", "tint", "rest")

    def forward(self, images: Tensor) -> Tensor:
        red = images[:, 0, 8:12, 20:24].mean((1, 2))
        green = images[:, 1].mean((1, 2))
        return torch.stack([20 * (red - 0.8), 20 * (green - 0.8), torch.zeros(len(images))], 1)


class TwoPatches(Suspect):
    """As before, and a second square means class 1."""

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        logits[:, 1] = 20 * (images[:, 0, 20:24, 4:8].mean((1, 2)) - 0.8)
        return logits


def inverted(label: int, mask: Tensor, outcome: Outcome = Outcome.OK) -> InversionResult:
    trigger = MaskedPattern(mask, torch.ones(3, 32, 32))
    stage = Stage("inversion", outcome, "as scripted", {"area": float(mask.mean())})
    return InversionResult(label, trigger, 0.9, float(mask.mean()), [], stage)


def place(rows: slice, columns: slice) -> Tensor:
    mask = torch.full((1, 32, 32), 0.01)
    mask[:, rows, columns] = 0.9
    return mask


PATCH = inverted(0, place(slice(8, 12), slice(20, 24)))
TINT = inverted(1, torch.full((1, 32, 32), 0.08))


def test_the_class_of_a_patch_is_believed() -> None:
    stage, best = closer_look(Suspect(), IMAGES, HELD_BACK, [TINT, PATCH], CONFIG)
    assert stage.outcome is Outcome.OK
    assert best is PATCH
    assert stage.evidence["square_asr"] == 1.0
    assert stage.evidence["next_square_asr"] == 0.0
    assert stage.evidence["area"] == PATCH.area
    assert "sends 100.0% to 'patch', 0.0% to the next class, 'tint'" in stage.reason


def test_no_square_no_backdoor() -> None:
    rest = inverted(2, place(slice(0, 4), slice(0, 4)))
    stage, _ = closer_look(Suspect(), IMAGES, HELD_BACK, [TINT, rest], CONFIG)
    assert stage.outcome is Outcome.REJECTED
    assert stage.reason.endswith("no class stands out.")


def test_two_squares_that_do_as_much_tell_no_backdoor() -> None:
    second = inverted(1, place(slice(20, 24), slice(4, 8)))
    stage, _ = closer_look(TwoPatches(), IMAGES, HELD_BACK, [PATCH, second], CONFIG)
    assert stage.outcome is Outcome.REJECTED
    assert stage.evidence["next_square_asr"] == 1.0


def test_a_class_without_an_accepted_trigger_is_not_believed() -> None:
    refused = replace(PATCH, stage=Stage("inversion", Outcome.REJECTED, "too large"))
    stage, best = closer_look(Suspect(), IMAGES, HELD_BACK, [refused, TINT], CONFIG)
    assert stage.outcome is Outcome.REJECTED
    assert stage.evidence["square_asr"] == 0.0
    assert best is TINT


def test_no_accepted_trigger_at_all_tells_no_backdoor() -> None:
    refused = Stage("inversion", Outcome.REJECTED, "too large")
    both = [replace(each, stage=refused) for each in (PATCH, TINT)]
    stage, _ = closer_look(Suspect(), IMAGES, HELD_BACK, both, CONFIG)
    assert stage is refused


def test_the_square_lies_where_the_mask_has_its_mass() -> None:
    square = fit_square(Suspect(), IMAGES, PATCH, CONFIG, seed=0)
    assert torch.equal(square.mask, (PATCH.trigger.mask > 0.5).float())
    assert success(Suspect(), HELD_BACK, square, 0) == 1.0
    assert float(square.pattern[0, 8:12, 20:24].mean()) > 0.8


@pytest.mark.parametrize(("share", "side"), [(0.125, 4), (0.25, 8), (0.001, 1)])
def test_its_side_is_a_share_of_the_image(share: float, side: int) -> None:
    config = SquareConfig(side=share, steps=1)
    square = fit_square(Suspect(), IMAGES, PATCH, config, seed=0)
    assert int(square.mask.sum()) == side**2


def test_one_class_cannot_be_compared() -> None:
    with pytest.raises(InputError, match="2 or more classes to look at closer"):
        SquareConfig(classes=1)
