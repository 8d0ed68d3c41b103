"""Image files that were all read once, with the unreadable ones set aside."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from invertune_plugin.adapters.encoded import EncodedSet
from invertune_plugin.adapters.images import open_rgb, pixel_key
from invertune_plugin.decoding import UnreadableImage
from invertune_plugin.errors import InputError

EXTENSIONS = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
MOST_SHOWN = 300
T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry(Generic[T]):
    """One image file, or the part of an archive that holds one.

    Attributes:
        path: the file to open.
        text: label or captions.
        offset: first byte of the image in the file.
        length: bytes of the image; -1 for all that follow.
        member: name inside the archive; empty for a plain file.
        reason: why it cannot be used, where that is known before it is read.
    """

    path: Path
    text: T
    offset: int = 0
    length: int = -1
    member: str = ""
    reason: str = ""

    def read(self) -> bytes:
        """The encoded image."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.length)


def checked(read: Callable[[], bytes]) -> bytes | str:
    """The content key of a readable image, the reason for an unreadable one.

    Args:
        read: gives the encoded image.
    """
    try:
        return pixel_key(open_rgb(read()))
    except UnreadableImage as error:
        return error.reason
    except OSError as error:
        return error.strerror or str(error)
    except ValueError as error:
        return str(error)


def _check(entry: Entry[T]) -> bytes | str:
    return entry.reason or checked(entry.read)


class VerifiedSet(EncodedSet[T]):
    """Readable images among some files, in the order given.

    Construction decodes every image once (a truncated file shows in no other way) and keeps only
    the content keys; items are decoded again when asked for.

    Args:
        entries: what to read.
        size: side of the decoded images in pixels.
        source: where the entries come from, for messages.
        min_images: fewest readable images to go on with.
        threads: threads of the first pass.

    Attributes:
        unreadable: files (for archives: archive/member) that were skipped.

    Raises:
        InputError: fewer than ``min_images`` images can be read.
    """

    def __init__(
        self,
        entries: Sequence[Entry[T]],
        size: int,
        source: str,
        min_images: int = 1,
        threads: int = 2,
    ) -> None:
        super().__init__(size)
        with ThreadPoolExecutor(threads) as pool:
            tried = list(zip(entries, pool.map(_check, entries), strict=True))
        self.entries = [entry for entry, found in tried if isinstance(found, bytes)]
        self._keys = dict(enumerate(found for _, found in tried if isinstance(found, bytes)))
        reasons = {e.path / e.member: found for e, found in tried if isinstance(found, str)}
        self.unreadable = list(reasons)
        self._texts = [entry.text for entry in self.entries]
        if len(self) < min_images:
            raise InputError(
                f"Expected at least {min_images} readable images in {source}, got {len(self)} of "
                f"{len(entries)}. {_first_few(reasons)}Add images or repair the unreadable ones."
            )
        if reasons:
            _log.warning(
                "Skipped %d of %d images in %s. %s",
                len(reasons),
                len(entries),
                source,
                _first_few(reasons).strip(),
            )

    @property
    def texts(self) -> Sequence[T]:
        """Label or captions per readable image."""
        return self._texts

    def encoded(self, index: int) -> bytes:
        """The image file of an item."""
        return self.entries[index].read()

    def name(self, index: int) -> str:
        """The path of an item, with the member name in an archive."""
        return str(self.entries[index].path / self.entries[index].member)


def _first_few(reasons: dict[Path, str], few: int = 3) -> str:
    if not reasons:
        return ""
    names = "; ".join(
        f"{path!s:.{MOST_SHOWN}} ({reason})" for path, reason in list(reasons.items())[:few]
    )
    more = f"; and {len(reasons) - few} more" if len(reasons) > few else ""
    return f"Unreadable: {names}{more}. "
