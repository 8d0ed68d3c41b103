"""CLIP as a classifier: modes, and class weights that are kept between runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from toys import NAMES, toy_clip, word_tokens

from invertune_plugin.randomness import seeded
from invertune_plugin.zero_shot import ZeroShotClassifier


def classifier(clip: Any, cache: Path | None = None, tokens: Any = word_tokens) -> Any:
    return ZeroShotClassifier(
        clip,
        tokens,
        class_names=NAMES,
        templates=["a {}"],
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
        image_size=32,
        cache_dir=cache,
    )


def other_word_for_star(texts: list[str]) -> Any:
    return word_tokens([text.replace("star", "sun") for text in texts])


@pytest.mark.parametrize("training", [False, True])
def test_other_classes_leave_the_shared_model_in_its_mode(training: bool) -> None:
    """In train mode BatchNorm would learn from the next images."""
    clip = toy_clip("rn").train(training)
    made = classifier(clip).with_classes(["one", "two"])
    assert made.clip is clip
    assert all(module.training == training for module in clip.modules())


def test_class_weights_are_kept_for_the_same_model_only(tmp_path: Path) -> None:
    """Of one state dict: another activation, number of heads or tokenizer is another model."""
    first = classifier(toy_clip("vit"), tmp_path)
    assert torch.equal(classifier(toy_clip("vit"), tmp_path).class_weights, first.class_weights)
    assert len(list(tmp_path.iterdir())) == 1
    smooth, narrow = toy_clip("vit"), toy_clip("vit")
    for block in smooth.transformer.resblocks:
        block.mlp.gelu = torch.nn.Tanh()
    for block in narrow.transformer.resblocks:
        block.attn.num_heads *= 2
        block.attn.head_dim //= 2
    made = [
        classifier(smooth, tmp_path),
        classifier(narrow, tmp_path),
        classifier(toy_clip("vit"), tmp_path, other_word_for_star),
    ]
    assert len(list(tmp_path.iterdir())) == 4
    for other in made:
        assert not torch.allclose(other.class_weights, first.class_weights)
    assert torch.equal(
        classifier(toy_clip("vit").train(), tmp_path).class_weights, first.class_weights
    )
    assert len(list(tmp_path.iterdir())) == 4, "the mode is no other model"


def test_a_cache_that_cannot_be_used_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    expected = classifier(toy_clip("vit")).class_weights
    made = classifier(toy_clip("vit"), tmp_path / "file")
    assert torch.equal(made.class_weights, expected)
    classifier(toy_clip("vit"), tmp_path / "kept")
    (kept,) = (tmp_path / "kept").iterdir()
    kept.write_bytes(b"damaged")
    made = classifier(toy_clip("vit"), tmp_path / "kept")
    assert torch.equal(made.class_weights, expected)


@pytest.mark.parametrize("warn_only", [False, True])
@pytest.mark.parametrize("deterministic", [False, True])
def test_the_callers_choice_of_algorithms_comes_back(deterministic: bool, warn_only: bool) -> None:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    try:
        with seeded(0, deterministic):
            inside = torch.is_deterministic_algorithms_warn_only_enabled()
            assert inside == (warn_only and not deterministic)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() == warn_only
    finally:
        torch.use_deterministic_algorithms(before)
