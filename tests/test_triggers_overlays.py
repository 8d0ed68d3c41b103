"""Overlays by hand: blends, drawings, reflections."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from trigger_table import OTHER_PICTURE, PICTURE, unit_images

from invertune_plugin.errors import InputError
from invertune_plugin.triggers import (
    BlendPicture,
    BlendStripes,
    Overlay,
    Reflection,
    Square,
    Text,
    Triangles,
    Trigger,
    Watermark,
)


def grey(height: int, width: int, level: float = 0.5) -> Tensor:
    return torch.full((1, 3, height, width), level)


def test_stripes_move_grey_by_their_weight() -> None:
    found = BlendStripes(alpha=0.1)(grey(5, 40))[0]
    torch.testing.assert_close(found, found[:, :1].expand(3, 5, 40))
    levels = {round(level, 4) for level in found.flatten().tolist()}
    assert levels == {0.35, 0.55}, "0.9 * 0.5 - 0.1 and 0.9 * 0.5 + 0.1"
    assert BlendStripes(alpha=0.1)(grey(5, 40, 0.0)).unique().numel() == 2, "clipped at black"


def test_wide_stripes() -> None:
    columns = BlendStripes(width=3, seed=2).layer(4, 20)[0][:, 0]
    assert torch.equal(columns[:, 0:18:3], columns[:, 1:19:3])
    assert torch.equal(columns[:, 0:18:3], columns[:, 2:18:3])
    assert columns[:, ::3].diff().any()


def test_a_picture_of_the_same_size_is_taken_as_it_is() -> None:
    pixels = torch.from_numpy(np.array(Image.open(PICTURE))).permute(2, 0, 1).float() / 255
    found = BlendPicture(PICTURE, alpha=0.25)(grey(6, 7))[0]
    torch.testing.assert_close(found, 0.75 * 0.5 + 0.25 * pixels)


def test_a_picture_of_sixteen_bits_keeps_its_grey_levels(tmp_path: Path) -> None:
    """White is 65,535; convert("RGB") would clip at 255."""
    ramp = np.arange(0, 256, 51, dtype=np.uint16)[None] * 257
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    found = BlendPicture(str(tmp_path / "ramp.png")).layer(1, 6)[0]
    torch.testing.assert_close(found, torch.linspace(0, 1, 6).expand(3, 1, 6))


def test_a_gradient_may_be_one_pixel_high(tmp_path: Path) -> None:
    Image.fromarray(np.arange(256, dtype=np.uint8)[None]).save(tmp_path / "ramp.png")
    assert BlendPicture(str(tmp_path / "ramp.png")).layer(4, 256)[0].diff(dim=1).abs().max() == 0


def test_a_picture_whose_white_is_unknown_is_refused(tmp_path: Path) -> None:
    Image.new("F", (3, 3), 0.5).save(tmp_path / "x.tif")
    with pytest.raises(InputError, match=r"x\.tif, which cannot be decoded \(.*mode 'F'\)\. Save"):
        BlendPicture(str(tmp_path / "x.tif"))


def test_a_picture_is_known_by_its_content(tmp_path: Path) -> None:
    copied = tmp_path / "copy.png"
    copied.write_bytes(Path(PICTURE).read_bytes())
    first, second = BlendPicture(PICTURE), BlendPicture(str(copied))
    assert first.fingerprint() == second.fingerprint()
    assert first.parameters() != second.parameters()
    assert torch.equal(first(grey(9, 9)), second(grey(9, 9)))
    assert BlendPicture(str(copied), sha256=first.sha256) == second


def test_a_picture_that_changes_later_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(Path(PICTURE).read_bytes())
    trigger = BlendPicture(str(path))
    path.write_bytes(Path(OTHER_PICTURE).read_bytes())
    with pytest.raises(InputError, match=r"hash \w{64} at .*picture\.png, got one of hash \w{64}"):
        trigger(grey(9, 9))


def test_triangles_by_hand() -> None:
    picture, weight = Triangles(tile=2).layer(3, 5)
    light, dark = 0.8, 0.4
    rows = [[dark, light, dark, light, dark], [dark] * 5, [dark, light, dark, light, dark]]
    torch.testing.assert_close(picture, torch.tensor(rows).expand(3, 3, 5))
    assert weight.unique().tolist() == [0.15]


def test_a_word_is_across_the_middle() -> None:
    picture, weight = Text("banana", alpha=0.5, share=0.8).layer(100, 100)
    assert torch.equal(picture[:, 0, 0], torch.tensor([1.0, 0.0, 0.0]))
    shown = weight[0] > 0.1
    columns, rows = shown.any(0).nonzero()[:, 0], shown.any(1).nonzero()[:, 0]
    assert 76 <= columns[-1] - columns[0] + 1 <= 84
    assert abs(columns[0] + columns[-1] - 99) <= 4
    assert abs(rows[0] + rows[-1] - 99) <= 4
    assert abs(weight.max() - 0.5) < 1e-6


def test_other_words_give_other_pictures() -> None:
    images = unit_images(1, 0, 32, 32)
    assert not torch.equal(Text("cat")(images), Text("dog")(images))
    long = Text("a" * 60)(images)
    assert (long != images).any()


def test_marks_on_the_line_are_in_the_middle_too() -> None:
    for letter in "._":
        shown = Text(letter, share=0.2).layer(64, 64)[1][0] > 0.1
        rows = shown.any(1).nonzero()[:, 0]
        assert abs(rows[0] + rows[-1] - 63) <= 4, letter


def test_words_that_do_not_show_are_refused() -> None:
    with pytest.raises(InputError, match=r"shows on 1 x 1 pixels, got 'a\\nb'\. Choose a shorter"):
        Text("a\nb")(grey(1, 1))


def test_the_emblem_is_a_ring_around_a_cross() -> None:
    covered = Watermark(alpha=0.5, share=1.0).layer(101, 121)[1][0] / 0.5
    assert covered[50, 60] == 1, "cross"
    assert covered[50, 60 + 20] == 1, "bar"
    assert covered[50 + 15, 60 + 15] == 0, "between"
    assert covered[50, 60 + 42] == 1, "ring"
    assert covered[0, 0] == 0
    assert torch.equal(covered, covered.flip(0))
    assert torch.equal(covered, covered.flip(1))


def test_a_square_is_noise_in_its_corner() -> None:
    images = unit_images(2)
    found = Square(size=3, alpha=0.25, place="top-right", margin=1)(images)
    picture, weight = Square(size=3, alpha=0.25, place="top-right", margin=1).layer(8, 10)
    assert weight[0].nonzero().tolist() == [[r, c] for r in (1, 2, 3) for c in (6, 7, 8)]
    inside = (slice(None), slice(None), slice(1, 4), slice(6, 9))
    torch.testing.assert_close(found[inside], 0.75 * images[inside] + 0.25 * picture[:, 1:4, 6:9])
    assert picture[:, 1:4, 6:9].unique().numel() == 27
    assert torch.equal(Square(size=3, place=(1, 6)).layer(8, 10)[0], picture)


def test_a_ghost_is_the_scene_twice() -> None:
    scene = Reflection(look="in-focus", seed=3).layer(16, 20)[0]
    ghost = Reflection(look="ghost", offset=4, ghost_alpha=0.3, seed=3).layer(16, 20)[0]
    expected = 0.3 * scene[:, 4:, 4:] + 0.7 * scene[:, :-4, :-4]
    torch.testing.assert_close(ghost[:, 4:, 4:], expected)


def test_out_of_focus_is_smoother_and_keeps_flat_scenes() -> None:
    sharp = Reflection(look="in-focus").layer(32, 32)[0]
    soft = Reflection(look="out-of-focus", sigma=4).layer(32, 32)[0]
    assert soft.diff().abs().mean() < 0.7 * sharp.diff().abs().mean()
    assert abs(soft.mean() - sharp.mean()) < 0.05
    almost = Reflection(look="out-of-focus", sigma=0.01).layer(32, 32)[0]
    torch.testing.assert_close(almost, sharp)


def test_layers_are_drawn_once_and_never_handed_out() -> None:
    class Counting(Overlay):
        kind = "counting"
        drawn = 0

        def layer(self, height: int, width: int) -> tuple[Tensor, Tensor]:
            Counting.drawn += 1
            return torch.zeros(3, height, width), torch.full((1, height, width), 0.5)

    trigger = Counting()
    trigger(grey(4, 4)).zero_()
    assert trigger(grey(4, 4)).unique().tolist() == [0.25]
    assert Counting.drawn == 1
    trigger(grey(4, 5))
    assert Counting.drawn == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BlendStripes(alpha=0), r"alpha in \(0, 1\], got 0\. Choose a weight"),
        (lambda: BlendStripes(width=0), "stripes of 1 pixel or more, got width 0. Widen"),
        (lambda: BlendPicture(PICTURE, alpha=2), "got 2"),
        (lambda: BlendPicture("no.png"), r"image file .*, got no\.png, .*No such file.*Check the"),
        (lambda: BlendPicture("."), r"got \., which cannot be read"),
        (lambda: BlendPicture(__file__), r"\.py, which cannot be decoded \(.*\)\. Save it as PNG"),
        (lambda: BlendPicture(PICTURE, sha256="0"), r"of hash 0 at .*a\.png, got one of hash"),
        (lambda: Triangles(alpha=-1), "got -1"),
        (lambda: Triangles(tile=1), "tiles of 2 pixels or more, got 1. Make them larger"),
        (lambda: Text(""), "a word to write, got ''. Give it a letter"),
        (lambda: Text(" \n"), "a word to write"),
        (lambda: Text(alpha=1.1), "got 1.1"),
        (lambda: Text(share=0), r"share of the image in \(0, 1\], got 0"),
        (lambda: Text(colour=(255, 0, 0)), r"levels in \[0, 1\], got \(255, 0, 0\)\. Divide bytes"),
        (lambda: Watermark(share=1.5), "got 1.5"),
        (lambda: Watermark(alpha=0), "got 0"),
        (lambda: Watermark(colour=(0.0, 0.0)), r"got \(0\.0, 0\.0\)"),  # type: ignore[arg-type]
        (lambda: Square(size=0), "square of 1 pixel or more, got size 0. Make it larger"),
        (lambda: Square(alpha=0), "got 0"),
        (lambda: Square(place="random"), "fixed place, got place 'random'. Use a noise patch"),
        (lambda: Reflection(alpha=0), "got 0"),
        (lambda: Reflection(look="sharp"), "a look among .*, got 'sharp'. Choose one"),  # type: ignore[arg-type]
        (lambda: Reflection(sigma=0), "a sigma from 0.001 to 1000000 pixels, got 0. Blur by"),
        (lambda: Reflection(offset=0), "an offset of 1 pixel or more, got 0. Use 3 to 8"),
        (lambda: Reflection(ghost_alpha=1), "ghost_alpha between 0 and 1, got 1. Use"),
    ],
)
def test_parameters_that_make_no_overlay_are_refused(
    make: Callable[[], Trigger], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize(
    ("trigger", "message"),
    [
        (Square(size=9), r"at most 8 pixels for images of 8 x 10, got size 9\. Make the patch"),
        (Square(size=3, place="middle"), "got 'middle'"),
        (Square(size=3, place=(6, 0)), "at row 6, column 0"),
    ],
)
def test_overlays_that_do_not_fit_are_refused(trigger: Trigger, message: str) -> None:
    with pytest.raises(InputError, match=message):
        trigger(unit_images(1))
