"""Data sets by their path, equal images kept together, and the embedded ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_files import encode, picture, write, write_parquet

from invertune_plugin.adapters.datasets import (
    ImageFolderSet,
    ParquetImages,
    data_file,
    data_root,
    image_set,
    pair_set,
)
from invertune_plugin.data import Concat, split_by_content
from invertune_plugin.errors import InputError


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
