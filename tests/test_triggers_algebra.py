"""What holds for every trigger."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from trigger_table import (
    ALL,
    CHANGES,
    HEIGHT,
    OTHER_PICTURE,
    PLAIN,
    WIDTH,
    byte_images,
    every,
    every_plain,
    unit_images,
)

from invertune_plugin.data import to_unit
from invertune_plugin.triggers import (
    DIFFERENTIABLE,
    STORED,
    TRIGGERS,
    Blend,
    BlendStripes,
    Chain,
    Overlay,
    Patch,
    Sinusoid,
    Trigger,
    scaled,
)

quick = settings(deadline=None, max_examples=60)
OVERLAYS = {name: trigger for name, trigger in ALL.items() if isinstance(trigger, Overlay)}
NOT_SHAPING = {"blend-picture": {"path", "sha256"}}


def edge_images() -> torch.Tensor:
    """Random, black and white images."""
    size = (1, 3, HEIGHT, WIDTH)
    return torch.cat([unit_images(3), torch.zeros(size), torch.ones(size)])


def test_every_kind_is_in_the_table() -> None:
    assert {trigger.kind for trigger in ALL.values()} == (TRIGGERS | STORED).keys()
    assert {ALL[name].kind for name in CHANGES} == (TRIGGERS | STORED).keys()


@every
def test_values_stay_in_range_and_the_input_is_not_touched(trigger: Trigger) -> None:
    for dtype in (torch.float32, torch.float64):
        images = edge_images().to(dtype)
        before = images.clone()
        triggered = trigger(images)
        assert triggered.shape == images.shape
        assert triggered.dtype == dtype
        assert triggered.min() >= 0
        assert triggered.max() <= 1
        assert torch.equal(images, before)


@quick
@given(
    name=st.sampled_from(sorted(PLAIN)),
    height=st.integers(8, 40),
    width=st.integers(10, 40),
    seed=st.integers(0, 1000),
)
def test_values_stay_in_range_at_every_size(name: str, height: int, width: int, seed: int) -> None:
    triggered = PLAIN[name](unit_images(2, seed, height, width))
    assert triggered.shape == (2, 3, height, width)
    assert triggered.min() >= 0
    assert triggered.max() <= 1


@every
def test_a_trigger_changes_the_image(trigger: Trigger) -> None:
    changed = (trigger(unit_images(3)) != unit_images(3)).flatten(1).any(1)
    assert changed.all() != (trigger == Chain())


@every
def test_same_keys_same_result_whatever_the_global_seed(trigger: Trigger) -> None:
    images, keys = unit_images(6), torch.tensor([3, 99, 0, 12, 7, 2**40])
    torch.manual_seed(0)
    first = trigger(images, keys)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(trigger(images, keys), first)
    assert torch.equal(torch.get_rng_state(), state)


@every
def test_the_same_key_has_the_same_effect(trigger: Trigger) -> None:
    images = unit_images(1).expand(4, -1, -1, -1)
    first, *others = trigger(images, torch.full((4,), 17))
    assert all(torch.equal(first, other) for other in others)


@every
def test_a_batch_is_its_images_one_by_one(trigger: Trigger) -> None:
    images, keys = unit_images(5), torch.tensor([4, 4, 8, 15, 16])
    alone = [trigger(images[i : i + 1], keys[i : i + 1]) for i in range(5)]
    assert torch.equal(trigger(images, keys), torch.cat(alone))


@every
def test_an_empty_batch_stays_empty(trigger: Trigger) -> None:
    assert trigger(unit_images(0)).shape == (0, 3, HEIGHT, WIDTH)


@every
def test_the_order_in_memory_does_not_matter(trigger: Trigger) -> None:
    images = unit_images(3)
    last = images.contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(trigger(last), trigger(images), atol=1e-6, rtol=0)


@every
def test_keys_count_up_by_default(trigger: Trigger) -> None:
    images = unit_images(5)
    assert torch.equal(trigger(images), trigger(images, torch.arange(5)))


@every
def test_bytes_are_the_floats_rounded(trigger: Trigger) -> None:
    images = byte_images(4)
    before = images.clone()
    found = trigger.on_bytes(images)
    assert found.dtype == torch.uint8
    assert torch.equal(images, before)
    assert (found.float() - trigger(to_unit(images)) * 255).abs().max() <= 0.5 + 1e-4


@every
def test_the_pil_view_is_the_byte_view(trigger: Trigger) -> None:
    pixels = byte_images(1)
    image = Image.fromarray(pixels[0].permute(1, 2, 0).contiguous().numpy())
    found = trigger.on_pil(image, key=11)
    assert found.mode == "RGB"
    assert found.size == (WIDTH, HEIGHT)
    expected = trigger.on_bytes(pixels, torch.tensor([11]))[0].permute(1, 2, 0)
    assert np.array_equal(np.array(found), expected.numpy())


@every
def test_gradients_flow_where_they_are_said_to(trigger: Trigger) -> None:
    images = edge_images().requires_grad_()
    triggered = trigger(images)
    parts_flow = any(part.differentiable for part in getattr(trigger, "parts", ()))
    if not trigger.differentiable and not parts_flow:
        assert not triggered.requires_grad
        return
    if trigger.differentiable:
        triggered.sum().backward()
        assert images.grad is not None
        assert images.grad.isfinite().all()
        assert images.grad[:3].abs().sum() > 0


def test_the_table_of_gradients() -> None:
    assert [name for name, flows in DIFFERENTIABLE.items() if not flows] == ["jpeg"]
    assert DIFFERENTIABLE.keys() == (TRIGGERS | STORED).keys()
    assert ALL["chain"].differentiable
    assert not ALL["chain-jpeg"].differentiable
    assert not ALL["pick"].differentiable
    assert ALL["pick-chain"].differentiable


def test_a_chain_with_jpeg_passes_no_gradient() -> None:
    assert not ALL["chain-jpeg"](unit_images(2).requires_grad_()).requires_grad


@every
def test_gradients_flow_after_use_in_inference_mode(trigger: Trigger) -> None:
    fixed = bool(trigger.tensors())
    images = unit_images(2) if fixed else unit_images(2, 0, HEIGHT + 3, WIDTH + 2)
    with torch.inference_mode():
        first = trigger(images)
    again = trigger(images.requires_grad_())
    assert torch.equal(again, first)
    if trigger.differentiable:
        again.sum().backward()


@pytest.mark.parametrize("trigger", OVERLAYS.values(), ids=OVERLAYS.keys())
def test_an_overlay_is_its_layer(trigger: Overlay) -> None:
    images = edge_images()
    picture, weight = trigger.layer(HEIGHT, WIDTH)
    assert picture.shape == images.shape[1:]
    assert weight.shape == (1, HEIGHT, WIDTH)
    assert weight.min() >= 0
    assert 0 < weight.max() <= 1
    lowest = -1 if isinstance(trigger, BlendStripes) else 0
    assert lowest <= picture.min()
    assert picture.max() <= 1
    found = trigger(images)
    expected = (images + weight * (picture - images)).clamp(0, 1).float()
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    outside = (weight == 0).expand_as(images)
    assert torch.equal(found[outside], images[outside])


@every
def test_parameters_are_json_and_shape_the_fingerprint(trigger: Trigger) -> None:
    parameters = json.loads(json.dumps(trigger.parameters()))
    assert parameters["kind"] == trigger.kind
    kind, _, digest = trigger.fingerprint().rpartition("-")
    assert kind == trigger.kind
    assert len(digest) == 12
    assert int(digest, 16) >= 0
    assert trigger.fingerprint() == trigger.fingerprint()


@pytest.mark.parametrize(("name", "changes"), CHANGES.items(), ids=CHANGES.keys())
def test_any_other_parameter_gives_another_fingerprint(name: str, changes: dict[str, Any]) -> None:
    trigger: Any = ALL[name]
    shaping = {field.name for field in fields(trigger)} - NOT_SHAPING.get(name, set())
    assert changes.keys() == shaping, "every parameter is tried"
    found = {trigger.fingerprint()}
    for parameter, value in changes.items():
        budget = {"epsilon": 0.6} if parameter == "norm" else {}
        found.add(replace(trigger, **{parameter: value}, **budget).fingerprint())
    assert len(found) == len(changes) + 1


def test_another_picture_is_another_trigger() -> None:
    other = replace(ALL["blend-picture"], path=OTHER_PICTURE, sha256=None)  # type: ignore[type-var]
    assert other.fingerprint() != ALL["blend-picture"].fingerprint()


@pytest.mark.parametrize(
    ("trigger", "fingerprint"),
    [
        (Patch(), "patch-f58a71cd54d8"),
        (Patch(place="random"), "patch-6deefc348cb2"),
        (Blend(), "blend-c5e5a0953d05"),
        (Sinusoid(), "sinusoid-9ee464da698c"),
        (Chain((Patch(), Blend())), "chain-9c344193b729"),
    ],
)
def test_fingerprints_by_which_trained_models_are_found_stay(
    trigger: Trigger, fingerprint: str
) -> None:
    assert trigger.fingerprint() == fingerprint


@every
def test_a_scale_of_one_changes_nothing(trigger: Trigger) -> None:
    size = HEIGHT if trigger.tensors() else 224
    same = scaled(trigger, size, size)
    assert same.parameters() == trigger.parameters()
    assert torch.equal(same(unit_images(2)), trigger(unit_images(2)))


@every_plain
def test_a_scaled_trigger_works_at_its_size(trigger: Trigger) -> None:
    for size in (4 * WIDTH, 16):
        found = scaled(trigger, WIDTH, size)(unit_images(2, 0, size, size))
        assert found.shape == (2, 3, size, size)
