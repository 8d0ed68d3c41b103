"""Tables of captions, and what their cells may hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from image_files import encode, picture, write

from invertune_plugin.adapters.datasets import (
    CaptionFile,
)
from invertune_plugin.adapters.images import decode
from invertune_plugin.errors import InputError


@pytest.mark.parametrize(("delimiter", "suffix"), [("\t", "csv"), (",", "csv"), ("\t", "tsv")])
def test_rows_of_one_image_become_one_item(folder: Path, delimiter: str, suffix: str) -> None:
    rows = [("filepath", "title"), ("cat/c.png", "a cat"), ("loose.png", "loose"),
            ("cat/c.png", "one more"), ("gone.png", "nothing")]  # fmt: skip
    path = write(folder / f"captions.{suffix}", "\n".join(delimiter.join(r) for r in rows).encode())
    pairs = CaptionFile(path, 24)
    assert list(pairs.texts) == [("a cat", "one more"), ("loose",)]
    assert torch.equal(pairs[0][0], decode(folder / "cat/c.png", 24))
    assert [p.name for p in pairs.unreadable] == ["gone.png"]
    with pytest.raises(InputError, match=r"at least 3 readable .* got 2 of 3"):
        CaptionFile(path, 24, min_images=3)


def test_caption_tables_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got nothing there"):
        CaptionFile(tmp_path / "none.csv", 8)
    path = write(tmp_path / "x.csv", b"image,text\na.png,hello\n")
    with pytest.raises(InputError, match=r"'filepath' and 'title' .* got the header 'image,text'"):
        CaptionFile(path, 8)
    with pytest.raises(InputError, match="'hello, world' and '' in line 2"):
        CaptionFile(write(tmp_path / "y.csv", b'filepath,title\n"hello, world",\n'), 8)
    with pytest.raises(InputError, match="Save it as UTF-8"):
        CaptionFile(write(tmp_path / "z.csv", b"filepath,title\n\xff\xfe,x\n"), 8)


@pytest.mark.parametrize("path", ["word " * 100, "a\0.png", "a.png/b.png", "~" * 5000])
def test_paths_of_a_caption_table_that_no_file_can_have(tmp_path: Path, path: str) -> None:
    """For instance captions, where the two columns have been swapped."""
    write(tmp_path / "a.png", encode(picture(0)))
    table = write(tmp_path / "x.tsv", f"filepath\ttitle\n{path}\tone\na.png\ttwo\n".encode())
    pairs = CaptionFile(table, 8)
    assert list(pairs.texts) == [("two",)]
    assert len(pairs.unreadable) == 1
    with pytest.raises(InputError, match=r"at least 2 readable images .* got 1 of 2") as error:
        CaptionFile(table, 8, min_images=2)
    assert len(str(error.value)) < 600 + 2 * len(str(tmp_path))


def test_cells_of_a_caption_table_that_are_too_long(tmp_path: Path) -> None:
    long = b"x" * 200_000
    for content, line in ((long, 1), (b"filepath,title\na.png," + long, 2)):
        with pytest.raises(InputError, match=rf"in line {line} of .*got: field larger than"):
            CaptionFile(write(tmp_path / "x.csv", content), 8)


def test_caption_columns_can_be_named_and_cells_may_hold_line_breaks(folder: Path) -> None:
    path = write(
        folder / "x.csv", 'id,image,text\r\n1,loose.png,"two\r\nlines\u2028, one"\r\n'.encode()
    )
    pairs = CaptionFile(path, 8, image_column="image", caption_column="text")
    assert list(pairs.texts) == [("two\nlines\u2028, one",)]
