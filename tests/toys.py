"""Random CLIP classifiers of a few thousand weights, and data for them."""

from __future__ import annotations

import zlib
from typing import Any

import torch
from open_clip import CLIP
from tiny import rn_config, vit_config
from torch import Tensor

from invertune_plugin.data import InMemory
from invertune_plugin.zero_shot import ZeroShotClassifier

NAMES = ("cat", "dog", "ring", "star")
WORDS, LENGTH = 64, 12


def word_tokens(texts: list[str]) -> Tensor:
    """One id per word; the end of the text has the highest id, where CLIP pools."""
    tokens = torch.zeros(len(texts), LENGTH, dtype=torch.long)
    for row, text in zip(tokens, texts, strict=True):
        ids = [1 + zlib.crc32(word.encode()) % (WORDS - 2) for word in text.split()][: LENGTH - 1]
        row[: len(ids) + 1] = torch.tensor([*ids, WORDS - 1])
    return tokens


def toy_clip(tower: str, seed: int = 0, layers: int = 1) -> Any:
    config = {"rn": rn_config, "vit": vit_config}[tower]()
    config["text_cfg"].update(context_length=LENGTH, vocab_size=WORDS)
    if tower == "vit":
        config["vision_cfg"]["layers"] = layers
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return CLIP(**config).eval()


def toy_classifier(
    tower: str, seed: int = 0, layers: int = 1, class_names: tuple[str, ...] = NAMES
) -> ZeroShotClassifier:
    return ZeroShotClassifier(
        toy_clip(tower, seed, layers),
        word_tokens,
        class_names=class_names,
        templates=["a photo of a {} .", "a {} ."],
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.25, 0.3),
        image_size=32,
    ).eval()


def noise_images(count: int, size: int = 32, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def toy_pairs(count: int, size: int = 32) -> InMemory[tuple[str, ...]]:
    """Three captions an image; every fifth image has those of the one before."""
    kinds = [i - (i % 5 == 4) for i in range(count)]
    captions = [(f"a {i} cat", f"the {i} dog sits", f"{i}") for i in kinds]
    return InMemory(noise_images(count, size), captions)


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    different = [n for n in found if not torch.equal(found[n].cpu(), expected[n].cpu())]
    assert not different
