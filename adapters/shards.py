"""webdataset shards: tar files in which the parts of a sample share a name.

Read with the standard library: a shard is a plain tar file, and the webdataset package would also
run a specification such as ``pipe:...`` as a command.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from invertune_plugin.adapters.verified import EXTENSIONS, Entry, VerifiedSet
from invertune_plugin.data import Captions
from invertune_plugin.errors import InputError

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

    Only captions and the images' places in the files are kept in memory. Samples that lack one of
    the two are left out, as in open_clip.

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
        entries = [entry for path in paths for entry in _entries(Path(path))]
        source = ", ".join(str(path) for path in paths)
        super().__init__(entries, size, source, min_images, threads)


def _entries(path: Path) -> list[Entry[Captions]]:
    images: dict[str, tarfile.TarInfo] = {}
    captions: dict[str, str] = {}
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                folder, base = PurePosixPath(member.name).parent, PurePosixPath(member.name).name
                stem, _, extension = base.partition(".")
                if not member.isreg() or not stem:
                    continue
                key = str(folder / stem)
                if f".{extension.lower()}" in EXTENSIONS:
                    images[key] = member
                elif extension.lower() == "txt" and (file := shard.extractfile(member)):
                    captions[key] = file.read().decode("utf-8", errors="replace").strip()
    except (OSError, tarfile.TarError) as error:
        raise InputError(
            f"Expected an uncompressed tar file at {path}, got: {error}. "
            "Check the path; unpack a compressed shard first."
        ) from error
    return [
        Entry(path, (captions[key],), member.offset_data, member.size, member.name)
        for key, member in images.items()
        if captions.get(key)
    ]
