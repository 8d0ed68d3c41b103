"""Single files of the real toolbox, run without its package and without writing into the clone."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest

IMPORTED = ("cv2", "lpips", "imageio", "umap", "hdbscan", "pandas")


def clone() -> str:
    """Path of a clone that can be loaded as a package; the test is skipped without one."""
    home = path_of_clone()
    missing = [name for name in IMPORTED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"the extra [toolbox] is not installed: no {', '.join(missing)}")
    return home


def path_of_clone() -> str:
    """Path of the clone; the test is skipped without one."""
    home = os.environ.get("BACKDOORBOX_HOME")
    if not home:
        pytest.skip("BACKDOORBOX_HOME names no clone of BackdoorBox")
    return home


def upstream_file(path: str) -> Any:
    """A file of the clone that imports nothing of its package, as a module of its own."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, Path(path_of_clone()) / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "dont_write_bytecode", True)
        spec.loader.exec_module(module)
    return module
