"""Where a number comes from: commit, machine, versions. Nothing heavy is imported for it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("invertune-plugin", "torch", "torchvision", "open_clip_torch", "numpy", "scikit-learn")

CODE = ("invertune_plugin", "adapters", "configs")


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape results."""
    found = {name: _version(name) for name in PACKAGES}
    return {"python": platform.python_version()} | {n: v for n, v in found.items() if v}


def machine() -> dict[str, Any]:
    """Processor, cores and GPU; no GPU where nothing in this process uses torch."""
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name() if torch and torch.cuda.is_available() else None
    return {"cpu": _processor(), "cores": os.cpu_count(), "gpu": gpu}


@lru_cache
def commit() -> str | None:
    """Commit of the checkout this package runs from, as at first asked; None outside one.

    ``+changes`` behind it tells that its code is not all committed.
    """
    try:
        root = Path(_git(Path(__file__).parent, "rev-parse", "--show-toplevel"))
        if f'name = "{PACKAGES[0]}"' not in (root / "pyproject.toml").read_text(encoding="utf-8"):
            return None
        changed = _git(root, "status", "--porcelain", "--", *CODE)
        return _git(root, "rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *words: str) -> str:
    done = subprocess.run(  # noqa: S603
        ["git", "--no-optional-locks", "-C", str(folder), *words],  # noqa: S607
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


@lru_cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@lru_cache
def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
