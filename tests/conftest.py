"""Fixtures of several modules."""

from __future__ import annotations

from pathlib import Path

import pytest
from image_files import encode, picture, write


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
