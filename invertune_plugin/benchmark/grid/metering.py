"""What a block of work takes: wall time and most memory."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from invertune_plugin.benchmark.grid.claims import Cost

_SELF = Path("/proc/self")


class Meter:
    """Wall time since it was made, and most memory since then."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def read(self) -> Cost:
        """The cost so far."""
        seconds = round(time.perf_counter() - self._start, 3)
        return Cost(seconds, _peak_mb(), _peak_gpu_mb())


@contextmanager
def metered() -> Iterator[Meter]:
    """A meter of the block; peaks of what this process did before do not count."""
    with suppress(OSError):
        (_SELF / "clear_refs").write_text("5")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    yield Meter()


def _peak_mb() -> float | None:
    """Most resident memory since the mark was reset; only Linux tells."""
    try:
        lines = (_SELF / "status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return round(int(found[0]) / 1024, 1) if found else None


def _peak_gpu_mb() -> float | None:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return round(int(torch.cuda.max_memory_allocated()) / 2**20, 1)
