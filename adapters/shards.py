"""webdataset shards, with captions or with labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from invertune_plugin.adapters.class_names import counted_in
from invertune_plugin.adapters.shard_samples import Sample, captions_of, samples
from invertune_plugin.adapters.verified import Entry, VerifiedSet
from invertune_plugin.data import Captions
from invertune_plugin.errors import InputError

T = TypeVar("T")
CLASS_NAMES = "classnames.txt"
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


def expand(spec: str) -> list[str]:
    """Write out numeric ranges: ``x-{000..002}.tar`` names three files."""
    found = _RANGE.search(spec)
    if not found:
        return [spec]
    first, last = found.groups()
    numbers = (str(n).zfill(len(first)) for n in range(int(first), int(last) + 1))
    ends = expand(spec[found.end() :])
    return [spec[: found.start()] + number + end for number in numbers for end in ends]


class ShardPairs(VerifiedSet[Captions]):
    """Images (``.jpg``, ``.png``, ...) with the caption (``.txt``) of the same name.

    A ``.json`` of that name with a list ``captions`` gives all captions of an image. Only captions
    and the images' places in the files are kept in memory. Samples without a caption are left out,
    as in open_clip.

    Args:
        paths: uncompressed tar files.
        size: side of the decoded images in pixels.
        min_images: fewest readable images to go on with.
        threads: threads of the pass that finds unreadable images.

    Attributes:
        unreadable: images that were skipped, as shard/member; also for captions of no use.

    Raises:
        InputError: a shard is missing or no tar file, or too few images can be read.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        size: int,
        min_images: int = 1,
        threads: int = 2,
    ) -> None:
        entries = [
            _entry(path, sample, captions)
            for path in map(Path, paths)
            for sample in samples(path, ("txt", "json"))
            if (captions := captions_of(sample.texts)) or sample.reason
        ]
        super().__init__(entries, size, _listed(paths), min_images, threads)


class ShardImages(VerifiedSet[int]):
    """Images with the label (``.cls``, a number) of the same name.

    Samples without a label are left out.

    Args:
        paths: uncompressed tar files.
        size: side of the decoded images in pixels.
        class_names: names that labels shall count in. Where there is a ``classnames.txt`` (one name
            a line, in label order) beside the first shard, labels are translated by name (those
            without a match become -1); where there is none, the numbers are taken to count in
            these.
        min_images: fewest readable images to go on with.
        threads: threads of the pass that finds unreadable images.

    Attributes:
        class_names: what the labels mean.
        unreadable: images that were skipped, as shard/member; also for labels of no use.

    Raises:
        InputError: a shard is missing or no tar file, there are no class names, a label is out of
            their range, or too few images can be read.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        size: int,
        class_names: Sequence[str] | None = None,
        min_images: int = 1,
        threads: int = 2,
    ) -> None:
        own = _own_names(Path(paths[0]).parent / CLASS_NAMES)
        if own is None and class_names is None:
            raise InputError(
                f"Expected {CLASS_NAMES} beside {paths[0]}, got none. "
                "Pass class_names, in label order."
            )
        self.class_names, label = counted_in(own, class_names)
        entries = [
            _entry(path, sample, _label(sample, label, path))
            for path in map(Path, paths)
            for sample in samples(path, ("cls",))
            if "cls" in sample.texts or sample.reason
        ]
        super().__init__(entries, size, _listed(paths), min_images, threads)


def _entry(path: Path, sample: Sample, text: T) -> Entry[T]:
    image = sample.image
    return Entry(path, text, image.offset_data, image.size, image.name, sample.reason)


def _label(sample: Sample, label: Sequence[int], path: Path) -> int:
    if sample.reason:
        return -1
    text = sample.texts["cls"]
    if not text.isdecimal() or len(text) > 9 or int(text) >= len(label):
        raise InputError(
            f"Expected labels from 0 to {len(label) - 1}, got {text[:20]!r} for "
            f"{path / sample.image.name}. Correct the class names or the label."
        )
    return label[int(text)]


def _own_names(path: Path) -> list[str] | None:
    if not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8-sig").rstrip().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"Expected class names in UTF-8, one a line, in {path}, got: {error}. "
            "Save it as plain text."
        ) from error


def _listed(paths: Sequence[str | Path]) -> str:
    return ", ".join(str(path) for path in paths)
