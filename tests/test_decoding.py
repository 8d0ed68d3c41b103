"""How the bytes of one image become pixels."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from image_files import encode, picture, write
from PIL import Image

from invertune_plugin.adapters.backdoorbox.image_sets import to_bytes
from invertune_plugin.adapters.datasets import (
    ImageFolderSet,
)
from invertune_plugin.adapters.images import decode
from invertune_plugin.errors import InputError


@pytest.mark.parametrize(("width", "height"), [(40, 32), (31, 77), (500, 375), (33, 32), (20, 20)])
def test_decode_equals_the_evaluation_transform_of_open_clip(width: int, height: int) -> None:
    from open_clip.transform import image_transform

    image = picture(0, width, height)
    expected = image_transform(32, is_train=False, mean=(0.0,) * 3, std=(1.0,) * 3)(image)
    assert torch.equal(decode(encode(image), 32), (expected * 255).round().to(torch.uint8))


def test_decode_leaves_an_image_of_the_right_size_as_it_is(tmp_path: Path) -> None:
    image = picture(0, 32, 32)
    path = write(tmp_path / "x.png", encode(image))
    expected = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    for source in (path, path.read_bytes(), io.BytesIO(path.read_bytes())):
        found = decode(source, 32)
        assert found.dtype == torch.uint8
        assert found.is_contiguous()
        assert torch.equal(found, expected)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "I;16"])
def test_decode_gives_three_channels_for_every_mode(mode: str) -> None:
    image = Image.new("I;16", (9, 7)) if mode == "I;16" else picture(0).convert(mode)
    form = "JPEG" if mode == "CMYK" else "PNG"
    assert decode(encode(image, form), 16).shape == (3, 16, 16)


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_sixteen_bits_keep_their_grey_levels(mode: str) -> None:
    """Every grey level times 257, as white is 65,535; convert("RGB") would clip at 255."""
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    wide = (levels.astype(np.uint16) * 257).astype("<u2" if mode == "I;16" else ">u2")
    image = Image.frombytes(mode, (16, 16), wide.tobytes())
    expected = torch.from_numpy(levels).expand(3, 16, 16)
    assert torch.equal(decode(encode(image, "TIFF"), 16), expected)
    assert mode != "I;16" or torch.equal(decode(encode(image), 16), expected)
    assert torch.equal(to_bytes(image), expected)


@pytest.mark.parametrize("mode", ["F", "I"])
def test_pixels_whose_white_is_unknown_are_refused(mode: str) -> None:
    image = Image.new(mode, (9, 7), 1)
    with pytest.raises(InputError, match=rf"of up to 16 where .*, got .* mode '{mode}'"):
        decode(encode(image, "TIFF"), 16)
    with pytest.raises(InputError, match="8 bits a channel"):
        to_bytes(image)


def test_white_is_what_the_file_says() -> None:
    """A PGM of 65,535 levels, and a TIFF of twelve bits that are stored in sixteen."""
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = torch.from_numpy(levels).expand(3, 16, 16)
    wide = (levels.astype(np.uint16) * 257).astype(">u2").tobytes()
    assert torch.equal(decode(b"P5 16 16 65535\n" + wide, 16), expected)
    narrow = Image.frombytes("I;16", (16, 16), (levels.astype("<u2") << 4).tobytes())
    narrow.tag_v2 = {258: (12,)}  # type: ignore[attr-defined]
    assert torch.equal(to_bytes(narrow), expected)


@pytest.mark.parametrize("kind", [5, 12])
def test_tags_of_a_wrong_type_make_an_image_unreadable(tmp_path: Path, kind: int) -> None:
    """Pillow then raises TypeError or OverflowError; the other images are read all the same."""
    tiff = bytearray(encode(picture(0), "TIFF"))
    (directory,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, directory)
    for entry in range(directory + 2, directory + 2 + 12 * count, 12):
        if struct.unpack_from("<H", tiff, entry) == (273,):  # StripOffsets
            struct.pack_into("<H", tiff, entry + 2, kind)
    write(tmp_path / "a.png", encode(picture(1)))
    broken = write(tmp_path / "b.tif", bytes(tiff))
    assert ImageFolderSet(tmp_path, 8).unreadable == [broken]


def test_decode_refuses_what_would_blow_up_in_memory() -> None:
    with pytest.raises(InputError, match=r"sides within 1:64, got 1 x 4000 pixels"):
        decode(encode(picture(0, 1, 4000)), 224)
