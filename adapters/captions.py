"""Images and captions listed in a table: open_clip's caption CSV."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from invertune_plugin.adapters.verified import Entry, VerifiedSet
from invertune_plugin.data import Captions
from invertune_plugin.errors import InputError

DELIMITERS = ("\t", ",", ";")


class CaptionFile(VerifiedSet[Captions]):
    r"""A CSV or TSV file with one row per caption; rows of one image become one item.

    Args:
        path: the table, UTF-8, with a header; whichever of tab, comma and semicolon splits the
            header into the two columns separates the cells.
        size: side of the decoded images in pixels.
        image_column: column of image paths, relative to the table's folder, or else to the current
            folder as open_clip reads them.
        caption_column: column of captions.
        min_images: fewest readable images to go on with.
        threads: threads of the pass that finds unreadable images.

    Attributes:
        unreadable: images that were skipped, missing ones among them.

    Raises:
        InputError: there is no such file, it lacks a column, a row lacks a path or a caption, or
            too few images can be read.
    """

    def __init__(
        self,
        path: str | Path,
        size: int,
        *,
        image_column: str = "filepath",
        caption_column: str = "title",
        min_images: int = 1,
        threads: int = 2,
    ) -> None:
        path = Path(path)
        captions: dict[Path, list[str]] = {}
        for image, caption in _rows(path, image_column, caption_column):
            beside = path.parent / image
            captions.setdefault(beside if _exists(beside) else Path(image), []).append(caption)
        entries = [Entry(image, tuple(texts)) for image, texts in captions.items()]
        super().__init__(entries, size, str(path), min_images, threads)


def _exists(path: Path) -> bool:
    """Whether there is such a file; not for a path that no file can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _rows(path: Path, image_column: str, caption_column: str) -> list[tuple[str, str]]:
    text = _text(path)
    try:
        delimiter = _delimiter(text.partition("\n")[0], path, image_column, caption_column)
    except csv.Error as error:
        raise _unreadable(path, 1, error) from error
    rows: list[tuple[str, str]] = []
    reader = csv.DictReader(io.StringIO(text), delimiter=delimiter)
    try:
        for row in reader:
            image, caption = ((row[c] or "").strip() for c in (image_column, caption_column))
            if not image or not caption:
                raise InputError(
                    f"Expected a path and a caption in every row of {path}, got {image!r:.200} and "
                    f"{caption!r:.200} in line {reader.line_num}. Complete the row or remove it."
                )
            rows.append((image, caption))
    except csv.Error as error:
        raise _unreadable(path, reader.reader.line_num, error) from error
    return rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(
            f"Expected a caption table at {path}, got nothing there. Check the path."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"Expected a caption table in UTF-8 at {path}, got: {error}. Save it as UTF-8."
        ) from error


def _delimiter(header: str, path: Path, image_column: str, caption_column: str) -> str:
    for delimiter in DELIMITERS:
        columns = next(csv.reader([header], delimiter=delimiter), [])
        if {image_column, caption_column} <= set(columns):
            return delimiter
    raise InputError(
        f"Expected the columns {image_column!r} and {caption_column!r} in {path}, got the "
        f"header {header.strip()[:200]!r}. Rename the columns or name the ones to use."
    )


def _unreadable(path: Path, line: int, error: csv.Error) -> InputError:
    return InputError(
        f"Expected a readable row in line {line} of {path}, got: {error}. Correct the line."
    )
