"""Triggers of strangers: they take no more memory than images do, and open no files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from trigger_table import PICTURE, unit_images

from invertune_plugin.checkpoints import write_checkpoint
from invertune_plugin.errors import InputError
from invertune_plugin.triggers import (
    BlendPicture,
    BlendStripes,
    Chain,
    Patch,
    Pick,
    Resize,
    load_trigger,
    needs_tensors,
    save_trigger,
    trigger_of,
)


def nested(depth: int, inner: Any = None) -> dict[str, Any]:
    """A chain in a chain in a chain."""
    parameters: Any = inner or {"kind": "patch"}
    for _ in range(depth):
        parameters = {"kind": "chain", "parts": [parameters]}
    return parameters  # type: ignore[no-any-return]


def written(folder: Path, parameters: Any, fingerprint: str = "patch-0") -> Path:
    path = folder / "x.trigger.safetensors"
    write_checkpoint(path, {}, {"trigger": parameters, "fingerprint": fingerprint})
    return path


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (nested(400), "at most 32 deep in each other in .*, got deeper ones. Take out"),
        ({"kind": "patch", "size": json.loads("[" * 400 + "]" * 400)}, "at most 32 deep"),
        ({"kind": "chain", "parts": [{"kind": "patch"}] * 100_000}, "at most 100000 values"),
        ({"kind": "text", "word": "a" * 501}, "at most 500 characters"),
        ({"kind": "patch", "seed": 10**30}, "whole numbers of at most 63 bits in .*, got one of 1"),
        ({"kind": ["patch"]}, "of a kind among"),
        ({"kind": "chain", "parts": 5}, "a list of parts, got 5"),
        ({"kind": "warp", "k": 6000}, "a field of 2 x 2 to 1024 x 1024 points, got k 6000. Use 4"),
        ({"kind": "reflection", "sigma": 1e300}, "a sigma from 0.001 to 1000000 pixels, got 1e"),
        ({"kind": "sinusoid", "frequency": 1e300}, "a frequency of at most 1000000 periods, got"),
    ],
)
def test_what_no_trigger_needs_is_refused(parameters: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        trigger_of(parameters)
    with pytest.raises(InputError, match=message):
        load_trigger(written(tmp_path, parameters))


def test_a_chain_may_be_of_chains(tmp_path: Path) -> None:
    trigger = trigger_of(nested(8))
    save_trigger(tmp_path / "a.safetensors", trigger)
    assert load_trigger(tmp_path / "a.safetensors") == trigger
    assert needs_tensors(nested(8, {"kind": "universal"}))
    assert not needs_tensors(nested(8))
    assert not needs_tensors({"kind": ["universal"]})
    with pytest.raises(InputError, match="at most 32 deep"):
        needs_tensors(nested(900))


def test_a_file_of_a_trigger_opens_no_file(tmp_path: Path) -> None:
    picture = {"kind": "blend-picture", "path": "/etc/hostname", "sha256": "0" * 64}
    for parameters in (picture, nested(2, picture)):
        with pytest.raises(InputError, match="got one that names another file") as refused:
            load_trigger(written(tmp_path, parameters))
        assert "hash" not in str(refused.value)
        (tmp_path / "x.trigger.safetensors").unlink()


def test_a_trigger_that_names_a_file_is_kept_as_yaml(tmp_path: Path) -> None:
    for trigger in (BlendPicture(PICTURE), Chain((Patch(), BlendPicture(PICTURE)))):
        with pytest.raises(InputError, match=r"names another file\. Keep its parameters as YAML"):
            save_trigger(tmp_path / "a.safetensors", trigger)
    assert not list(tmp_path.iterdir())


def test_stripes_wider_than_the_image_are_one_stripe() -> None:
    """A row of so many pixels would not fit into memory."""
    images = unit_images(2)
    assert torch.equal(BlendStripes(width=2**62)(images), BlendStripes(width=10)(images))


def test_an_image_is_not_enlarged_more_than_four_times() -> None:
    images = unit_images(2)
    assert Resize(32)(images).shape == images.shape
    with pytest.raises(InputError, match="32 pixels for images of 8 x 10, got 1000000"):
        Resize(1_000_000)(images)


def test_large_seeds_draw_places() -> None:
    images, keys = unit_images(3), torch.arange(3)
    for seed in (2**62, -(2**62)):
        patch = Patch(size=2, pattern="white", place="random", seed=seed)
        assert torch.equal(patch(images, keys), patch(images, keys))
        picked = Pick((Patch(), patch), seed=seed).chosen(keys)
        assert set(picked.tolist()) <= {0, 1}
