"""Images with labels or captions in Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from image_files import encode, picture, write, write_parquet

from invertune_plugin.adapters.datasets import (
    ParquetImages,
    ParquetPairs,
    image_set,
    pair_set,
)
from invertune_plugin.errors import InputError


def test_parquet_labels_names_and_stream(tmp_path: Path) -> None:
    data = [encode(picture(i)) for i in range(5)]
    first = write_parquet(tmp_path / "a.parquet", data, [0, 1, 1, 0, 1])
    second = write_parquet(tmp_path / "b.parquet", data[:2], [1, 1])
    images = ParquetImages([first, second], 16)
    assert len(images) == 7
    assert images.class_names == ["cat", "dog"]
    assert list(images.texts) == [0, 1, 1, 0, 1, 1, 1]
    assert torch.equal(images[6][0], images[1][0])
    assert images[6][1] == 1
    assert images.name(6) == f"row 1 of {second}"
    batches = list(images.stream(2))
    assert all(len(batch) == len(labels) <= 2 for batch, labels in batches)
    assert torch.equal(
        torch.cat([b for b, _ in batches]), torch.stack([image for image, _ in images])
    )
    assert [label for _, labels in batches for label in labels] == list(images.texts)


def test_parquet_labels_follow_the_class_names_asked_for(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a.parquet", [encode(picture(0))] * 3, [0, 1, None])
    assert list(ParquetImages(path, 8, class_names=["bird", "Dog"]).texts) == [-1, 1, -1]
    bare = write_parquet(tmp_path / "b.parquet", [encode(picture(0))] * 2, [0, 1], names=None)
    with pytest.raises(InputError, match=r"Expected ClassLabel names .* Pass class_names"):
        ParquetImages(bare, 8)
    assert list(ParquetImages(bare, 8, class_names=["bird", "dog"]).texts) == [0, 1]
    assert list(ParquetImages(bare, 8, label_column=None).texts) == [-1, -1]
    with pytest.raises(InputError, match=r"labels from -1 to 0, got 1 in row 1 of"):
        _ = ParquetImages(bare, 8, class_names=["bird"]).texts
    other = write_parquet(tmp_path / "c.parquet", [encode(picture(0))], [0], names=["x"])
    with pytest.raises(InputError, match="same class names"):
        ParquetImages([path, other], 8)


def test_parquet_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="got none there"):
        ParquetImages(tmp_path / "none.parquet", 8)
    with pytest.raises(InputError, match=r"Expected a Parquet file .* got something else"):
        ParquetImages(write(tmp_path / "x.parquet", b"not parquet at all"), 8)
    path = write_parquet(tmp_path / "a.parquet", [encode(picture(0)), b"junk", None], [0, 1, 1])
    with pytest.raises(InputError, match=r"'img' in .* got \['image', 'label'\]"):
        ParquetImages(path, 8, image_column="img")
    with pytest.raises(InputError, match=r"Expected encoded images .* got int64"):
        ParquetImages(path, 8, image_column="label")
    images = ParquetImages(path, 8)
    assert images[0][0].shape == (3, 8, 8)
    with pytest.raises(InputError, match=r"^row 1 of .*got 4 bytes"):
        images[1]
    with pytest.raises(InputError, match=r"^row 1 of "):
        images.content_key(1)
    with pytest.raises(InputError, match=r"^row 2 of .*images embedded"):
        images[2]
    with pytest.raises(InputError, match=r"^row 1 of .*got 4 bytes"):
        list(images.stream())


def test_parquet_files_with_damaged_pages(tmp_path: Path) -> None:
    """The schema lies at the end of the file; what is in front of it shows when it is read."""
    captions = [["a"]] * 6
    path = write_parquet(
        tmp_path / "p.parquet", [encode(picture(0))] * 6, captions, "captions", None
    )
    whole = path.read_bytes()
    group = pq.read_metadata(path).row_group(0)
    chunks = [group.column(i) for i in range(group.num_columns)]
    for kind in ("image.bytes", "captions.list.element"):
        chunk = next(c for c in chunks if c.path_in_schema == kind)
        start = chunk.dictionary_page_offset or chunk.data_page_offset
        damaged = whole[:start] + b"\xff" * 20 + whole[start + 20 :]
        pairs = ParquetPairs(write(tmp_path / f"{kind}.parquet", damaged), 8)
        with pytest.raises(InputError, match=rf"Parquet file at .*{kind}\.parquet, got: .*again"):
            pairs[0]
        with pytest.raises(InputError, match=rf"Parquet file at .*{kind}\.parquet, got: .*again"):
            list(pairs.stream())


def test_parquet_captions_that_are_no_unicode(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "p.parquet", [encode(picture(0))], ["_caption_"], "caption", None
    )
    path.write_bytes(path.read_bytes().replace(b"_caption_", b"_c\xffption_"))
    with pytest.raises(InputError, match=r"whole Parquet file at .*got: 'utf-8' codec can't"):
        pair_set(path, 8)[0]


@pytest.mark.parametrize(
    ("column", "text"), [("captions", [["a", "b"], ["c"]]), ("caption", ["a", "c"])]
)
def test_parquet_captions(tmp_path: Path, column: str, text: list[Any]) -> None:
    path = write_parquet(
        tmp_path / "p.parquet", [encode(picture(i)) for i in range(2)], text, column, None
    )
    pairs = pair_set(path, 8)
    assert isinstance(pairs, ParquetPairs)
    assert pairs[1][1] == ("c",)
    assert pairs[0][1] == tuple(text[0])
    assert image_set(path, 8)[0][1] == -1


def test_parquet_rows_without_captions_are_refused(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "p.parquet", [encode(picture(0))] * 2, [["a"], []], "captions", None
    )
    with pytest.raises(InputError, match=r"one or more captions in row 1 of"):
        _ = ParquetPairs(path, 8).texts
