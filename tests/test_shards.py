"""Tar archives of images and captions."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from image_files import encode, picture, write

from invertune_plugin.adapters.datasets import (
    ShardPairs,
    image_set,
    labelled_or_captioned,
    pair_set,
)
from invertune_plugin.adapters.images import fit
from invertune_plugin.adapters.shards import expand
from invertune_plugin.errors import InputError


def write_shard(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as shard:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            shard.addfile(info, io.BytesIO(data))
    return path


def test_shards_are_read_in_place(tmp_path: Path) -> None:
    broken = encode(picture(2), "JPEG")[:-100]
    write_shard(
        tmp_path / "x-000.tar",
        {"a/0.txt": b"zero", "a/0.png": encode(picture(0)), "a/1.png": encode(picture(1)),
         "a/2.jpg": broken, "a/2.txt": b"two", "a/0.json": b"{}"},
    )  # fmt: skip
    write_shard(tmp_path / "x-001.tar", {"0.png": encode(picture(3)), "0.txt": b"three\n"})
    pairs = pair_set(str(tmp_path / "x-{000..001}.tar"), 8)
    assert isinstance(pairs, ShardPairs)
    assert list(pairs.texts) == [("zero",), ("three",)]
    assert torch.equal(pairs[1][0], fit(picture(3), 8))
    assert pairs.unreadable == [tmp_path / "x-000.tar/a/2.jpg"]
    assert len(pair_set(str(tmp_path / "x-*.tar"), 8)) == 2
    assert image_set(tmp_path / "x-001.tar", 8)[0][1] == -1
    with pytest.raises(InputError, match="uncompressed tar file"):
        ShardPairs([write(tmp_path / "y.tar", b"no tar")], 8)


def add_sparse(path: Path, name: str, size: int) -> None:
    """Add a member of ``size`` bytes that takes three blocks: all of it is a hole."""
    info = tarfile.TarInfo(name)
    info.pax_headers = {"GNU.sparse.size": str(size), "GNU.sparse.numblocks": "1",
                        "GNU.sparse.map": f"{size},0"}  # fmt: skip
    with tarfile.open(path, "a", format=tarfile.PAX_FORMAT) as shard:
        shard.addfile(info)


@pytest.mark.parametrize("extension", ["txt", "json", "png"])
def test_holes_in_shards_are_not_filled(tmp_path: Path, extension: str) -> None:
    content = {"0.png": encode(picture(0)), "0.txt": b"zero", "1.txt": b"one", "1.png": b""}
    content.pop(f"1.{extension}", None)
    path = write_shard(tmp_path / "x.tar", content)
    add_sparse(path, f"1.{extension}", 1 << 40)
    pairs = ShardPairs([path], 8)
    assert list(pairs.texts) == [("zero",)]
    assert pairs.unreadable == [path / "1.png"]
    with pytest.raises(InputError, match=rf"1\.png \(1\.{extension} is a sparse file"):
        ShardPairs([path], 8, min_images=2)


@pytest.mark.parametrize("extension", ["txt", "cls"])
def test_texts_in_shards_are_short(tmp_path: Path, extension: str) -> None:
    content = {"0.png": encode(picture(0)), f"0.{extension}": b"0", "1.png": encode(picture(1)),
               f"1.{extension}": b"0" * ((1 << 20) + 1)}  # fmt: skip
    path = write_shard(tmp_path / "x.tar", content)
    found = image_set(path, 8, ["cat", "dog"])
    read: Any = getattr(found, "pairs", found)
    assert len(read) == 1
    assert read.unreadable == [path / "1.png"]


def test_a_long_text_beside_a_caption_does_no_harm(tmp_path: Path) -> None:
    long = b"{" + b" " * (1 << 20) + b"}"
    content = {"0.png": encode(picture(0)), "0.txt": b"a cat", "0.json": long}
    found = pair_set(write_shard(tmp_path / "x.tar", content), 8)
    assert [found[0][1], found.unreadable] == [("a cat",), []]


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME])
def test_headers_that_claim_more_than_there_is(tmp_path: Path, kind: bytes) -> None:
    for size in (10**13, 1 << 70):
        path = write_shard(tmp_path / "x.tar", {"0.txt": b"zero", "0.png": encode(picture(0))})
        info = tarfile.TarInfo("1.txt")
        info.size, info.type = size, kind
        with tarfile.open(path, "a", format=tarfile.GNU_FORMAT) as shard:
            shard.addfile(info)
        with pytest.raises(InputError, match="Expected an uncompressed tar file at"):
            pair_set(path, 8)


def test_a_folder_of_one_series_of_shards_is_read_as_them(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        content = {"a.png": encode(picture(number)), "a.txt": b"text"}
        write_shard(tmp_path / "in" / f"x-{number:03}.tar", content)
    (tmp_path / "in" / "ground_truth.json").write_text("{}")
    assert len(pair_set(tmp_path / "in", 8)) == len(labelled_or_captioned(tmp_path / "in", 8)) == 2
    write_shard(tmp_path / "in" / "y-000.tar", content)
    with pytest.raises(InputError, match="got a folder"):
        pair_set(tmp_path / "in", 8)


def test_ranges_keep_their_zeros() -> None:
    assert expand("a{08..10}b{1..2}") == ["a08b1", "a08b2", "a09b1", "a09b2", "a10b1", "a10b2"]
