"""Triggers out of parameters and files, and at other sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from trigger_table import ALL, DELTA, MASK, PATTERN, PICTURE, every_plain, unit_images

from invertune_plugin.checkpoints import read_card, write_checkpoint
from invertune_plugin.errors import InputError
from invertune_plugin.triggers import (
    Blend,
    BlendPicture,
    BlendStripes,
    Chain,
    MaskedPattern,
    Patch,
    Pick,
    Reflection,
    Resize,
    Sinusoid,
    Square,
    Text,
    Triangles,
    Trigger,
    Universal,
    Warp,
    load_trigger,
    save_trigger,
    scaled,
    trigger_of,
)

FILED = {name: trigger for name, trigger in ALL.items() if name != "blend-picture"}


def as_read(trigger: Trigger) -> dict[str, Any]:
    """The parameters as they come back from a card."""
    read: dict[str, Any] = json.loads(json.dumps(trigger.parameters()))
    return read


@every_plain
def test_parameters_give_the_trigger_back(trigger: Trigger) -> None:
    found = trigger_of(as_read(trigger))
    assert found == trigger
    assert found.fingerprint() == trigger.fingerprint()
    assert torch.equal(found(unit_images(3)), trigger(unit_images(3)))


@pytest.mark.parametrize("trigger", FILED.values(), ids=FILED.keys())
def test_files_give_the_trigger_back(trigger: Trigger, tmp_path: Path) -> None:
    path = tmp_path / "made" / "trigger.safetensors"
    save_trigger(path, trigger)
    found = load_trigger(path)
    assert type(found) is type(trigger)
    assert found.parameters() == trigger.parameters()
    assert found.fingerprint() == trigger.fingerprint()
    assert torch.equal(found(unit_images(3)), trigger(unit_images(3)))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_whole_numbers_stay_what_they_were(tmp_path: Path) -> None:
    trigger = Chain((Blend(alpha=1), Text("a", colour=(0, 1, 0)), Sinusoid(frequency=2)))
    assert trigger_of(as_read(trigger)).fingerprint() == trigger.fingerprint()
    save_trigger(tmp_path / "a.safetensors", trigger)
    assert load_trigger(tmp_path / "a.safetensors") == trigger


def test_what_was_learned_is_stored(tmp_path: Path) -> None:
    trigger = MaskedPattern(MASK.double().requires_grad_(), PATTERN.clone().requires_grad_())
    save_trigger(tmp_path / "a.safetensors", trigger)
    found = load_trigger(tmp_path / "a.safetensors")
    assert isinstance(found, MaskedPattern)
    assert found.mask.dtype == torch.float32
    assert not found.pattern.requires_grad


def test_left_out_parameters_keep_their_defaults() -> None:
    assert trigger_of({"kind": "patch", "place": [1, 2]}) == Patch(place=(1, 2))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"kind": "pach"}, r"of a kind among patch, .*, got \{'kind': 'pach'\}\. Take the param"),
        ({}, r"got \{\}"),
        ("patch", "got 'patch'"),
        ({"kind": ["patch"]}, "of a kind among"),
        ({"kind": "patch", "sise": 3}, r"parameters of patch \(margin, .*\), got 'sise'\. Take it"),
        ({"kind": "patch", "size": "big"}, r"value for patch\.size, got 'big'\. Take the"),
        ({"kind": "patch", "size": 0}, "got size 0"),
        ({"kind": "blend-picture"}, "all parameters of blend-picture, but .*'path'. Add them"),
        ({"kind": "chain", "parts": "patch"}, "a list of parts, got 'patch'. Put each"),
        ({"kind": "chain", "parts": [{"kind": "pach"}]}, r"got \{'kind': 'pach'\}"),
        (ALL["masked"].parameters(), "tensors mask, pattern of masked-pattern, got param.*alone"),
        (ALL["chain-stored"].parameters(), "Read the trigger's file with load_trigger"),
        (
            {"kind": "blend-picture", "path": PICTURE, "sha256": "1"},
            r"the image of hash 1 at .*a\.png",
        ),
    ],
)
def test_parameters_of_no_trigger_are_refused(parameters: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        trigger_of(parameters)


def test_changed_files_are_refused(tmp_path: Path) -> None:
    path, trigger = tmp_path / "a.safetensors", ALL["masked"]
    save_trigger(path, trigger)
    with_card = {"invertune_card": json.dumps(read_card(path))}
    tensors = load_file(path)
    tensors["mask"][0, 0, 0] += 0.1
    save_file(tensors, path, with_card)
    with pytest.raises(InputError, match=rf"trigger {trigger.fingerprint()} in .*got masked-pat"):
        load_trigger(path)
    del tensors["mask"]
    save_file(tensors, path, with_card)
    with pytest.raises(InputError, match="Expected the tensors mask, pattern"):
        load_trigger(path)


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"fingerprint": "patch-0"}, r"the trigger patch-0 in .*, got patch-\w{12}\. The file was"),
        ({"trigger": {"kind": "patch", "size": 3}}, "The file was changed"),
        ({"trigger": None}, "Expected a trigger in .*, got a file without one. Write it with"),
        ({"trigger": {"kind": "chain", "parts": 3}}, "a list of parts, got 3"),
        ({"trigger": {"kind": "chain", "parts": [3]}}, "got 3"),
    ],
)
def test_cards_that_tell_of_another_trigger_are_refused(
    tmp_path: Path, card: dict[str, Any], message: str
) -> None:
    path = tmp_path / "a.safetensors"
    right = {"trigger": Patch().parameters(), "fingerprint": Patch().fingerprint()}
    write_checkpoint(path, {}, right | card)
    with pytest.raises(InputError, match=message):
        load_trigger(path)


def test_files_are_written_with_care(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_trigger(path, Patch())
    with pytest.raises(InputError, match="does not exist yet"):
        save_trigger(path, Blend())
    save_trigger(path, Blend(), overwrite=True)
    assert load_trigger(path) == Blend()
    with pytest.raises(InputError, match=r"ends in \.safetensors"):
        save_trigger(tmp_path / "a.pt", Patch())
    broken = MaskedPattern(MASK.clone(), PATTERN)
    broken.mask[0, 0, 0] = float("inf")
    with pytest.raises(InputError, match="finite"):
        save_trigger(tmp_path / "b.safetensors", broken)
    with pytest.raises(InputError, match="does not exist"):
        load_trigger(tmp_path / "no.safetensors")
    path.write_bytes(b"damaged")
    with pytest.raises(InputError, match="cannot be read"):
        load_trigger(path)
    torch.save({"mask": MASK}, tmp_path / "c.pt")
    with pytest.raises(InputError, match="a file without one"):
        load_trigger(tmp_path / "c.pt")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.safetensors", "c.pt"]


@pytest.mark.parametrize(
    ("trigger", "from_size", "to_size", "expected"),
    [
        (Patch(16), 224, 32, Patch(2, margin=0)),
        (Patch(16, place="random", margin=7), 224, 64, Patch(5, place="random", margin=2)),
        (Patch(5, place=(10, 20)), 32, 64, Patch(10, place=(20, 40), margin=2)),
        (Patch(1), 224, 32, Patch(1, margin=0)),
        (Square(59), 224, 32, Square(8)),
        (Square(8, place=(2, 4)), 32, 16, Square(4, place=(1, 2))),
        (Blend(), 224, 32, Blend()),
        (Sinusoid(), 224, 32, Sinusoid()),
        (Text(), 224, 32, Text()),
        (BlendPicture(PICTURE), 224, 32, BlendPicture(PICTURE)),
        (BlendStripes(width=4), 224, 112, BlendStripes(width=2)),
        (BlendStripes(), 224, 32, BlendStripes()),
        (Triangles(), 224, 32, Triangles(tile=2)),
        (Triangles(), 224, 448, Triangles(tile=28)),
        (Reflection(sigma=4, offset=8), 224, 112, Reflection(sigma=2, offset=4)),
        (Warp(strength=2), 224, 112, Warp(strength=1)),
        (Resize(100), 200, 100, Resize(50)),
        (Pick((Patch(16), Blend())), 224, 32, Pick((Patch(2, margin=0), Blend()))),
        (Chain((Chain((Patch(16),)),)), 224, 32, Chain((Chain((Patch(2, margin=0),)),))),
    ],
)
def test_triggers_at_other_sizes(
    trigger: Trigger, from_size: int, to_size: int, expected: Trigger
) -> None:
    assert scaled(trigger, from_size, to_size) == expected


@pytest.mark.parametrize("size", range(1, 40))
def test_a_scaled_patch_has_the_nearest_share_of_the_area(size: int) -> None:
    found = scaled(Patch(size), 224, 32)
    assert isinstance(found, Patch)
    errors = {side: abs(side**2 / 32**2 - size**2 / 224**2) for side in range(1, 32)}
    assert errors[found.size] == min(errors.values())


def test_tensors_at_other_sizes() -> None:
    half = scaled(MaskedPattern(torch.full((1, 8, 8), 0.5), torch.full((3, 8, 8), 0.2)), 8, 4)
    assert isinstance(half, MaskedPattern)
    torch.testing.assert_close(half.mask, torch.full((1, 4, 4), 0.5))
    torch.testing.assert_close(half.pattern, torch.full((3, 4, 4), 0.2))
    for norm, epsilon, expected in (("linf", 8 / 255, 8 / 255), ("l2", 0.5, 1.0)):
        found = scaled(Universal(DELTA, norm, epsilon), 8, 16)  # type: ignore[arg-type]
        assert isinstance(found, Universal)
        assert found.delta.shape == (3, 16, 20)
        assert found.epsilon == expected
        assert (found.norm, bool(found.delta.any())) == (norm, True)


@pytest.mark.parametrize(
    ("mask", "pattern"), [(1.2, 0.5), (0.5, 1.2), (-0.1, 0.5), (0.5, torch.nan)]
)
def test_values_outside_the_range_are_refused(mask: float, pattern: float) -> None:
    with pytest.raises(InputError, match=r"Expected a (mask|pattern) in \[0, 1\], got values from"):
        MaskedPattern(torch.full((1, 8, 8), mask), torch.full((3, 8, 8), pattern))


@pytest.mark.parametrize(("from_size", "to_size"), [(0, 32), (32, 0), (-1, 32)])
def test_sizes_that_are_none_are_refused(from_size: int, to_size: int) -> None:
    with pytest.raises(InputError, match=f"1 pixel or more, got {from_size} and {to_size}. Give"):
        scaled(Patch(), from_size, to_size)


def test_tensors_of_another_size_are_refused() -> None:
    with pytest.raises(InputError, match=r"of 224 pixels, got delta of \(8, 10\)\. Give"):
        scaled(Universal(DELTA), 224, 32)
