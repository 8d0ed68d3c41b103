"""Data sets from folders, tables, Parquet files and shards."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from invertune_plugin.adapters.backdoorbox.image_sets import to_bytes
from invertune_plugin.adapters.class_names import match_names
from invertune_plugin.adapters.class_sets import class_names
from invertune_plugin.adapters.datasets import (
    CaptionFile,
    ImageFolderSet,
    ParquetImages,
    ParquetPairs,
    ShardPairs,
    TorchvisionSet,
    data_file,
    data_root,
    image_set,
    labelled_or_captioned,
    pair_set,
)
from invertune_plugin.adapters.folder_names import folder_labels, own_names
from invertune_plugin.adapters.images import decode, fit, open_rgb
from invertune_plugin.adapters.shards import expand
from invertune_plugin.adapters.writing.folder import write_folder
from invertune_plugin.data import Concat, InMemory, mention, split_by_content
from invertune_plugin.errors import InputError


def picture(seed: int, width: int = 40, height: int = 32) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encode(image: Image.Image, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def write_parquet(
    path: Path,
    images: Sequence[bytes | None],
    text: Sequence[Any],
    column: str = "label",
    names: Sequence[str] | None = ("cat", "dog"),
) -> Path:
    feature = {"names": list(names), "_type": "ClassLabel"} if names else {"_type": "Value"}
    features = {"image": {"_type": "Image"}, column: feature}
    table = pa.table(
        {"image": [{"bytes": data, "path": None} for data in images], column: text},
    ).cast(
        pa.schema(
            [
                ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
                (column, pa.array(text).type),
            ],
            metadata={"huggingface": json.dumps({"info": {"features": features}})},
        )
    )
    pq.write_table(table, path, row_group_size=3)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six readable images in two classes and the root, two unreadable ones, one text file."""
    root = tmp_path / "images"
    for i, name in enumerate(["Traffic_Light/a.png", "Traffic_Light/deep/er/b.PNG", "cat/c.png"]):
        write(root / name, encode(picture(i)))
    write(root / "cat/d.jpg", encode(picture(3), "JPEG"))
    write(root / "cat/e.bmp", encode(picture(2), "BMP"))
    write(root / "loose.png", encode(picture(4)))
    write(root / "cat/truncated.jpg", encode(picture(5), "JPEG")[:-200])
    write(root / "cat/text.png", b"no image at all")
    write(root / "readme.txt", b"ignored")
    write(root / ".hidden/x.png", b"ignored")
    write(root / "cat/._c.png", b"ignored")
    return root


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


def test_folder_labels_order_and_unreadable_images(folder: Path) -> None:
    images = ImageFolderSet(folder, 24)
    assert images.class_names == ["Traffic_Light", "cat"]
    assert [Path(images.name(i)).name for i in range(len(images))] == [
        "a.png", "b.PNG", "c.png", "d.jpg", "e.bmp", "loose.png",
    ]  # fmt: skip
    assert list(images.texts) == [0, 0, 1, 1, 1, -1]
    assert [path.name for path in images.unreadable] == ["text.png", "truncated.jpg"]
    image, label = images[1]
    assert image.shape == (3, 24, 24)
    assert label == 0


def test_folder_names_are_mapped_to_class_names(folder: Path) -> None:
    images = ImageFolderSet(folder, 24, ["dog", "traffic light"])
    assert list(images.texts) == [1, 1, -1, -1, -1, -1]
    assert images.class_names == ["dog", "traffic light"]


def test_a_folder_of_no_class_among_others_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images = ImageFolderSet(folder, 24, ["traffic light", "cart"])
    assert images.unnamed == ["cat"]
    assert "1 of 2 sub-folders" in caplog.text
    assert "'cat' (cart?)" in caplog.text
    caplog.clear()
    ImageFolderSet(folder, 24, ["dog", "car"])
    assert "sub-folders" not in caplog.text, "these folders are no classes at all"


def test_folders_that_write_folder_made_are_the_classes_they_were(tmp_path: Path) -> None:
    names = ["20 km/h", "arrow", "20 km_h", "café"]
    images = InMemory(torch.zeros(8, 3, 4, 4, dtype=torch.uint8), [0, 1, 2, 3] * 2)
    root = write_folder(images, tmp_path / "written", names)
    assert list(ImageFolderSet(root, 4, names).texts) == [0, 0, 1, 1, 2, 2, 3, 3]
    other = ["arrow", "café", "star"]
    assert list(ImageFolderSet(root, 4, other).texts) == [-1, -1, 0, 0, -1, -1, 1, 1]
    assert folder_labels(["0-20_km_h"], ["20 km/h", "20 km_h"]) == [0]
    assert folder_labels(["7-20_km_h"], ["20 km/h", "20 km_h"]) == [-1], "either of two"


def test_the_classes_of_a_written_folder_go_by_their_names(tmp_path: Path) -> None:
    names = [f"class {number}" for number in range(11)]
    images = InMemory(torch.zeros(11, 3, 4, 4, dtype=torch.uint8), list(range(11)))
    found = ImageFolderSet(write_folder(images, tmp_path / "written", names), 4)
    assert found.class_names == [name.replace(" ", "_") for name in names]
    assert list(found.texts) == list(range(11))


@pytest.mark.parametrize(
    "folders", [["1-cat", "2-dog"], ["0-cat", "dog"], ["0-cat", "1-cat"], ["0-a", "1-b", "10-c"]]
)
def test_other_folders_keep_their_numbers(folders: list[str]) -> None:
    assert own_names(folders) == folders


def test_all_of_imagenet_may_be_named_by_wordnet() -> None:
    folders = [f"n{number:08}" for number in range(1000)]
    imagenet = class_names("imagenet")
    assert folder_labels(folders, imagenet) == list(range(1000))
    assert folder_labels(folders[:999], imagenet) == [-1] * 999
    assert folder_labels(folders, [*imagenet[1:], "x"]) == [-1] * 1000


def test_match_names_prefers_the_exact_one_and_refuses_doubt() -> None:
    assert match_names(["Top-Hat", "b"], ["top hat", "Top-Hat", "B"]) == [1, 2]
    with pytest.raises(InputError, match="fit one class name"):
        match_names(["TOP_HAT"], ["top hat", "Top-Hat"])


def test_repeated_names_stay_apart() -> None:
    twice = ["missile", "cat", "missile"]
    assert match_names(twice, twice) == [0, 1, 2]
    assert match_names(["cat", *twice], twice) == [1, 0, 1, 2]
    assert match_names(["missile"] * 3, ["cat", "missile"]) == [1, 1, 1]
    imagenet = class_names("imagenet")
    assert match_names(imagenet, imagenet) == list(range(1000))


@pytest.mark.parametrize(
    ("caption", "name", "named"),
    [
        ("a photo of a kite (bird of prey).", "kite (bird of prey)", True),
        ("my C++ book", "c++", True),
        ("a category", "cat", False),
        ("a cat.", "cat", True),
        ("wildcat_2", "cat", False),
    ],
)
def test_mentions_of_names_that_end_in_no_letter(caption: str, name: str, named: bool) -> None:
    assert mention(("nothing", caption), name) is named


def test_too_few_readable_images_are_refused_with_names_and_counts(folder: Path) -> None:
    assert len(ImageFolderSet(folder, 24, min_images=6)) == 6
    with pytest.raises(InputError, match=r"at least 7 readable .* got 6 of 8") as error:
        ImageFolderSet(folder, 24, min_images=7)
    assert "cat/text.png (15 bytes: no image format that Pillow knows)" in str(error.value)
    assert "bytes: image file is truncated" in str(error.value)


def test_missing_and_empty_folders_say_what_is_accepted(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing there\. Accepted: \.bmp, \.jpeg, \.jpg"):
        ImageFolderSet(tmp_path / "none", 24)
    write(tmp_path / "notes.txt", b"x")
    with pytest.raises(InputError, match=r"got 1 files of other kinds\. Accepted: .*\.webp"):
        ImageFolderSet(tmp_path, 24)


def test_links_are_followed_but_not_in_circles(folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "linked"
    root.mkdir()
    (root / "one").symlink_to(folder / "cat", target_is_directory=True)
    (root / "two").symlink_to(folder / "cat", target_is_directory=True)
    (root / "self").symlink_to(root, target_is_directory=True)
    assert list(ImageFolderSet(root, 24).texts) == [0, 0, 0, 1, 1, 1]


def test_equal_pixels_have_equal_keys_in_every_kind_of_set(folder: Path, tmp_path: Path) -> None:
    from torchvision.datasets import DatasetFolder

    images = ImageFolderSet(folder, 24)
    assert images.content_key(2) == images.content_key(4)
    assert len({images.content_key(i) for i in range(len(images))}) == 5
    data = [images.encoded(i) for i in range(len(images))]
    parquet = ParquetImages(write_parquet(tmp_path / "x.parquet", data, [0, 0, 1, 1, 1, None]), 48)
    vision = TorchvisionSet(
        DatasetFolder(str(folder), loader=open_rgb, is_valid_file=lambda path: "a.png" in path,
                      allow_empty=True),
        24,
    )  # fmt: skip
    assert [parquet.content_key(i) for i in range(6)] == [images.content_key(i) for i in range(6)]
    assert vision.content_key(0) == images.content_key(0)
    assert torch.equal(vision[0][0], images[0][0])
    assert vision.class_names[-2:] == ["Traffic_Light", "cat"]


def test_torchvision_set_asks_for_pil_images() -> None:
    with pytest.raises(InputError, match=r"Expected PIL images .* got Tensor.*transform=None"):
        TorchvisionSet([(torch.zeros(3, 8, 8), 0)], 8)[0]


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


def test_image_set_chooses_by_the_path(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(image_set(folder, 8), ImageFolderSet)
    path = write_parquet(tmp_path / "a.parquet", [encode(picture(0))], [1])
    assert isinstance(image_set(str(path), 8, ["dog"]), ParquetImages)
    with pytest.raises(InputError, match="at least 2 images"):
        image_set(path, 8, min_images=2)
    with pytest.raises(InputError, match=r"got 1 file\(s\) \*\.xyz"):
        image_set(write(tmp_path / "a.xyz", b""), 8)
    with pytest.raises(InputError, match=r"got a folder.*ClassCaptions"):
        pair_set(folder, 8)
    with pytest.raises(InputError, match=r"got nothing at .*nowhere.*INVERTUNE_DATA"):
        image_set("nowhere", 8)
    monkeypatch.setenv("INVERTUNE_DATA", str(tmp_path))
    assert len(image_set("a.parquet", 8)) == 1


def test_data_root_comes_from_the_environment_or_beside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.delenv("INVERTUNE_DATA", raising=False)
    assert data_root() is None
    with pytest.raises(InputError, match="Set INVERTUNE_DATA to a folder"):
        data_file("x.parquet")
    write(tmp_path / "shared/data/x.parquet", b"")
    assert data_file("x.parquet").is_file()
    with pytest.raises(InputError, match=r"Expected y\.parquet in .* got x\.parquet"):
        data_file("y.parquet")
    monkeypatch.setenv("INVERTUNE_DATA", str(tmp_path / "none"))
    with pytest.raises(InputError, match="Correct or unset it"):
        data_root()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    order=st.lists(st.integers(0, 5), min_size=1, max_size=24),
    forms=st.lists(st.sampled_from(["PNG", "BMP", "TIFF"]), min_size=24, max_size=24),
    salt=st.text(max_size=8),
    cut=st.floats(0.1, 0.9),
)
def test_equal_images_never_reach_two_parts(
    tmp_path: Path, order: list[int], forms: list[str], salt: str, cut: float
) -> None:
    data = [encode(picture(seed, 8, 8), form) for seed, form in zip(order, forms, strict=False)]
    path = write_parquet(tmp_path / "p.parquet", data, [0] * len(data))
    whole = Concat([ParquetImages(path, 8), ParquetImages(path, 16)])
    parts = split_by_content(whole, {"defence": cut, "evaluation": 1 - cut}, salt)
    indices = [set(part.indices) for part in parts.values()]
    assert not indices[0] & indices[1]
    assert len(indices[0] | indices[1]) == len(whole)
    seeds = [{(order * 2)[i] for i in part} for part in indices]
    assert not seeds[0] & seeds[1]


def real(name: str) -> Path:
    root = data_root()
    if root is None or not (root / name).is_file():
        pytest.skip(f"{name} is not in the folder of INVERTUNE_DATA")
    return root / name


@pytest.mark.data
@pytest.mark.parametrize(("name", "classes", "rows"),
    [("cifar10-test", 10, 10_000), ("gtsrb-test", 43, 12_630),
     ("tinyimagenet32-validation", 200, 10_000)],
)  # fmt: skip
def test_real_labelled_images(name: str, classes: int, rows: int) -> None:
    images = ParquetImages(real(f"{name}.parquet"), 32)
    assert len(images) == rows
    assert len(images.class_names) == classes
    assert set(images.texts) == set(range(classes))
    assert all(images[i][0].shape == (3, 32, 32) for i in range(50))
    batch, labels = next(images.stream(4))
    assert torch.equal(batch, torch.stack([images[i][0] for i in range(4)]))
    assert labels == list(images.texts[:4])


@pytest.mark.data
def test_real_captioned_images() -> None:
    pairs = pair_set(real("flickr8k-validation.parquet"), 64)
    assert len(pairs) == 284
    image, captions = pairs[0]
    assert image.shape == (3, 64, 64)
    assert len(captions) == 5
