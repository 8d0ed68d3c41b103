"""Data sets are written elsewhere than they are read."""

from __future__ import annotations

from pathlib import Path

from invertune_plugin.adapters.datasets import named_paths
from invertune_plugin.errors import InputError


def refuse_own_source(spec: str | Path, place: Path) -> None:
    """Check that a data set is not replaced by what is made of it; call it before the work.

    Args:
        spec: what is read, as ``image_set`` and ``pair_set`` take it.
        place: the file or folder that will be replaced.

    Raises:
        InputError: what is read is ``place`` or lies inside it, or there is nothing to read.
    """
    if any(path.resolve().is_relative_to(place.resolve()) for path in named_paths(spec)):
        raise InputError(
            f"Expected data that are written elsewhere than they are read, got {spec} and {place}. "
            "Choose another --out."
        )
