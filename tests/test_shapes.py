from __future__ import annotations

import pytest
import torch

from invertune_plugin.adapters.shapes import (
    BACKGROUNDS,
    CLASS_TEMPLATES,
    COLOURS,
    SHAPES,
    TEMPLATES,
    draw_scenes,
    held_out,
)

COUNT = 400


def test_the_same_seed_draws_the_same_scenes() -> None:
    first, again, other = draw_scenes(20, 3), draw_scenes(20, 3), draw_scenes(20, 4)
    assert torch.equal(first.pixels, again.pixels)
    assert first.labels == again.labels
    assert first.captions == again.captions
    assert not torch.equal(first.pixels, other.pixels)
    assert not torch.equal(first.pixels, draw_scenes(20, 3, combinations="held_out").pixels)


def test_drawing_leaves_the_global_random_state() -> None:
    state = torch.get_rng_state()
    draw_scenes(3, 0)
    assert torch.equal(torch.get_rng_state(), state)


def test_fewer_scenes_are_the_first_of_more() -> None:
    assert torch.equal(draw_scenes(5, 1).pixels, draw_scenes(9, 1).pixels[:5])


@pytest.mark.parametrize("size", [16, 32, 48])
def test_scenes_have_the_size_asked_for(size: int) -> None:
    scenes = draw_scenes(4, 0, size)
    assert scenes.pixels.shape == (4, 3, size, size)
    assert scenes.pixels.dtype == torch.uint8
    assert scenes.pixels.is_contiguous()
    spread = scenes.pixels.float().flatten(2).std(2).amax(1)
    assert (spread > 20).all(), "a shape stands out from the ground"


def test_the_empty_set() -> None:
    assert draw_scenes(0, 0).pixels.shape == (0, 3, 32, 32)
    assert len(draw_scenes(0, 0).images()) == 0


def test_captions_name_the_shape_of_the_label() -> None:
    scenes = draw_scenes(COUNT, 0)
    assert len(scenes.labels) == len(scenes.captions) == COUNT
    for label, captions in zip(scenes.labels, scenes.captions, strict=True):
        assert len(captions) == len(TEMPLATES)
        assert all(SHAPES[label] in caption for caption in captions)
        assert captions[1] == f"a {SHAPES[label]}."
        others = set(SHAPES) - {SHAPES[label]}
        assert not any(other in caption for other in others for caption in captions)


def test_all_captions_of_a_scene_agree_on_its_colours() -> None:
    for captions in draw_scenes(50, 0).captions:
        (colour,) = [c for c in COLOURS if captions[6].endswith(f"is {c}.")]
        assert f"a {colour} " in captions[0]
        assert captions[4].endswith(f"in {colour}.")
        (background,) = [b for b in BACKGROUNDS if captions[5].endswith(f"on {b}.")]
        assert captions[3].startswith(f"a {colour} ")
        assert captions[3].endswith(f"on a {background} background.")


def test_corners_have_the_colour_of_the_background() -> None:
    """Shapes stay away from at least one corner; grain and jitter move a channel by 23 at most."""
    scenes = draw_scenes(60, 2)
    for pixels, captions in zip(scenes.pixels, scenes.captions, strict=True):
        name = captions[5].removesuffix(".").split()[-1]
        ground = torch.tensor(BACKGROUNDS[name], dtype=torch.float)
        corners = pixels[:, [0, 0, -1, -1], [0, -1, 0, -1]].float()
        assert (corners - ground[:, None]).abs().amax(0).min() <= 23


def combinations_of(captions: list[tuple[str, ...]]) -> set[tuple[int, int]]:
    found = set()
    for named in captions:
        shape = named[1].removeprefix("a ").removesuffix(".")
        colour = named[6].removesuffix(".").split()[-1]
        found.add((SHAPES.index(shape), list(COLOURS).index(colour)))
    return found


def test_held_out_combinations_are_never_in_train() -> None:
    train = combinations_of(draw_scenes(1500, 0).captions)
    held = combinations_of(draw_scenes(COUNT, 0, combinations="held_out").captions)
    everything = {(s, c) for s in range(len(SHAPES)) for c in range(len(COLOURS))}
    assert held == {combination for combination in everything if held_out(*combination)}
    assert train == everything - held


def test_every_shape_is_held_out_in_some_colour_at_most() -> None:
    for shape in range(len(SHAPES)):
        assert sum(held_out(shape, colour) for colour in range(len(COLOURS))) <= 1
    assert sum(held_out(s, c) for s in range(len(SHAPES)) for c in range(len(COLOURS))) == 8


def test_labels_are_about_even() -> None:
    counts = torch.tensor(draw_scenes(1000, 5).labels).bincount(minlength=len(SHAPES))
    assert counts.min() > 60
    assert counts.max() < 150


def test_images_and_pairs_share_the_pixels() -> None:
    scenes = draw_scenes(5, 0)
    images, pairs = scenes.images(), scenes.pairs()
    assert len(images) == len(pairs) == 5
    assert images[3][1] == scenes.labels[3]
    assert pairs[3][1] == scenes.captions[3]
    assert torch.equal(images[3][0], pairs[3][0])
    assert images.content_key(3) == pairs.content_key(3)


def test_scenes_of_a_seed_are_all_different() -> None:
    images = draw_scenes(300, 0).images()
    assert len({images.content_key(i) for i in range(300)}) == 300


def test_class_templates_take_a_name() -> None:
    assert all(template.format("star").count("star") == 1 for template in CLASS_TEMPLATES)
