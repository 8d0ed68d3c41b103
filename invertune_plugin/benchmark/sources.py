"""The data of a recipe, shared out so that no image serves two purposes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from invertune_plugin.adapters.data_root import data_file
from invertune_plugin.adapters.parquet import ParquetImages, ParquetPairs
from invertune_plugin.adapters.shapes import CLASS_TEMPLATES, SHAPES, draw_scenes
from invertune_plugin.benchmark.recipe import DataConfig
from invertune_plugin.data import (
    ClassCaptions,
    Concat,
    ImageSet,
    InMemory,
    PairSet,
    Subset,
    split_by_content,
)
from invertune_plugin.errors import InputError

REAL_TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "an image of a {}.", "a {}.")


@dataclass(frozen=True)
class TestSet:
    """Labelled images that neither attacker nor defender has seen.

    Attributes:
        images: the images.
        class_names: name per label.
    """

    images: ImageSet
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class Sources:
    """Disjoint data, one set per purpose.

    Attributes:
        clean: pairs of the clean model.
        attack: pairs of the attacker, before poisoning.
        defence: images of the defender.
        rebound: pairs of the benign fine-tuning.
        tests: evaluation sets by name; the first one is the main one.
        class_names: classes of the zero-shot head.
        templates: their templates; poisoned captions are made of these too.
    """

    clean: PairSet
    attack: PairSet
    defence: ImageSet
    rebound: PairSet
    tests: dict[str, TestSet]
    class_names: tuple[str, ...]
    templates: tuple[str, ...]


def build_sources(config: DataConfig, size: int, seed: int, clean_seed: int) -> Sources:
    """The data of a recipe at one image size.

    Raises:
        InputError: the source is unknown or its files are absent.
    """
    makers = {"shapes": _shapes, "real": _real}
    if config.source not in makers:
        raise InputError(f"Expected a source among {', '.join(makers)}, got {config.source!r}.")
    return makers[config.source](config, size, seed, clean_seed)


def _shapes(config: DataConfig, size: int, seed: int, clean_seed: int) -> Sources:
    """Scenes of five streams of the generator; equal scenes are dropped from all but the first."""
    clean = draw_scenes(int(config.clean), 10 * clean_seed, size)
    attack = draw_scenes(int(config.attack), 10 * seed + 1, size)
    return Sources(
        clean=clean.pairs(),
        attack=attack.pairs(),
        defence=draw_scenes(int(config.defence), 10 * seed + 2, size).images(),
        rebound=draw_scenes(int(config.rebound), 10 * seed + 3, size).pairs(),
        tests={
            "shapes": TestSet(draw_scenes(config.test, 10 * seed + 4, size).images(), SHAPES),
            "shapes-held-out": TestSet(
                draw_scenes(config.test, 10 * seed + 4, size, "held_out").images(), SHAPES
            ),
        },
        class_names=SHAPES,
        templates=CLASS_TEMPLATES,
    )


def _real(config: DataConfig, size: int, seed: int, clean_seed: int) -> Sources:
    """Tiny-ImageNet with class captions and Flickr8k, shared out by content."""
    tiny = ParquetImages(data_file("tinyimagenet32-train.parquet"), size)
    flickr = ParquetPairs(data_file("flickr8k-train.parquet"), size)
    names = tuple(tiny.class_names)
    shares = {
        "clean": config.clean,
        "attack": config.attack,
        "defence": config.defence,
        "rebound": config.rebound,
    }
    images = split_by_content(tiny, shares)
    captioned = split_by_content(flickr, shares)

    def pairs(part: str) -> PairSet:
        return in_memory(
            Concat([ClassCaptions(images[part], names, REAL_TEMPLATES), captioned[part]])
        )

    tests = {
        "tinyimagenet32-validation": "tinyimagenet32-validation.parquet",
        "cifar10-test": "cifar10-test.parquet",
    }
    return Sources(
        clean=pairs("clean"),
        attack=pairs("attack"),
        defence=in_memory(images["defence"]),
        rebound=pairs("rebound"),
        tests={name: _test_set(file, size, config.test) for name, file in tests.items()},
        class_names=names,
        templates=REAL_TEMPLATES,
    )


def _test_set(file: str, size: int, most: int) -> TestSet:
    images = ParquetImages(data_file(file), size)
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(images), generator=generator)[:most].sort().values.tolist()
    return TestSet(in_memory(Subset(images, chosen)), tuple(images.class_names))


def in_memory(dataset):  # noqa
    items = [dataset[i] for i in range(len(dataset))]
    return InMemory(torch.stack([image for image, _ in items]), [text for _, text in items])
