"""Patch, Blend, Sinusoid, MaskedPattern and Chain, by hand and by their laws."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from trigger_table import ALL, HEIGHT, MASK, PATTERN, WIDTH, unit_images

from invertune_plugin.errors import InputError
from invertune_plugin.triggers import (
    PATTERNS,
    Blend,
    Chain,
    MaskedPattern,
    Patch,
    Pick,
    Sinusoid,
    Square,
    Text,
    Trigger,
    Watermark,
    scaled,
)

quick = settings(deadline=None, max_examples=30)


def test_the_pil_view_takes_grey_images() -> None:
    grey = Image.new("L", (WIDTH, HEIGHT), 100)
    expected = Patch().on_pil(grey.convert("RGB"))
    assert np.array_equal(np.array(Patch().on_pil(grey)), np.array(expected))


def test_fingerprints_of_equal_triggers_are_equal() -> None:
    assert Patch(size=3).fingerprint() == Patch(size=3).fingerprint()
    assert Patch(place=(1, 2)).fingerprint() != Patch(place=(2, 1)).fingerprint()
    same = MaskedPattern(MASK.clone(), PATTERN.clone())
    assert same.fingerprint() == ALL["masked"].fingerprint()
    assert Chain((Patch(), Blend())).fingerprint() == Chain((Patch(), Blend())).fingerprint()


@pytest.mark.parametrize(
    ("place", "margin", "row", "column"),
    [
        ("bottom-right", 1, 5, 7),
        ("bottom-left", 1, 5, 1),
        ("top-right", 1, 1, 7),
        ("top-left", 1, 1, 1),
        ("bottom-right", 0, 6, 8),
        ("top-left", 0, 0, 0),
        ("bottom-left", 3, 3, 3),
        ("centre", 1, 3, 4),
        ((0, 8), 1, 0, 8),
        ((6, 0), 1, 6, 0),
    ],
)
def test_checkerboard_pixels_at_each_place(place: Any, margin: int, row: int, column: int) -> None:
    images = torch.full((2, 3, HEIGHT, WIDTH), 0.25)
    expected = images.clone()
    expected[:, :, row, column] = 0
    expected[:, :, row, column + 1] = 1
    expected[:, :, row + 1, column] = 1
    expected[:, :, row + 1, column + 1] = 0
    found = Patch(size=2, place=place, margin=margin)(images)
    assert torch.equal(found, expected)


def test_stripes_are_columns_of_full_channels() -> None:
    pixels = Patch(size=16, pattern="stripes", seed=1).pixels()
    assert torch.equal(pixels, pixels[:, :1].expand(3, 16, 16))
    assert set(pixels.unique().tolist()) == {0, 1}
    assert len({tuple(column) for column in pixels[:, 0].T.tolist()}) > 4, "of 8 colours"


def test_gaussian_noise_is_clipped_around_grey() -> None:
    pixels = Patch(size=60, pattern="gaussian", seed=1).pixels()
    assert abs(pixels.mean() - 0.5) < 0.01
    assert abs((pixels == 0).float().mean() - 0.3085) < 0.02, "half a standard deviation below"
    assert not torch.equal(pixels, Patch(size=60, pattern="gaussian", seed=2).pixels())


def test_white_and_noise_patches() -> None:
    images = torch.zeros(1, 3, HEIGHT, WIDTH)
    white = Patch(size=3, pattern="white", place="top-left", margin=0)(images)
    assert white.sum() == 27
    assert (white[0, :, :3, :3] == 1).all()
    noise = Patch(size=3, pattern="noise", place="top-left", margin=0, seed=7)
    assert torch.equal(noise(images)[0, :, :3, :3], noise.pixels())
    assert noise.pixels().unique().numel() == 27
    assert not torch.equal(noise.pixels(), replace(noise, seed=8).pixels())


def corners(trigger: Patch, keys: Tensor, height: int, width: int) -> list[tuple[int, int]]:
    """Upper left corners of white patches on black images."""
    triggered = trigger(torch.zeros(len(keys), 3, height, width), keys)[:, 0] == 1
    assert (triggered.flatten(1).sum(1) == trigger.size**2).all()
    rows, columns = triggered.any(2).int().argmax(1), triggered.any(1).int().argmax(1)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


@pytest.mark.parametrize("seed", [0, 1])
def test_random_places_cover_all_positions_about_evenly(seed: int) -> None:
    trigger = Patch(size=4, pattern="white", place="random", seed=seed)
    found = Counter(corners(trigger, torch.arange(1200), 6, 7))
    assert set(found) == {(row, column) for row in range(3) for column in range(4)}
    assert min(found.values()) >= 60, "100 on average"
    assert max(found.values()) <= 150


def test_random_places_depend_on_key_and_seed_only() -> None:
    trigger = Patch(size=2, pattern="white", place="random")
    keys = torch.arange(40)
    found = corners(trigger, keys, 9, 9)
    assert corners(trigger, keys.flip(0), 9, 9) == found[::-1]
    assert corners(replace(trigger, seed=1), keys, 9, 9) != found
    assert corners(replace(trigger, seed=np.int64(0)), keys, 9, 9) == found
    assert len(set(corners(trigger, torch.full((8,), 3), 9, 9))) == 1


def test_a_patch_as_large_as_the_image_has_one_random_place() -> None:
    trigger = Patch(size=4, pattern="white", place="random")
    assert set(corners(trigger, torch.arange(20), 4, 4)) == {(0, 0)}


@pytest.mark.parametrize(
    ("trigger", "message"),
    [
        (Patch(size=9), r"at most 8 pixels for images of 8 x 10, got size 9\. Make the patch"),
        (Patch(size=9, place="random"), "got size 9"),
        (Patch(place="middle"), r"bottom-right, .*centre, random or \[row, column\], got 'middle'"),
        (Patch(size=2, place=(7, 0)), r"inside 8 x 10 pixels, got size 2 at row 7, column 0"),
        (Patch(size=2, place=(0, 9)), "at row 0, column 9"),
        (Patch(size=2, place=(-1, 0)), "at row -1, column 0"),
        (Patch(size=4, margin=5), "at row -1, column 1. Move it or make it smaller"),
    ],
)
def test_patches_that_do_not_fit_are_refused(trigger: Patch, message: str) -> None:
    with pytest.raises(InputError, match=message):
        trigger(unit_images(1))


@pytest.mark.parametrize(
    ("batch", "keys", "message"),
    [
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), None, "uint8.*Use on_bytes"),
        (torch.zeros(3, 8, 8), None, r"got \(3, 8, 8\) of torch.float32.*images\[None\]"),
        (torch.zeros(4, 3, 8, 8), torch.arange(2), "a key for each of 4 images, got 2"),
    ],
)
def test_what_is_no_batch_is_refused(batch: Tensor, keys: Tensor | None, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Blend()(batch, keys)


def test_lists_are_taken_for_places_and_colours() -> None:
    images, red = unit_images(1), (1.0, 0.0, 0.0)
    for listed, same in (
        (Square(size=2, place=[2, 3]), Square(size=2, place=(2, 3))),  # type: ignore[arg-type]
        (Watermark(colour=list(red)), Watermark(colour=red)),  # type: ignore[arg-type]
        (Text("a", colour=list(red)), Text("a", colour=red)),  # type: ignore[arg-type]
    ):
        assert torch.equal(listed(images), same(images))
        assert listed.fingerprint() == same.fingerprint()


def test_a_seed_of_numpy_has_the_same_fingerprint() -> None:
    assert Patch(seed=np.int64(3)).fingerprint() == Patch(seed=3).fingerprint()


@quick
@given(st.integers(1, 16), st.integers(0, 223), st.integers(0, 223), st.sampled_from([32, 64, 448]))
def test_a_square_inside_stays_inside_at_another_size(
    size: int, row: int, column: int, to: int
) -> None:
    place = (min(row, 224 - size), min(column, 224 - size))
    made = scaled(Patch(size=size, place=place), 224, to)
    grey = torch.full((1, 3, to, to), 0.5)
    assert (made(grey) != grey).any()


@pytest.mark.parametrize("alpha", [0.1, 0.2, 0.3, 0.7, 1.0])
def test_blend_is_rounded_as_it_always_was(alpha: float) -> None:
    images = unit_images(3)
    noise = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(5))
    assert torch.equal(Blend(alpha, seed=5)(images), (1 - alpha) * images + alpha * noise)


def test_blend_is_alpha_noise_on_black() -> None:
    noise = Blend(alpha=1.0, seed=3)(torch.rand(2, 3, 4, 4))
    assert torch.equal(noise[0], noise[1])
    assert noise.unique().numel() == 48
    found = Blend(alpha=0.25, seed=3)(torch.zeros(1, 3, 4, 4))
    torch.testing.assert_close(found, 0.25 * noise[:1])


def test_sinusoid_by_hand() -> None:
    images = torch.tensor([0.5, 0.5, 0.5, 0.1]).expand(1, 3, 2, 4)
    found = Sinusoid(amplitude=0.25, frequency=1.0)(images)
    expected = torch.tensor([0.5, 0.75, 0.5, 0.0]).expand(1, 3, 2, 4)
    torch.testing.assert_close(found, expected)


def test_masked_pattern_between_image_and_pattern() -> None:
    images = unit_images(3)
    nothing = MaskedPattern(torch.zeros(1, HEIGHT, WIDTH), PATTERN)
    assert torch.equal(nothing(images), images)
    everything = MaskedPattern(torch.ones(1, HEIGHT, WIDTH), PATTERN)
    assert torch.equal(everything(images), PATTERN.expand(3, -1, -1, -1))
    half = MaskedPattern(torch.full((1, HEIGHT, WIDTH), 0.5), PATTERN)
    torch.testing.assert_close(half(images), (images + PATTERN) / 2)


def test_masked_pattern_can_be_learned() -> None:
    mask, pattern = MASK.clone().requires_grad_(), PATTERN.clone().requires_grad_()
    images = unit_images(2)
    MaskedPattern(mask, pattern)(images).sum().backward()
    torch.testing.assert_close(mask.grad, (PATTERN - images).sum((0, 1))[None])
    torch.testing.assert_close(pattern.grad, 2 * MASK.expand(3, -1, -1))


def test_masked_pattern_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"images of \(8, 10\) pixels for this trigger, got"):
        ALL["masked"](torch.zeros(1, 3, 10, 10))


def test_a_masked_pattern_says_its_size_instead_of_its_pixels() -> None:
    parameters = ALL["masked"].parameters()
    assert parameters.keys() == {"kind", "size", "sha256"}
    assert parameters["size"] == [HEIGHT, WIDTH]


def test_a_chain_is_the_composition_of_its_parts() -> None:
    images, keys = unit_images(4), torch.tensor([9, 1, 5, 5])
    first, second = Patch(size=2, place="random", seed=2), Blend(alpha=0.5)
    found = Chain((first, second))(images, keys)
    assert torch.equal(found, second(first(images, keys), keys))
    assert not torch.equal(found, first(second(images, keys), keys))
    nested = Chain((Chain((first,)), second))
    assert torch.equal(nested(images, keys), found)
    assert torch.equal(Chain()(images), images)


@quick
@given(
    size=st.integers(1, 6),
    row=st.integers(0, 2),
    column=st.integers(0, 4),
    pattern=st.sampled_from(PATTERNS),
    seed=st.integers(0, 2**31 - 1),
)
def test_a_patch_changes_only_its_square(
    size: int, row: int, column: int, pattern: Any, seed: int
) -> None:
    trigger = Patch(size=size, pattern=pattern, place=(row, column), seed=seed)
    images = unit_images(2, seed)
    found = trigger(images)
    inside = found[:, :, row : row + size, column : column + size]
    assert torch.equal(inside, trigger.pixels().expand_as(inside))
    inside.copy_(images[:, :, row : row + size, column : column + size])
    assert torch.equal(found, images)
    assert torch.equal(trigger(trigger(images)), trigger(images))


@quick
@given(size=st.integers(1, 8), key=st.integers(0, 2**62), seed=st.integers(0, 2**31 - 1))
def test_random_patches_stay_inside(size: int, key: int, seed: int) -> None:
    trigger = Patch(size=size, pattern="white", place="random", seed=seed)
    ((row, column),) = corners(trigger, torch.tensor([key]), HEIGHT, WIDTH)
    assert 0 <= row <= HEIGHT - size
    assert 0 <= column <= WIDTH - size


@quick
@given(alpha=st.floats(0, 1, exclude_min=True), seed=st.integers(0, 1000))
def test_blend_is_affine(alpha: float, seed: int) -> None:
    x, y = unit_images(2, seed).split(1)
    trigger = Blend(alpha=alpha, seed=seed)
    torch.testing.assert_close(trigger(x) - trigger(y), (1 - alpha) * (x - y), atol=1e-6, rtol=0)


@quick
@given(amplitude=st.floats(0, 1), frequency=st.floats(0, 20), seed=st.integers(0, 1000))
def test_sinusoid_moves_no_pixel_further_than_its_amplitude(
    amplitude: float, frequency: float, seed: int
) -> None:
    images = unit_images(1, seed)
    moved = Sinusoid(amplitude=amplitude, frequency=frequency)(images) - images
    assert moved.abs().max() <= amplitude + 1e-6
    same = Sinusoid(amplitude=amplitude, frequency=frequency)(images.flip(2)).flip(2) - images
    assert torch.equal(moved, same), "the same in every row"


@quick
@given(seed=st.integers(0, 1000))
def test_masked_patterns_compose_to_a_masked_pattern(seed: int) -> None:
    """1 - m = (1 - m1)(1 - m2), and m p = m2 p2 + (1 - m2) m1 p1."""
    m1, m2 = unit_images(2, seed)[:, :1]
    p1, p2 = unit_images(2, seed + 1)
    mask = 1 - (1 - m1) * (1 - m2)
    pattern = (m2 * p2 + (1 - m2) * m1 * p1) / mask
    images = unit_images(1, seed + 2)
    chained = Chain((MaskedPattern(m1, p1), MaskedPattern(m2, p2)))(images)
    torch.testing.assert_close(chained, MaskedPattern(mask, pattern)(images), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: Patch(size=0), "size 0"),
        (lambda: Pick((Patch(), Pick((Blend(), Sinusoid())))), "other seeds, got 0 twice"),
        (lambda: Patch(pattern="dots"), "'dots'"),  # type: ignore[arg-type]
        (lambda: Blend(alpha=0.0), "0.0"),
        (lambda: Blend(alpha=1.5), "1.5"),
        (lambda: Blend(alpha=float("nan")), "nan"),
        (lambda: Sinusoid(amplitude=60.0), r"amplitude in \[0, 1\], got 60\.0\. Divide"),
        (lambda: MaskedPattern(MASK[0], PATTERN), r"got \[8, 10\] and \[3, 8, 10\]\. Make them"),
        (lambda: MaskedPattern(MASK[:, :4], PATTERN), r"got \[1, 4, 10\] and"),
        (lambda: MaskedPattern(MASK, MASK), r"pattern \[3, H, W\], got \[1, 8, 10\] and"),
    ],
)
def test_parameters_that_make_no_trigger_are_refused(
    make: Callable[[], Trigger], part: str
) -> None:
    with pytest.raises(InputError, match=part):
        make()
