"""Samples of a webdataset shard: the members of a tar file that share a name.

Read with the standard library: a shard is a plain tar file, and the webdataset package would also
run a specification such as ``pipe:...`` as a command.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath

from invertune_plugin.adapters.verified import EXTENSIONS
from invertune_plugin.data import Captions
from invertune_plugin.errors import InputError

FIRST_MEMBERS = 8
MOST_TEXT = 1 << 20


@dataclass(frozen=True)
class Sample:
    """An image of a shard.

    Attributes:
        image: the member that holds it.
        texts: its other parts, by extension.
        reason: why it cannot be used; empty where it can.
    """

    image: tarfile.TarInfo
    texts: dict[str, str]
    reason: str = ""


def has_labels(path: Path) -> bool:
    """Whether the first samples of a shard have labels.

    Raises:
        InputError: it is missing or no tar file.
    """
    with _opened(path) as shard:
        return any(member.name.lower().endswith(".cls") for member in islice(shard, FIRST_MEMBERS))


def samples(path: Path, extensions: Sequence[str]) -> list[Sample]:
    """The images of a shard, each with those of its other parts that have these extensions.

    A sample cannot be used where one of these members is a sparse file, or a text of more than
    ``MOST_TEXT`` bytes: neither is read.

    Raises:
        InputError: the shard is missing, no tar file, or ends too early.
    """
    images: dict[str, tarfile.TarInfo] = {}
    texts: dict[str, dict[str, str]] = {}
    broken: dict[str, str] = {}
    too_long: dict[str, str] = {}
    with _opened(path) as shard:
        for member in shard:
            folder, base = PurePosixPath(member.name).parent, PurePosixPath(member.name).name
            stem, _, extension = base.partition(".")
            if not member.isreg() or not stem:
                continue
            key, extension = str(folder / stem), extension.lower()
            is_image = f".{extension}" in EXTENSIONS
            if is_image:
                images[key] = member
            elif extension not in extensions:
                continue
            if member.issparse():
                broken[key] = f"{base} is a sparse file"
            elif not is_image and member.size > MOST_TEXT:
                too_long[key] = f"{base} is longer than {MOST_TEXT} bytes"
            elif not is_image and (file := shard.extractfile(member)):
                text = file.read().decode("utf-8", errors="replace").strip()
                texts.setdefault(key, {})[extension] = text
    for key in texts.keys() & too_long.keys():
        del too_long[key]
    reasons = too_long | broken
    return [
        Sample(member, texts.get(key, {}), reasons.get(key, "")) for key, member in images.items()
    ]


@contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(path, "r:") as shard:
            yield shard
    except (OSError, tarfile.TarError, MemoryError, OverflowError, ValueError) as error:
        raise InputError(
            f"Expected an uncompressed tar file at {path}, got: "
            f"{str(error) or type(error).__name__}. "
            "Check the path; unpack a compressed shard first."
        ) from error


def captions_of(parts: dict[str, str]) -> Captions:
    """All captions of ``json``, else the one of ``txt``, else none."""
    try:
        several = json.loads(parts.get("json") or "{}")["captions"]
    except (ValueError, KeyError, TypeError, RecursionError):
        several = None
    if isinstance(several, list) and all(isinstance(c, str) and c.strip() for c in several):
        found = tuple(caption.strip() for caption in several)
    else:
        found = ()
    return found or ((parts["txt"],) if parts.get("txt") else ())
