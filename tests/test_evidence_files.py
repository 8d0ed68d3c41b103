"""What a cell of a grid leaves for the report: strips of pictures, and thinned curves."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor
from toys import NAMES, noise_images

from invertune_plugin.attacks.backdoors import Backdoor
from invertune_plugin.benchmark.experiment.sources import TestSet
from invertune_plugin.benchmark.report.evidence_files import (
    CURVES,
    MOST_SIDE,
    thinned,
    write_curves,
    write_examples,
    write_inverted,
)
from invertune_plugin.data import InMemory
from invertune_plugin.triggers import MaskedPattern, Patch


def pixels(path: Path) -> torch.Tensor:
    return pil_to_tensor(Image.open(path))


def test_strips_show_images_of_other_classes_without_and_with_the_trigger(tmp_path: Path) -> None:
    images = noise_images(8)
    test = TestSet("toy", InMemory(images, [0, 1, 0, 1, 1, 1, 1, 1]), tuple(NAMES))
    size = images.shape[-1]
    write_examples(tmp_path, test, Backdoor(Patch(size=4, pattern="white"), NAMES[0]))
    clean, triggered = pixels(tmp_path / "clean.png"), pixels(tmp_path / "triggered.png")
    shown = torch.cat([images[i] for i in (1, 3, 4, 5)], dim=2)
    assert torch.equal(clean, shown)
    white = (triggered == 255).all(0) & (clean != 255).any(0)
    assert 0 < white.sum() <= 4 * 16
    change = pixels(tmp_path / "change.png")
    assert change.shape == (3, size, 4 * size)
    assert (change[:, triggered.eq(clean).all(0)].int() - 128).abs().max() <= 1


def test_nothing_is_drawn_where_all_images_are_of_the_target(tmp_path: Path) -> None:
    test = TestSet("toy", InMemory(noise_images(2), [0, 0]), tuple(NAMES))
    write_examples(tmp_path, test, Backdoor(Patch(), NAMES[0]))
    assert list(tmp_path.iterdir()) == []


def test_an_inverted_trigger_is_mask_pattern_and_both_on_grey(tmp_path: Path) -> None:
    mask = torch.zeros(1, 8, 8)
    mask[:, :2] = 1.0
    write_inverted(tmp_path, MaskedPattern(mask, torch.ones(3, 8, 8)))
    drawn = pixels(tmp_path / "inverted.png")
    assert drawn.shape == (3, 8, 24)
    assert drawn[0, 0].tolist() == [255] * 24
    assert drawn[0, 7].tolist() == [0] * 8 + [255] * 8 + [128] * 8


def test_large_images_become_smaller(tmp_path: Path) -> None:
    write_inverted(tmp_path, MaskedPattern(torch.ones(1, 224, 224), torch.rand(3, 224, 224)))
    assert pixels(tmp_path / "inverted.png").shape == (3, MOST_SIDE, 3 * MOST_SIDE)


def test_curves_keep_first_and_last_point(tmp_path: Path) -> None:
    points = thinned([1 / (i + 1) for i in range(1000)])
    assert len(points) == 60
    assert points[0] == (1, 1.0)
    assert points[-1] == (1000, 0.001)
    assert thinned([3.0, math.nan, 2.0]) == [(1, 3.0), (3, 2.0)]
    write_curves(tmp_path, {"loss": [2.0, 1.0], "one": [1.0], "none": []})
    assert json.loads((tmp_path / CURVES).read_text()) == {"loss": [[1, 2.0], [2, 1.0]]}
    write_curves(tmp_path / "absent", {"one": [1.0]})
    assert not (tmp_path / "absent").exists()
