"""webdataset shards, with captions or with labels."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from invertune_plugin.adapters.class_names import match_names
from invertune_plugin.adapters.shard_samples import captions_of, samples
from invertune_plugin.adapters.verified import Entry, VerifiedSet
from invertune_plugin.data import Captions
from invertune_plugin.errors import InputError

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
        unreadable: images that were skipped, as shard/member.

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
            Entry(path, captions, image.offset_data, image.size, image.name)
            for path in map(Path, paths)
            for image, parts in samples(path, ("txt", "json"))
            if (captions := captions_of(parts))
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
        unreadable: images that were skipped, as shard/member.

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
        self.class_names: list[str] = list(class_names if class_names is not None else own or ())
        label = (
            list(range(len(self.class_names)))
            if own is None
            else match_names(own, self.class_names)
        )
        entries = [
            Entry(
                path,
                _label(parts["cls"], label, path / image.name),
                image.offset_data,
                image.size,
                image.name,
            )
            for path in map(Path, paths)
            for image, parts in samples(path, ("cls",))
            if "cls" in parts
        ]
        super().__init__(entries, size, _listed(paths), min_images, threads)


def _label(text: str, label: Sequence[int], where: Path) -> int:
    if not text.isdecimal() or len(text) > 9 or int(text) >= len(label):
        raise InputError(
            f"Expected labels from 0 to {len(label) - 1}, got {text[:20]!r} for {where}. "
            "Correct the class names or the label."
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
