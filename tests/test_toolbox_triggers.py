"""Triggers of the real toolbox on the same bytes; it cuts to bytes where we round."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from trigger_table import byte_images
from upstream import clone

from invertune_plugin.adapters.backdoorbox.attacks.patterns import warping
from invertune_plugin.data import to_unit
from invertune_plugin.triggers import Blend, Patch, Trigger, Warp

pytestmark = pytest.mark.toolbox
SIZE = 32
PATCHES = [
    Patch(3, "white", margin=0),
    Patch(4, "checkerboard", "top-left"),
    Patch(5, "stripes", (3, 9), seed=2),
]


@pytest.fixture(scope="module")
def core() -> Any:
    from invertune_plugin.adapters.backdoorbox.loader import load_toolbox

    return load_toolbox(clone())


@pytest.fixture(scope="module")
def images() -> Tensor:
    return byte_images(4, 0, SIZE, SIZE)


def theirs(core: Any, attack: str, images: Tensor, *settings: Any, **options: Any) -> Tensor:
    """Bytes of one of its attacks on these images, as PIL images."""
    module = sys.modules[getattr(core, attack).__module__]
    add = module.AddDatasetFolderTrigger(*settings, **options)
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    made = np.stack([np.array(add(Image.fromarray(image))) for image in pixels])
    return torch.from_numpy(made).permute(0, 3, 1, 2)


def assert_close(trigger: Trigger, images: Tensor, found: Tensor) -> None:
    assert (trigger(to_unit(images)) * 255 - found.float()).abs().max() < 1
    assert not torch.equal(found, images)


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: str(patch.pattern))
def test_badnets(core: Any, images: Tensor, patch: Patch) -> None:
    pattern = patch.on_bytes(torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8))[0]
    untouched = patch(torch.full((1, 3, SIZE, SIZE), 0.5))[0] == 0.5
    found = theirs(core, "BadNets", images, pattern, 1.0 - untouched.float())
    assert torch.equal(patch.on_bytes(images), found)


@pytest.mark.parametrize("alpha", [0.2, 0.05, 0.9])
def test_blended(core: Any, images: Tensor, alpha: float) -> None:
    trigger = Blend(alpha, seed=3)
    noise, weight = trigger.layer(SIZE, SIZE)
    found = theirs(core, "Blended", images, noise * 255, weight.float())
    assert_close(trigger, images, found)


@pytest.mark.parametrize(
    ("k", "strength", "rescale"), [(4, 0.5, 1.0), (8, 1.0, 1.0), (SIZE, 2.0, 0.9)]
)
def test_wanet(core: Any, images: Tensor, k: int, strength: float, rescale: float) -> None:
    trigger = Warp(k, strength, rescale, seed=1)
    identity, field = warping(SIZE, k, 0.5, seed=1)
    torch.testing.assert_close(trigger.field(SIZE, SIZE), field)
    options = {"s": strength, "grid_rescale": rescale}
    found = theirs(core, "WaNet", images, identity, field, **options)
    assert_close(trigger, images, found)
