"""One way in for every kind of data set that a path can name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from invertune_plugin.adapters.captions import CaptionFile
from invertune_plugin.adapters.data_root import data_file, data_root
from invertune_plugin.adapters.folders import ImageFolderSet
from invertune_plugin.adapters.parquet import ParquetImages, ParquetPairs
from invertune_plugin.adapters.parquet_table import schema_of
from invertune_plugin.adapters.shard_samples import has_labels
from invertune_plugin.adapters.shards import ShardImages, ShardPairs, expand
from invertune_plugin.adapters.torchvision_sets import TorchvisionSet
from invertune_plugin.data import ImageSet, PairSet
from invertune_plugin.errors import InputError

__all__ = [
    "CaptionFile",
    "ImageFolderSet",
    "ParquetImages",
    "ParquetPairs",
    "ShardImages",
    "ShardPairs",
    "TorchvisionSet",
    "Unlabelled",
    "data_file",
    "data_root",
    "image_set",
    "labelled_or_captioned",
    "named_paths",
    "pair_set",
]

Set = TypeVar("Set", ParquetImages, ParquetPairs)
CAPTION_COLUMNS = ("captions", "caption")
KINDS = "*.parquet, a caption table (*.csv, *.tsv) or webdataset shards (*.tar)"


class Unlabelled:
    """Captioned images without their captions: every label is -1."""

    def __init__(self, pairs: PairSet) -> None:
        self.pairs = pairs
        self.class_names: list[str] = []

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.pairs[index][0], -1

    @property
    def texts(self) -> list[int]:
        """No labels."""
        return [-1] * len(self)

    def content_key(self, index: int) -> bytes:
        """The key of the underlying image."""
        return self.pairs.content_key(index)


def image_set(
    spec: str | Path,
    size: int,
    class_names: Sequence[str] | None = None,
    min_images: int = 1,
) -> ImageSet:
    """Open images, with labels where there are any.

    Args:
        spec: a folder of images; ``*.parquet`` (Hugging Face schema); shards with labels; a caption
            table or shards with captions, whose images get label -1. Ranges
            (``x-{000..003}.tar``) and ``*`` name several files, and a folder that holds one series
            of shards all of them. A relative path that does not exist
            here is looked up in ``data_root()``.
        size: side of the decoded images in pixels.
        class_names: names that labels shall count in; the data set's own where omitted. Images of
            other classes get label -1.
        min_images: fewest images to go on with.

    Raises:
        InputError: nothing there, another kind of file, or too few readable images.
    """
    paths = named_paths(spec)
    if paths[0].is_dir():
        return ImageFolderSet(paths[0], size, class_names, min_images)
    if paths[0].suffix == ".tar" and has_labels(paths[0]):
        return ShardImages(paths, size, class_names, min_images)
    if paths[0].suffix != ".parquet":
        return Unlabelled(pair_set(spec, size, min_images))
    label = "label" if "label" in schema_of(paths[0]).names else None
    images = ParquetImages(paths, size, label_column=label, class_names=class_names)
    return _enough(images, min_images, spec)


def pair_set(spec: str | Path, size: int, min_images: int = 1) -> PairSet:
    """Open images with captions.

    Args:
        spec: ``*.parquet`` with a column ``captions`` or ``caption``; a caption table with the
            columns ``filepath`` and ``title``; webdataset shards. Ranges and ``*`` as in
            ``image_set``.
        size: side of the decoded images in pixels.
        min_images: fewest images to go on with.

    Raises:
        InputError: nothing there, another kind of file, or too few readable images.
    """
    paths = named_paths(spec)
    if paths[0].suffix == ".parquet":
        names = schema_of(paths[0]).names
        column = next((name for name in CAPTION_COLUMNS if name in names), CAPTION_COLUMNS[0])
        return _enough(ParquetPairs(paths, size, caption_column=column), min_images, spec)
    if paths[0].suffix == ".tar":
        return ShardPairs(paths, size, min_images)
    if paths[0].suffix in {".csv", ".tsv"} and len(paths) == 1:
        return CaptionFile(paths[0], size, min_images=min_images)
    came = "a folder" if paths[0].is_dir() else f"{len(paths)} file(s) *{paths[0].suffix}"
    raise InputError(
        f"Expected {KINDS} at {spec}, got {came}. Name a file of one of these kinds"
        + (", or make captions from its classes with ClassCaptions." if paths[0].is_dir() else ".")
    )


def labelled_or_captioned(
    spec: str | Path, size: int, class_names: Sequence[str] | None = None
) -> ImageSet | PairSet:
    """Open whatever is there: pairs where there are captions, else images.

    Args:
        spec: as for ``image_set`` or ``pair_set``.
        size: side of the decoded images in pixels.
        class_names: names that labels shall count in; the data set's own where omitted.

    Raises:
        InputError: as for ``image_set`` and ``pair_set``.
    """
    first = named_paths(spec)[0]
    if first.suffix == ".parquet":
        captioned = any(name in schema_of(first).names for name in CAPTION_COLUMNS)
    elif first.suffix == ".tar":
        captioned = not has_labels(first)
    else:
        captioned = not first.is_dir()
    return pair_set(spec, size) if captioned else image_set(spec, size, class_names)


def named_paths(spec: str | Path) -> list[Path]:
    """The files, or the folder, that a spec as of ``image_set`` names; one or more, all there.

    Raises:
        InputError: there is nothing.
    """
    asked = Path(spec).expanduser()
    root = data_root()
    places = [asked] if asked.is_absolute() or root is None else [asked, root / asked]
    for place in places:
        paths = [path for name in expand(str(place)) for path in _listing(Path(name))]
        if paths and all(path.exists() for path in paths):
            return _shards_in(paths[0]) or paths
    looked = " and ".join(str(place) for place in places)
    raise InputError(
        f"Expected a folder of images, {KINDS}, got nothing at {looked}. "
        "Check the path, or set INVERTUNE_DATA to the folder it is in."
    )


def _shards_in(folder: Path) -> list[Path]:
    """The shards of a folder that holds one series of them and no folders; else none."""
    if not folder.is_dir() or any(path.is_dir() for path in folder.iterdir()):
        return []
    shards = sorted(folder.glob("*.tar"))
    series = {path.stem.rstrip("0123456789") for path in shards}
    return shards if len(series) == 1 else []


def _listing(path: Path) -> list[Path]:
    return sorted(path.parent.glob(path.name)) if "*" in path.name else [path]


def _enough(dataset: Set, min_images: int, spec: str | Path) -> Set:
    if len(dataset) < min_images:
        raise InputError(
            f"Expected at least {min_images} images in {spec}, got {len(dataset)}. Add images."
        )
    return dataset
