"""Result files: what was run, where, and flat rows of what came out (one per claim)."""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from invertune_plugin.metrics import DEFINITIONS, Rate

PACKAGES = ("invertune-plugin", "torch", "torchvision", "open_clip_torch", "numpy", "scikit-learn")


def record(command: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """A result file: command, commit, machine, versions, definitions and rows; JSON values only."""
    return {
        "command": command,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "definitions": DEFINITIONS,
        "rows": rows,
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that shape results."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Processor, cores and GPU."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": _processor(), "cores": os.cpu_count(), "gpu": gpu}


def commit() -> str | None:
    """Commit of the checkout this package runs from; None outside one."""
    folder = Path(__file__).parent
    try:
        done = subprocess.run(  # noqa: S603
            ["git", "-C", str(folder), "rev-parse", "HEAD"],  # noqa: S607
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def rate_fields(name: str, rate: Rate | None) -> dict[str, float]:
    """A rate as flat fields: ``name``, ``name_low``, ``name_high``, ``name_n``; none for None."""
    if rate is None:
        return {}
    low, high = rate.interval
    return {
        name: round(rate.value, 5),
        f"{name}_low": round(low, 5),
        f"{name}_high": round(high, 5),
        f"{name}_n": rate.n,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
