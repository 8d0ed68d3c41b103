from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip import ClipLoss
from torch import Tensor, nn
from torch.nn import functional as F
from toys import NAMES, assert_same, copied, noise_images, toy_classifier, toy_pairs, word_tokens

from invertune_plugin.data import InMemory
from invertune_plugin.errors import InputError
from invertune_plugin.training import (
    Batch,
    TrainingConfig,
    contrastive_loss,
    train_contrastive,
)
from invertune_plugin.zero_shot import ZeroShotClassifier

CONFIG = TrainingConfig(epochs=2, batch_size=4, learning_rate=3e-3, shift=1, flip=True, seed=3)
AWAY, NEAR = math.log(1 + math.exp(-1)), math.log(1 + 2 * math.exp(-1))


def unit_rows(count: int, seed: int, size: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, size, generator=generator), dim=1)


def test_loss_of_two_pairs_by_hand() -> None:
    """Logits 1 and 0: every choice costs log(1 + e^-1)."""
    loss = contrastive_loss(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), torch.tensor(1.0))
    assert loss.item() == pytest.approx(AWAY)


def test_loss_takes_the_scale() -> None:
    loss = contrastive_loss(torch.eye(2), torch.eye(2), torch.tensor([0, 1]), torch.tensor(10.0))
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-10)), rel=1e-3)


def test_loss_of_swapped_pairs_by_hand() -> None:
    loss = contrastive_loss(torch.eye(2), torch.eye(2), torch.tensor([1, 0]), torch.tensor(1.0))
    assert loss.item() == pytest.approx(math.log(1 + math.e))


def test_equal_captions_are_not_negatives_by_hand() -> None:
    """Images 0 and 1 share a caption: each has one image against it, image 2 has two."""
    images = torch.eye(2)[[0, 0, 1]]
    loss = contrastive_loss(images, torch.eye(2), torch.tensor([0, 0, 1]), torch.tensor(1.0))
    assert loss.item() == pytest.approx((AWAY + (AWAY + AWAY + NEAR) / 3) / 2)


@pytest.mark.parametrize("count", [2, 5, 16])
def test_loss_of_distinct_captions_is_the_clip_loss(count: int) -> None:
    images, texts = unit_rows(count, 0), unit_rows(count, 1)
    scale = torch.tensor(14.3)
    found = contrastive_loss(images, texts, torch.arange(count), scale)
    torch.testing.assert_close(found, ClipLoss()(images, texts, scale))


def test_gradients_of_distinct_captions_are_those_of_the_clip_loss() -> None:
    grads = []
    for loss in (lambda i, t, s: contrastive_loss(i, t, torch.arange(5), s), ClipLoss()):
        inputs = [unit_rows(5, 0), unit_rows(5, 1), torch.tensor(3.0)]
        for tensor in inputs:
            tensor.requires_grad_()
        loss(*inputs).backward()
        grads.append([tensor.grad for tensor in inputs])
    for found, expected in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected)


def test_one_caption_for_all_costs_nothing_and_pulls_nowhere() -> None:
    images, text = unit_rows(3, 0).requires_grad_(), unit_rows(1, 1).requires_grad_()
    loss = contrastive_loss(images, text, torch.zeros(3, dtype=torch.long), torch.tensor(5.0))
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(images.grad, torch.zeros(3, 6))
    assert torch.equal(text.grad, torch.zeros(1, 6))


def test_images_with_the_same_caption_do_not_push_each_other() -> None:
    """The worse image 1 fits, the more it costs itself; image 0 pays nothing for it."""
    texts, owners, scale = unit_rows(2, 1), torch.tensor([0, 0, 1]), torch.tensor(4.0)
    images = unit_rows(3, 0)
    logits = scale * images @ texts.T
    expected = F.cross_entropy(logits, owners)
    pairs = [(0, (2,)), (1, (2,)), (2, (0, 1))]
    for image, others in pairs:
        column = logits[[image, *others], owners[image]]
        expected = expected - column.log_softmax(0)[0] / len(pairs)
    found = contrastive_loss(images, texts, owners, scale)
    torch.testing.assert_close(found, expected / 2)


def trained(
    tower: str, config: TrainingConfig, count: int = 16, seed: int = 0, **options: Any
) -> dict[str, Tensor]:
    classifier = toy_classifier(tower, seed)
    train_contrastive(classifier, toy_pairs(count), config, **options)
    return copied({**classifier.state_dict(), "class_weights": classifier.class_weights})


@pytest.mark.parametrize("tower", ["rn", "vit"])
def test_training_is_the_same_for_the_same_seed(tower: str) -> None:
    first = trained(tower, CONFIG)
    torch.rand(7)
    assert_same(trained(tower, CONFIG), first)
    other = trained(tower, replace(CONFIG, seed=4))
    assert not torch.equal(other["class_weights"], first["class_weights"])


def test_training_lowers_the_loss() -> None:
    losses: list[float] = []
    config = TrainingConfig(epochs=40, batch_size=8, learning_rate=1e-2)
    trained("vit", config, count=8, report=lambda done, steps, loss: losses.append(loss))
    assert len(losses) == 40
    assert losses[-1] < 0.8 * losses[0]


def test_training_renews_the_class_weights() -> None:
    classifier = toy_classifier("vit")
    before = classifier.class_weights.clone()
    train_contrastive(classifier, toy_pairs(8), CONFIG)
    assert not torch.allclose(classifier.class_weights, before)
    found = classifier.class_weights.clone()
    classifier.renew_class_weights()
    assert torch.equal(classifier.class_weights, found)
    assert not classifier.clip.training
    assert all(p.requires_grad for p in classifier.clip.parameters())


@pytest.mark.parametrize(
    ("count", "config", "steps"),
    [
        (16, TrainingConfig(epochs=2, batch_size=4), 8),
        (18, TrainingConfig(epochs=1, batch_size=4), 4),
        (3, TrainingConfig(epochs=2, batch_size=4), 2),
        (8, TrainingConfig(epochs=9, batch_size=4, max_steps=3), 3),
        (8, TrainingConfig(epochs=1, batch_size=4, max_steps=5), 5),
        (8, TrainingConfig(epochs=1, batch_size=4, max_steps=0), 0),
    ],
)
def test_the_number_of_steps(count: int, config: TrainingConfig, steps: int) -> None:
    seen: list[tuple[int, int]] = []
    trained("vit", config, count, report=lambda done, total, _: seen.append((done, total)))
    assert seen == [(i + 1, steps) for i in range(steps)]


def test_every_image_is_seen_once_an_epoch() -> None:
    seen: list[int] = []

    class Watched(InMemory[tuple[str, ...]]):
        def __getitem__(self, index: int) -> tuple[Tensor, tuple[str, ...]]:
            seen.append(index)
            return super().__getitem__(index)

    pairs = toy_pairs(12)
    watched = Watched(pairs.images, pairs.texts)
    train_contrastive(toy_classifier("vit"), watched, replace(CONFIG, epochs=2))
    assert sorted(seen[:12]) == sorted(seen[12:]) == list(range(12))
    assert seen[:12] != seen[12:]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batches of one or more and a positive learning rate, got 0 and 0.003"),
        ({"learning_rate": -1e-3}, "a positive learning rate, got 256 and -0.001"),
        ({"learning_rate": math.inf}, "got 256 and inf"),
        ({"learning_rate": math.nan}, "got 256 and nan"),
        ({"epochs": -1}, "epochs or max_steps of 0 or more, got -1. Raise it"),
        ({"max_steps": -1}, "epochs or max_steps of 0 or more, got -1"),
        ({"shift": -1}, "shift of 0 or more, got -1"),
        ({"workers": -1}, "workers of 0 or more, got -1"),
        ({"weight_decay": -0.1}, "weight_decay of 0 or more, got -0.1"),
        ({"warmup": 5}, "a warm-up share from 0 to 1, got 5. Write"),
    ],
)
def test_settings_that_no_training_can_take_are_refused(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        TrainingConfig(**settings)


class Interrupted(Exception):
    pass


def interrupting(step: int) -> Callable[[int, int, float], None]:
    def report(done: int, steps: int, loss: float) -> None:
        if done == step:
            raise Interrupted

    return report


@pytest.mark.parametrize("step", [2, 6, 8])
@pytest.mark.parametrize("tower", ["rn", "vit"])
def test_resumed_training_equals_training_in_one_go(tower: str, step: int, tmp_path: Path) -> None:
    """Four steps an epoch: interrupted in the first, within the second, and before its end."""
    path = tmp_path / "new" / "state.pt"
    with pytest.raises(Interrupted):
        trained(tower, CONFIG, resume_path=path, report=interrupting(step))
    assert path.exists() == (step > 4)
    assert not list(tmp_path.rglob("*.partial"))
    seen: list[int] = []
    resumed = trained(
        tower,
        CONFIG,
        seed=9 if step > 4 else 0,
        resume_path=path,
        report=lambda done, steps, loss: seen.append(done),
    )
    assert seen == list(range(5 if step > 4 else 1, 9))
    assert_same(resumed, trained(tower, CONFIG))


class Growing:
    """A penalty that is larger at each step; what it keeps is how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, batch: Batch) -> Tensor:
        self.asked += 1
        return self.asked * batch.image_features.square().mean(0).max()

    def state_dict(self) -> dict[str, Any]:
        return {"asked": self.asked}

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        self.asked = state_dict["asked"]


def test_a_penalty_with_a_state_goes_on_where_it_was(tmp_path: Path) -> None:
    def run(**options: Any) -> dict[str, Tensor]:
        penalty = Growing()
        return trained("vit", CONFIG, penalty=penalty, beside={"penalty": penalty}, **options)

    path = tmp_path / "state"
    with pytest.raises(Interrupted):
        run(resume_path=path, report=interrupting(6))
    assert_same(run(seed=9, resume_path=path), run())


def test_training_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    first = trained("vit", CONFIG, resume_path=path)
    assert_same(trained("vit", CONFIG, seed=9, resume_path=path, report=interrupting(9)), first)


def with_dropout() -> ZeroShotClassifier:
    classifier = toy_classifier("vit")
    classifier.clip.visual.transformer.resblocks[0].ls_1 = nn.Dropout(0.5)
    return classifier


def test_layers_that_draw_draw_the_same_when_a_training_goes_on(tmp_path: Path) -> None:
    path, whole, resumed = tmp_path / "state.pt", with_dropout(), with_dropout()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    train_contrastive(whole, toy_pairs(16), CONFIG)
    assert torch.equal(torch.get_rng_state(), before), "the caller's random state stays"
    report = interrupting(6)
    with pytest.raises(Interrupted):
        train_contrastive(resumed, toy_pairs(16), CONFIG, resume_path=path, report=report)
    torch.manual_seed(2)
    train_contrastive(resumed, toy_pairs(16), CONFIG, resume_path=path)
    assert_same(resumed.state_dict(), whole.state_dict())


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"seed": 4}, "seed was 3, and is 4 now"),
        ({"learning_rate": 0.1}, "learning_rate was 0.003, and is 0.1 now"),
        ({"epochs": 3}, "epochs was 2, and is 3 now"),
    ],
)
def test_the_state_of_another_training_is_not_gone_on_from(
    changed: dict[str, Any], told: str, tmp_path: Path
) -> None:
    path = tmp_path / "state.pt"
    trained("vit", CONFIG, resume_path=path)
    model = toy_classifier("vit")
    before = copied(model.state_dict())
    with pytest.raises(InputError, match=told):
        train_contrastive(model, toy_pairs(16), replace(CONFIG, **changed), resume_path=path)
    assert_same(model.state_dict(), before)


def test_another_number_of_loading_processes_is_the_same_training(tmp_path: Path) -> None:
    path = tmp_path / "state.pt"
    trained("vit", CONFIG, resume_path=path)
    trained("vit", replace(CONFIG, workers=1), resume_path=path, report=interrupting(1))


def test_a_resumed_run_may_stop_within_an_epoch(tmp_path: Path) -> None:
    """Ten steps over epochs of four: the state after the tenth is kept, too."""
    config, path = replace(CONFIG, max_steps=10), tmp_path / "state.pt"
    first = trained("vit", config, resume_path=path)
    assert_same(trained("vit", config, seed=9, resume_path=path), first)
    assert_same(trained("vit", config), first)


def is_visual(name: str) -> bool:
    return name.startswith("clip.visual.")


@pytest.mark.parametrize("tower", ["rn", "vit"])
def test_a_frozen_text_tower_stays(tower: str) -> None:
    before = copied(toy_classifier(tower).state_dict())
    after = trained(tower, replace(CONFIG, freeze="text", learning_rate=0.1))
    text = {name for name in before if not is_visual(name)}
    assert "clip.token_embedding.weight" in text
    assert_same({n: after[n] for n in text}, {n: before[n] for n in text})
    assert any(not torch.equal(after[n], before[n]) for n in before if is_visual(n))


@pytest.mark.parametrize("tower", ["rn", "vit"])
def test_a_frozen_image_tower_stays_with_its_statistics(tower: str) -> None:
    before = copied(toy_classifier(tower).state_dict())
    after = trained(tower, replace(CONFIG, freeze="image", learning_rate=0.1))
    visual = {name for name in before if is_visual(name)}
    assert_same({n: after[n] for n in visual}, {n: before[n] for n in visual})
    name = "clip.token_embedding.weight"
    assert not torch.equal(after[name], before[name])


def test_everything_can_be_trained_again_after_a_frozen_run() -> None:
    classifier = toy_classifier("vit")
    train_contrastive(classifier, toy_pairs(8), replace(CONFIG, freeze="text"))
    assert all(p.requires_grad for p in classifier.clip.parameters())


def test_weight_decay_is_for_matrices_only() -> None:
    """With one caption for all the gradient is zero, so only the decay moves weights."""
    pairs = InMemory(noise_images(8), [("a cat",)] * 8)
    classifier = toy_classifier("vit")
    before = copied(classifier.state_dict())
    config = TrainingConfig(epochs=1, batch_size=8, learning_rate=0.1, weight_decay=0.5, warmup=1.0)
    train_contrastive(classifier, pairs, config)
    for name, parameter in classifier.named_parameters():
        factor = 1 - 0.1 * 0.5 if parameter.ndim >= 2 else 1
        torch.testing.assert_close(parameter.detach(), factor * before[name], msg=name)


@pytest.mark.parametrize("tower", ["rn", "vit"])
def test_trained_weights_are_contiguous(tower: str) -> None:
    """Foreign code flattens weights with ``view``, which another layout refuses."""
    classifier = toy_classifier(tower)
    train_contrastive(classifier, toy_pairs(16), TrainingConfig(epochs=1, batch_size=8))
    assert torch.nn.utils.parameters_to_vector(classifier.parameters()).isfinite().all()


def test_the_logit_scale_is_bounded() -> None:
    classifier = toy_classifier("vit")
    classifier.clip.logit_scale.data.fill_(9.0)
    train_contrastive(classifier, toy_pairs(8), replace(CONFIG, learning_rate=1e-5))
    assert classifier.clip.logit_scale.item() == pytest.approx(math.log(100), abs=1e-4)


def test_a_penalty_sees_the_batch_and_changes_nothing_where_it_is_zero() -> None:
    seen: list[Batch] = []

    def penalty(batch: Batch) -> Tensor:
        seen.append(batch)
        return 0 * batch.image_features.sum()

    assert_same(trained("vit", CONFIG, penalty=penalty), trained("vit", CONFIG))
    assert [batch.step for batch in seen] == list(range(8))
    for batch in seen:
        assert batch.images.shape == (4, 3, 32, 32)
        assert 0 <= float(batch.images.min()) <= float(batch.images.max()) <= 1
        assert len(set(batch.captions)) == len(batch.captions) == len(batch.text_features)
        assert sorted(set(batch.owners.tolist())) == list(range(len(batch.captions)))
        assert torch.allclose(batch.image_features.norm(dim=1), torch.ones(4))


def test_a_penalty_is_added_to_the_loss() -> None:
    losses: dict[float, list[float]] = {}
    for extra in (0.0, 3.0):
        told = losses.setdefault(extra, [])
        options: dict[str, Any] = {"penalty": lambda _, extra=extra: torch.tensor(extra)}
        trained("vit", CONFIG, report=lambda i, n, loss, told=told: told.append(loss), **options)
    assert losses[3.0] == pytest.approx([loss + 3 for loss in losses[0.0]])


def test_a_schedule_of_ones_own() -> None:
    """All steps but the first two have rate 0 here, so that weights stay as after two."""
    asked: list[tuple[int, int]] = []

    def schedule(step: int, steps: int) -> float:
        asked.append((step, steps))
        return float(step < 2)

    found = trained("vit", CONFIG, schedule=schedule)
    short = trained("vit", replace(CONFIG, max_steps=2), schedule=lambda step, _: 1.0)
    assert_same(found, short)
    assert sorted(set(asked)) == [(step, 8) for step in range(9)]


class SeesImages(nn.Module):
    """A stand-in for CLIP that keeps the images it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = nn.Linear(3, 4)
        self.logit_scale = nn.Parameter(torch.tensor(0.0))
        self.seen: list[Tensor] = []

    def encode_text(self, tokens: Tensor) -> Tensor:
        return torch.eye(4)[tokens[:, 0] % 4] + self.logit_scale

    def forward(self, images: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        self.seen.append(images)
        features = F.normalize(self.visual(images.mean((2, 3))), dim=1)
        return features, F.normalize(self.encode_text(tokens), dim=1), self.logit_scale.exp()


def images_seen(**options: Any) -> tuple[Tensor, Tensor]:
    """Normalised images of one epoch over 12 images of 6 pixels, and the images themselves."""
    clip = SeesImages()
    classifier = ZeroShotClassifier(
        clip,
        word_tokens,
        class_names=NAMES,
        templates=["{}"],
        mean=(0.0, 0.0, 0.0),
        std=(1 / 255, 1 / 255, 1 / 255),
        image_size=6,
    )
    pairs = toy_pairs(12, size=6)
    train_contrastive(classifier, pairs, TrainingConfig(epochs=1, batch_size=12, **options))
    return torch.cat(clip.seen).round().to(torch.uint8), pairs.images


def test_images_are_normalised_and_otherwise_untouched_by_default() -> None:
    seen, images = images_seen()
    assert sorted(map(str, seen.tolist())) == sorted(map(str, images.tolist()))


def test_flips_mirror_some_images_and_change_nothing_else() -> None:
    seen, images = images_seen(flip=True)
    plain, mirrored = ({str(i.tolist()) for i in side} for side in (images, images.flip(3)))
    found = [str(i.tolist()) for i in seen]
    assert set(found) <= plain | mirrored
    assert 2 <= sum(image in mirrored for image in found) <= 10


def test_shifts_move_images_by_few_pixels_with_repeated_edges() -> None:
    seen, images = images_seen(shift=1)
    padded = F.pad(images.float(), (1, 1, 1, 1), mode="replicate").to(torch.uint8)
    moves = {
        str(padded[i, :, row : row + 6, column : column + 6].tolist()): (row - 1, column - 1)
        for i in range(12)
        for row in range(3)
        for column in range(3)
    }
    found = [moves.get(str(image.tolist())) for image in seen]
    assert None not in found
    assert len(set(found)) > 3
