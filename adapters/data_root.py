"""Where the real data sets are, which are no part of the project."""

from __future__ import annotations

import os
from pathlib import Path

from invertune_plugin.errors import InputError


def data_root() -> Path | None:
    """The folder of the real data sets: ``INVERTUNE_DATA``, else ``../shared/data``, else none.

    Raises:
        InputError: ``INVERTUNE_DATA`` is set and names no folder.
    """
    named = os.environ.get("INVERTUNE_DATA")
    if named:
        if not Path(named).is_dir():
            raise InputError(
                f"Expected a folder in INVERTUNE_DATA, got {named!r}. Correct or unset it."
            )
        return Path(named)
    beside = Path("..", "shared", "data")
    return beside if beside.is_dir() else None


def data_file(name: str) -> Path:
    """The path of a file among the real data sets.

    Raises:
        InputError: there is no data folder, or it lacks the file.
    """
    root = data_root()
    if root is None:
        raise InputError(
            f"Expected {name} among the real data sets, got no folder of data sets. Set "
            "INVERTUNE_DATA to a folder of Parquet files in the Hugging Face image schema."
        )
    if not (root / name).is_file():
        have = ", ".join(sorted(path.name for path in root.glob("*.parquet"))) or "no Parquet file"
        raise InputError(
            f"Expected {name} in {root}, got {have}. Put it there or set INVERTUNE_DATA to "
            "another folder."
        )
    return root / name
