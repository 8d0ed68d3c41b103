"""Warps, colour filters, perturbations, picks and stages, by hand."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from trigger_table import DELTA, byte_images, unit_images

from invertune_plugin.errors import InputError
from invertune_plugin.triggers import (
    Blend,
    Chain,
    ColourFilter,
    Jpeg,
    Patch,
    Pick,
    Resize,
    Sinusoid,
    Trigger,
    Universal,
    Warp,
)


def test_the_published_sinusoid_at_a_column() -> None:
    """60 sin(2 pi 6 j / 224) of SIG at j = 14: 2 pi 6 14 / 224 is 3 pi / 4."""
    found = Sinusoid()(torch.full((1, 3, 2, 224), 0.5))
    expected = 0.5 + 60 / 255 * 2**-0.5
    torch.testing.assert_close(found[..., 14], torch.full((1, 3, 2), expected))


def test_the_field_of_a_warp_is_smooth_and_of_mean_size_one() -> None:
    trigger = Warp(k=4, seed=2)
    drawn = trigger.field(4, 4)
    assert abs(drawn.abs().mean() - 1) < 1e-6
    fine = trigger.field(31, 31)
    torch.testing.assert_close(fine[:, ::10, ::10], drawn, atol=1e-5, rtol=0)
    assert fine.diff(dim=1).abs().max() < drawn.diff(dim=1).abs().max()


def test_a_warp_moves_columns_and_rows_by_its_field() -> None:
    """On a ramp along x the value is the place where a pixel comes from, and likewise along y."""
    height, width = 20, 30
    trigger = Warp(k=3, strength=1.5, seed=1)
    ramps = torch.zeros(1, 3, height, width)
    ramps[0, 0] = torch.linspace(0, 1, width)
    ramps[0, 1] = torch.linspace(0, 1, height)[:, None]
    moved = trigger(ramps)[0] - ramps[0]
    steps = 1.5 * trigger.field(height, width)[0] / 2
    inner = (slice(3, -3), slice(3, -3))
    torch.testing.assert_close(moved[0][inner] * width, steps[..., 0][inner], atol=1e-4, rtol=0)
    torch.testing.assert_close(moved[1][inner] * height, steps[..., 1][inner], atol=1e-4, rtol=0)
    assert (moved[2] == 0).all()


def test_a_rescaled_warp_enlarges_the_middle() -> None:
    grid = Warp(strength=1e-6, rescale=0.5).grid(5, 5)
    torch.testing.assert_close(grid[0, 2, :, 0], torch.linspace(-0.5, 0.5, 5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_a_filter_takes_black_and_white_to_its_ends(strength: float) -> None:
    trigger = ColourFilter("nashville", strength)
    black, white = torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
    low, high = torch.tensor([0.14, 0.05, 0.26]), torch.tensor([1.0, 0.93, 0.72])
    torch.testing.assert_close(trigger(black)[0, :, 0, 0], strength * low)
    torch.testing.assert_close(trigger(white)[0, :, 0, 0], 1 + strength * (high - 1))


@pytest.mark.parametrize("name", ["nashville", "kelvin", "gotham"])
def test_tone_curves_rise(name: str) -> None:
    ramp = torch.linspace(0, 1, 100).expand(1, 3, 2, 100)
    assert (ColourFilter(name)(ramp).diff(dim=3) > 0).all()  # type: ignore[arg-type]


def test_a_perturbation_is_added_and_clipped() -> None:
    images = unit_images(2)
    assert torch.equal(Universal(DELTA)(images), (images + DELTA).clamp(0, 1))


def test_budgets_hold_in_their_norm() -> None:
    delta = torch.zeros(3, 2, 2)
    delta[0, 0] = torch.tensor([0.3, -0.4])
    assert Universal(delta, "linf", 0.4).parameters()["size"] == [2, 2]
    assert Universal(delta, "l2", 0.5).parameters()["epsilon"] == 0.5
    with pytest.raises(InputError, match=r"linf norm 0\.39 at most, got 0\.4\. Project it"):
        Universal(delta, "linf", 0.39)
    with pytest.raises(InputError, match=r"l2 norm 0\.49 at most, got 0\.5\. Project it"):
        Universal(delta, "l2", 0.49)


def test_picks_follow_the_key_and_the_weights() -> None:
    keys = torch.arange(4000)
    parts = (Blend(), Sinusoid(), Patch())
    shares = torch.bincount(Pick(parts).chosen(keys)) / 4000
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3), atol=0.03, rtol=0)
    weighted = torch.bincount(Pick(parts, (1.0, 2.0, 5.0)).chosen(keys)) / 4000
    torch.testing.assert_close(weighted, torch.tensor([0.125, 0.25, 0.625]), atol=0.03, rtol=0)
    assert not torch.equal(Pick(parts, seed=1).chosen(keys), Pick(parts).chosen(keys))


def test_each_image_gets_its_pick_and_no_other() -> None:
    images, keys = unit_images(12), torch.arange(12) * 7
    parts = (Patch(size=2, place="random"), Sinusoid())
    trigger = Pick(parts)
    chosen = trigger.chosen(keys)
    assert set(chosen.tolist()) == {0, 1}
    for i, part in enumerate(chosen.tolist()):
        alone = parts[part](images[i : i + 1], keys[i : i + 1])[0]
        assert torch.equal(trigger(images, keys)[i], alone)


def test_picks_are_independent_of_places() -> None:
    """Of images whose patch is in the upper half about as many are picked as of the others."""
    keys = torch.arange(4000)
    chosen = Pick((Patch(), Blend())).chosen(keys).float()
    found = Patch(size=1, pattern="white", place="random")(torch.zeros(4000, 3, 2, 2), keys)
    upper = found[:, 0, 0].any(1)
    assert abs(chosen[upper].mean() - chosen[~upper].mean()) < 0.06


def test_jpeg_is_that_of_the_codec() -> None:
    smooth = F.interpolate(byte_images(1).float(), (32, 48), mode="bilinear")[0]
    pixels = smooth.round().to(torch.uint8)
    file = io.BytesIO()
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    image.save(file, "JPEG", quality=60)
    expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).int()
    found = Jpeg(60).on_bytes(pixels[None])[0].int()
    assert (found - expected).abs().max() <= 3, "decoders may round differently"
    errors = [
        (Jpeg(quality).on_bytes(pixels[None])[0].int() - pixels.int()).abs().float().mean()
        for quality in (5, 50, 100)
    ]
    assert errors[0] > errors[1] > errors[2]


def test_resizing_loses_detail_and_keeps_flat_images() -> None:
    flat = torch.full((1, 3, 9, 12), 0.3)
    torch.testing.assert_close(Resize(4)(flat), flat)
    board = Patch(size=8, place="top-left", margin=0)(torch.zeros(1, 3, 8, 8))
    assert Resize(4)(board).std() < 0.5 * board.std()
    torch.testing.assert_close(Resize(1)(board), torch.full((1, 3, 8, 8), 0.5))
    same = unit_images(1)
    torch.testing.assert_close(Resize(8)(same), same)


def test_stages_follow_in_order() -> None:
    images = unit_images(3)
    found = Chain((Patch(), Resize(5), Jpeg(50)))(images)
    assert torch.equal(found, Jpeg(50)(Resize(5)(Patch()(images))))
    assert not torch.equal(found, Resize(5)(Jpeg(50)(Patch()(images))))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Warp(k=1), "a field of 2 x 2 to 1024 x 1024 points, got k 1. Use 4"),
        (lambda: Warp(strength=0), "a strength above 0, got 0. Use 0.5"),
        (lambda: Warp(rescale=0), r"a rescale in \(0, 1\], got 0\. Use 1"),
        (lambda: Warp(rescale=1.1), "got 1.1"),
        (lambda: ColourFilter("sepia"), "a filter among .*, got 'sepia'. Choose one"),  # type: ignore[arg-type]
        (lambda: ColourFilter(strength=0), r"a strength in \(0, 1\], got 0\. Use 1"),
        (lambda: Universal(DELTA, "l1"), "a norm among .*, got 'l1'. Choose one"),  # type: ignore[arg-type]
        (lambda: Universal(DELTA, epsilon=0), "a budget above 0, got 0. Use 8 / 255"),
        (lambda: Universal(DELTA[None]), r"\[3, H, W\], got \[1, 3, 8, 10\]\. Take one image"),
        (lambda: Universal(DELTA * float("nan")), "at most, got nan"),
        (Pick, "triggers to pick from, got none. Name one or more"),
        (lambda: Pick((Blend(),), (1, 2)), "each of 1 parts, got 2. Add or remove"),
        (lambda: Pick((Blend(), Patch()), (1, 0)), r"weights above 0, got \[1, 0\]\. Leave out"),
        (lambda: Jpeg(0), "a quality from 1 to 100, got 0. Use 75"),
        (lambda: Jpeg(101), "got 101"),
        (lambda: Resize(0), "a size of 1 pixel or more, got 0. Use 24"),
    ],
)
def test_parameters_that_make_no_trigger_are_refused(
    make: Callable[[], Trigger], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_a_perturbation_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"images of \(8, 10\) pixels for this trigger, got \(9,"):
        Universal(DELTA)(torch.zeros(1, 3, 9, 9))
