"""The data of a recipe, shared out so that no image serves two purposes; made when asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch

from invertune_plugin.adapters.data_root import data_file
from invertune_plugin.adapters.parquet import ParquetImages, ParquetPairs
from invertune_plugin.adapters.shapes import CLASS_TEMPLATES, SHAPES, Scenes, draw_scenes
from invertune_plugin.benchmark.experiment.recipe import DataConfig
from invertune_plugin.config import named
from invertune_plugin.data import (
    Captions,
    ClassCaptions,
    Concat,
    ImageSet,
    PairSet,
    Subset,
    in_memory,
    split_by_content,
)
from invertune_plugin.plugins import Catalogue

Part = Literal["clean", "attack", "defence", "rebound"]
Metric = Literal["classification", "retrieval"]
Use = Literal["training"] | Metric
PARTS: tuple[Part, ...] = ("clean", "attack", "defence", "rebound")
REAL_FILES: Mapping[Use, tuple[str, ...]] = {
    "training": ("tinyimagenet32-train", "flickr8k-train"),
    "classification": ("tinyimagenet32-validation", "cifar10-test"),
    "retrieval": ("flickr8k-test",),
}
REAL_TEMPLATES = ("a photo of a {}.", "a picture of a {}.", "an image of a {}.", "a {}.")


@dataclass(frozen=True)
class TestSet:
    """Labelled images that neither attacker nor defender has seen.

    Attributes:
        name: of the data.
        images: the images.
        class_names: name per label.
    """

    __test__ = False

    name: str
    images: ImageSet
    class_names: tuple[str, ...]


class Sources(ABC):
    """Disjoint data, one part per purpose.

    Args:
        config: how much there is of each part.
        size: side of the images in pixels.
        seed: of all parts but ``clean``.
        clean_seed: of the part ``clean``.

    Attributes:
        class_names: classes of the zero-shot head.
        templates: their templates; poisoned captions are made of these too.
        seeds: another one for each part, where data are drawn.
        test_seed: of the evaluation sets.
    """

    class_names: tuple[str, ...]
    templates: tuple[str, ...]

    def __init__(self, config: DataConfig, size: int, seed: int, clean_seed: int) -> None:
        self.config = config
        self.size = size
        self.seeds: dict[Part, int] = {part: 10 * seed + i for i, part in enumerate(PARTS)}
        self.seeds["clean"] = 10 * clean_seed
        self.test_seed = 10 * seed + len(PARTS)

    @classmethod
    def files(cls, config: DataConfig, use: Use) -> tuple[Path, ...]:
        """The files that a use of the data reads; what is in them shapes its results.

        Raises:
            InputError: one is absent.
        """
        return ()

    @abstractmethod
    def images(self, part: Part) -> ImageSet:
        """Labelled images of a part."""

    def pairs(self, part: Part) -> PairSet:
        """Image-caption pairs of a part, the labelled images among them; captions of the class."""
        return ClassCaptions(self.images(part), self.class_names, self.templates)

    @abstractmethod
    def tests(self) -> list[TestSet]:
        """One or two evaluation sets, the main one first."""

    def captioned_test(self) -> PairSet:
        """Pairs of the evaluation, for retrieval; of the main set, with captions of the class."""
        test = self.tests()[0]
        return ClassCaptions(test.images, test.class_names, self.templates)


class ShapeSources(Sources):
    """Drawn scenes: one stream of the generator per part and seed."""

    class_names = SHAPES
    templates = CLASS_TEMPLATES

    def images(self, part: Part) -> ImageSet:
        """Scenes with their shape as label."""
        return self._draw(part).images()

    def pairs(self, part: Part) -> PairSet:
        """Scenes with their captions."""
        return self._draw(part).pairs()

    def tests(self) -> list[TestSet]:
        """Combinations seen in training, and combinations held out of it."""
        count, seed = self.config.test, self.test_seed
        seen = draw_scenes(count, seed, self.size).images()
        unseen = draw_scenes(count, seed, self.size, "held_out").images()
        return [TestSet("shapes", seen, SHAPES), TestSet("shapes-held-out", unseen, SHAPES)]

    def captioned_test(self) -> PairSet:
        """The scenes of the main set with the captions of scenes, which images share."""
        return draw_scenes(self.config.test, self.test_seed, self.size).pairs()

    def _draw(self, part: Part) -> Scenes:
        return draw_scenes(int(getattr(self.config, part)), self.seeds[part], self.size)


class RealSources(Sources):
    """Tiny-ImageNet with class captions and Flickr8k, shared out by the content of the images.

    The shares are the same for all seeds.
    """

    templates = REAL_TEMPLATES

    @classmethod
    def files(cls, config: DataConfig, use: Use) -> tuple[Path, ...]:
        """Tiny-ImageNet, Flickr8k and, for tests alone, CIFAR-10."""
        return tuple(data_file(f"{name}.parquet") for name in REAL_FILES[use])

    def __init__(self, config: DataConfig, size: int, seed: int, clean_seed: int) -> None:
        super().__init__(config, size, seed, clean_seed)
        self._tiny = ParquetImages(data_file("tinyimagenet32-train.parquet"), size)
        self.class_names = tuple(self._tiny.class_names)

    @cached_property
    def _shared(self) -> tuple[dict[str, Subset[int]], dict[str, Subset[Captions]]]:
        shares: dict[str, float] = {part: float(getattr(self.config, part)) for part in PARTS}
        flickr = ParquetPairs(data_file("flickr8k-train.parquet"), self.size)
        return split_by_content(self._tiny, shares), split_by_content(flickr, shares)

    def images(self, part: Part) -> ImageSet:
        """Tiny-ImageNet images."""
        return in_memory(self._shared[0][part])

    def pairs(self, part: Part) -> PairSet:
        """Tiny-ImageNet images with class captions, then Flickr8k."""
        images, captioned = self._shared
        classes = ClassCaptions(images[part], self.class_names, self.templates)
        return in_memory(Concat([classes, captioned[part]]))

    def tests(self) -> list[TestSet]:
        """Tiny-ImageNet validation, and CIFAR-10 test, which is zero-shot."""
        return [
            self._test("tinyimagenet32-validation"),
            self._test("cifar10-test"),
        ]

    def captioned_test(self) -> PairSet:
        """Flickr8k test, five captions an image."""
        return in_memory(ParquetPairs(data_file("flickr8k-test.parquet"), self.size))

    def _test(self, name: str) -> TestSet:
        images = ParquetImages(data_file(f"{name}.parquet"), self.size)
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(len(images), generator=generator)
        chosen = order[: self.config.test].sort().values.tolist()
        return TestSet(name, in_memory(Subset(images, chosen)), tuple(images.class_names))


SOURCES: Catalogue[type[Sources]] = Catalogue(
    "class of data",
    "invertune.sources",
    {"shapes": ShapeSources, "real": RealSources},
    lambda found: isinstance(found, type) and issubclass(found, Sources),
)
"""The data of this package, and those of installed packages."""


def build_sources(config: DataConfig, size: int, seed: int, clean_seed: int) -> Sources:
    """The data of a recipe at one image size.

    Raises:
        InputError: the source is unknown or its files are absent.
    """
    return source_of(config.source)(config, size, seed, clean_seed)


def source_of(name: str) -> type[Sources]:
    """A class of data by its name in recipes.

    Raises:
        InputError: there is none of that name; the nearest one is told.
    """
    return named("source of data", name, SOURCES)
