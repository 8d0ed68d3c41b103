"""What is special about each repair, by hand where it can be."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import NAMES, noise_images, toy_classifier

from invertune_plugin.data import InMemory, to_unit
from invertune_plugin.defenses.baselines.clean_clip import (
    CleanClip,
    in_modal_loss,
    in_modal_penalty,
)
from invertune_plugin.defenses.baselines.linear_probe import LinearProbe, fitted_head, linear_probe
from invertune_plugin.defenses.baselines.par import Par, distance, falling, push_away, pushed
from invertune_plugin.defenses.baselines.prompts import PromptedBlock, add_prompts
from invertune_plugin.defenses.baselines.rvpt import Rvpt, few_of_each, prompt_loss, rvpt
from invertune_plugin.defenses.baselines.views import ImageViews, augmented_caption, image_views
from invertune_plugin.defenses.repair import DefenderData
from invertune_plugin.errors import InputError
from invertune_plugin.metrics import predict
from invertune_plugin.training import Batch, stream

ONE = torch.tensor(1.0)
CAPTION = "a small brown dog sits on the old red sofa beside a window"


def test_in_modal_loss_of_two_by_hand() -> None:
    """Cosines 1 and 0: every choice costs log(1 + e^-1); with swapped views log(1 + e)."""
    found = in_modal_loss(torch.eye(2), torch.eye(2), ONE)
    assert found.item() == pytest.approx(math.log(1 + math.exp(-1)))
    found = in_modal_loss(torch.eye(2), torch.eye(2).flip(0), ONE)
    assert found.item() == pytest.approx(math.log(1 + math.e))
    found = in_modal_loss(torch.eye(2), torch.eye(2), torch.tensor(10.0))
    assert found.item() == pytest.approx(math.log(1 + math.exp(-10)), rel=1e-3)


class Same:
    """A model whose embeddings are given."""

    def __init__(self, images: Tensor, texts: Tensor) -> None:
        self.images, self.texts = images, texts

    def encode_image(self, _: Tensor) -> Tensor:
        return self.images

    def encode_text(self, captions: list[str]) -> Tensor:
        assert len(captions) == len(self.texts)
        return self.texts


def batch_of(images: Tensor, texts: Tensor, owners: list[int], step: int = 0) -> Batch:
    captions = [f"a number {i}" for i in range(len(texts))]
    pixels = torch.rand(len(images), 3, 8, 8)
    return Batch(images, texts, torch.tensor(owners), ONE, captions, pixels, step)


def test_clean_clip_adds_half_of_each_in_modal_loss() -> None:
    """Own views for images (log(1 + e^-1)), swapped views for captions (log(1 + e))."""
    eye = torch.eye(2)
    penalty = in_modal_penalty(Same(eye, eye.flip(0)), CleanClip(in_modal_weight=3.0), 0)
    expected = 3 * (math.log(1 + math.exp(-1)) + math.log(1 + math.e)) / 2
    assert penalty(batch_of(eye, eye, [0, 1])).item() == pytest.approx(expected)


@pytest.mark.parametrize("settings", [{}, {"flip": True}, {"shift": 2}], ids=str)
def test_clean_clip_does_not_draw_the_augmentation_again(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without augmentation the views are drawn as they were when they were measured."""
    seeds: list[int] = []

    def views(images: Tensor, _: ImageViews, generator: torch.Generator) -> Tensor:
        seeds.append(generator.initial_seed())
        return images

    monkeypatch.setattr("invertune_plugin.defenses.baselines.clean_clip.image_views", views)
    penalty = in_modal_penalty(Same(torch.eye(2), torch.eye(2)), CleanClip(**settings), 5)
    penalty(batch_of(torch.eye(2), torch.eye(2), [0, 1], step=7))
    assert (seeds == [5 * 100_003 + 7]) == (not settings)
    assert stream(5, 7) == 5 * 100_003 + 7


def test_one_caption_in_a_batch_has_no_other_to_be_told_from() -> None:
    assert in_modal_loss(torch.eye(2)[:1], torch.eye(2)[:1], ONE).item() == 0


def test_par_distance_by_hand() -> None:
    """Orthogonal unit vectors are 2 apart, opposite ones 4."""
    eye = torch.eye(2)
    assert distance(eye, eye).item() == 0
    assert distance(eye, eye.flip(0)).item() == 2
    assert distance(eye, torch.stack([eye[0], -eye[1]])).item() == 2
    assert distance(eye, -eye).item() == 4


def test_par_stops_pushing_above_tau() -> None:
    found = torch.tensor([2.0, 2.15, 2.2], requires_grad=True)
    kept = pushed(found, 2.15)
    assert kept.tolist() == pytest.approx([2.0, 2.15, 0.0])
    kept.sum().backward()
    assert found.grad is not None
    assert found.grad.tolist() == [1, 1, 0]


def test_par_penalty_by_hand() -> None:
    """Images are 2 away; of three, two have caption 0 (2 away) and one caption 1 (0 away)."""
    eye = torch.eye(2)
    owners = [0, 0, 1]
    poisoned = Same(eye.flip(0)[owners], torch.stack([eye[1], eye[1]]))
    batch = batch_of(eye[owners], eye, owners)
    penalty = push_away(poisoned, Par())
    assert penalty(batch).item() == pytest.approx(-0.5 * (2 + 4 / 3))
    penalty = push_away(poisoned, Par(tau=1.5, push=1.0))
    assert penalty(batch).item() == pytest.approx(-4 / 3)


def test_par_rate_falls_from_ten_times_its_own_and_then_to_zero() -> None:
    factor = falling(10.0, 0.5)
    found = [factor(step, 20) for step in range(21)]
    assert found[0] == 10
    assert found[9] == found[10] == 1
    assert found[3] == pytest.approx(7)
    assert found[15] == pytest.approx(0.5)
    assert found[20] == pytest.approx(0)
    assert found == sorted(found, reverse=True)
    assert [falling(10.0, 0.5)(step, 1) for step in range(2)] == [1, 0]


@pytest.mark.parametrize("seed", range(50))
def test_an_augmented_caption_has_no_new_word(seed: int) -> None:
    found = augmented_caption(CAPTION, random.Random(seed), 0.3)
    assert found
    assert set(found.split()) <= set(CAPTION.split())
    assert abs(len(found.split()) - len(CAPTION.split())) <= 4


def test_captions_are_swapped_shortened_and_lengthened() -> None:
    words = random.Random(0)
    found = {augmented_caption("one two three", words) for _ in range(200)}
    assert {"two one three", "one three", "one two three one"} <= found
    assert augmented_caption("one", words) == "one"
    assert augmented_caption("", words) == ""


@pytest.mark.parametrize("size", [32, 48, 224])
def test_image_views_are_images_of_the_same_size(size: int) -> None:
    images = to_unit(noise_images(4, size))
    views = image_views(images, ImageViews(), torch.Generator().manual_seed(0))
    assert views.shape == images.shape
    assert 0 <= float(views.min()) < float(views.max()) <= 1
    assert all(not torch.equal(a, b) for a, b in zip(views, images, strict=True))
    again = image_views(images, ImageViews(), torch.Generator().manual_seed(0))
    assert torch.equal(views, again)


def test_a_whole_view_in_its_own_colours_is_the_image_or_its_mirror() -> None:
    images = to_unit(noise_images(16))
    views = image_views(images, ImageViews(crop=1.0, colour=0.0), torch.Generator().manual_seed(1))
    plain = [torch.allclose(v, i, atol=1e-4) for v, i in zip(views, images, strict=True)]
    mirrored = [torch.allclose(v, i.flip(2), atol=1e-4) for v, i in zip(views, images, strict=True)]
    assert all(a != b for a, b in zip(plain, mirrored, strict=True))
    assert 2 < sum(plain) < 14


def test_separated_features_are_told_apart() -> None:
    centres = torch.eye(4)
    labels = [i % 4 for i in range(40)]
    noise = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    head = fitted_head(centres[labels] + 0.1 * noise, labels, LinearProbe())
    assert head(centres).argmax(1).tolist() == [0, 1, 2, 3]
    two = fitted_head(centres[[0, 1, 0, 1]], [0, 1, 0, 1], LinearProbe())
    assert two(centres[:2]).argmax(1).tolist() == [0, 1]
    assert torch.allclose(two.weight[0], -two.weight[1])


def coloured(count: int = 32) -> InMemory[int]:
    """Noise with one bright channel per class; the fourth has none."""
    images = noise_images(count) // 4
    labels = [i % len(NAMES) for i in range(count)]
    for image, label in zip(images, labels, strict=True):
        image[: max(0, 3 - label)] += 150
    return InMemory(images, labels)


@pytest.mark.parametrize("tower", ["rn", "vit"])
def test_a_linear_probe_learns_the_images_and_leaves_the_tower(tower: str) -> None:
    suspect, images = toy_classifier(tower), coloured()
    settings = LinearProbe(inverse_strength=1e6)
    found = linear_probe(suspect, DefenderData(images=images), settings).classifier
    right = predict(found, to_unit(images.images)) == torch.tensor(images.texts)
    assert right.float().mean() > 0.9
    before = suspect.state_dict()
    assert all(torch.equal(t, before[n]) for n, t in found.encoder.state_dict().items())
    assert found.class_index("ring") == 2


def test_a_linear_probe_needs_images_of_every_class() -> None:
    images = InMemory(noise_images(6), [0, 1, 3, 0, 1, 3])
    with pytest.raises(InputError, match=r"each of the 4 classes .* got none of ring"):
        linear_probe(toy_classifier("vit"), DefenderData(images=images))


def test_prompt_loss_by_hand() -> None:
    found = prompt_loss(torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor([1.0, 0.5]), 2.0)
    assert found.item() == pytest.approx(math.log(2) + 2 * 0.75)


def test_few_of_each() -> None:
    labels = [0] * 10 + [1] * 2
    chosen = few_of_each(labels, 3, torch.Generator().manual_seed(0))
    assert sorted(labels[i] for i in chosen) == [0, 0, 0, 1, 1]
    assert len(set(chosen)) == 5


class Sum(nn.Module):
    """A block that adds up all tokens and tells each; the batch is on the other axis."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, tokens: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        return tokens.sum(self.axis, keepdim=True).expand_as(tokens)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_prompted_block_reads_prompts_and_puts_out_none(axis: int) -> None:
    prompts = torch.tensor([[10.0], [20.0]])
    block = PromptedBlock(Sum(axis), prompts, axis)
    tokens = torch.tensor([[[1.0], [2.0], [3.0]], [[4.0], [5.0], [6.0]]])
    found = block(tokens if axis else tokens.transpose(0, 1), attn_mask=None)
    found = found if axis else found.transpose(0, 1)
    assert found[:, :, 0].tolist() == [[36.0] * 3, [45.0] * 3]


def test_prompts_are_the_only_new_weights_and_are_trained() -> None:
    suspect, images = toy_classifier("vit", layers=4), coloured()
    settings = Rvpt(shots=4, length=5, epochs=3, batch_size=8)
    found = rvpt(suspect, DefenderData(images=images), settings)
    after = found.classifier.state_dict()
    prompts = {name: after.pop(name) for name in list(after) if name.endswith(".prompts")}
    assert len(prompts) == 3, "a quarter of four blocks has none"
    assert all(t.shape == (5, 16) and not torch.equal(t, 0 * t) for t in prompts.values())
    plain = {name.replace(".block.", "."): tensor for name, tensor in after.items()}
    before = suspect.state_dict()
    assert plain.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in plain.items())
    assert found.stages[0].evidence["first_block"] == 1
    start = rvpt(suspect, DefenderData(images=images), Rvpt(4, 5, epochs=1, learning_rate=1e-12))
    began = start.classifier.state_dict()
    assert all(not torch.equal(tensor, began[name]) for name, tensor in prompts.items())


def test_prompts_repel_the_embeddings() -> None:
    suspect, images = toy_classifier("vit", layers=2), coloured()
    pixels = to_unit(images.images)
    settings = Rvpt(length=8, epochs=30, batch_size=32, learning_rate=0.1)
    cosines = []
    for repulsion in (0.0, 20.0):
        given = DefenderData(images=images)
        options = Rvpt(**{**settings.__dict__, "repulsion": repulsion})
        found = rvpt(suspect, given, options).classifier
        with torch.no_grad():
            moved, still = found.encode_image(pixels), suspect.encode_image(pixels)
        cosines.append(float((moved * still).sum(1).mean()))
    assert cosines[1] < cosines[0] - 0.05


def test_the_first_block_with_prompts() -> None:
    assert [Rvpt().first_of(blocks) for blocks in (1, 2, 4, 12, 24)] == [0, 0, 1, 3, 3]
    assert Rvpt(first_block=0).first_of(12) == 0
    with pytest.raises(InputError, match="first_block from 0 to 3 for this tower, got 4"):
        Rvpt(first_block=4).first_of(4)


def test_old_towers_have_the_batch_on_the_second_axis() -> None:
    classifier = toy_classifier("vit", layers=2)
    with torch.no_grad():
        expected = classifier.encode_image(torch.zeros(2, 3, 32, 32))
        transformer = classifier.visual.transformer
        transformer.batch_first = False
        for block in transformer.resblocks:
            block.attn.batch_first = False
        made = add_prompts(classifier, 1, 3, torch.Generator())
        found = classifier.encode_image(torch.zeros(2, 3, 32, 32))
    assert len(made) == 1
    assert found.shape == expected.shape
