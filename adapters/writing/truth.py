"""The ground truth of a written data set, as one JSON file beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from invertune_plugin.adapters.encoded import EncodedSet
from invertune_plugin.attacks.ground_truth import GroundTruth
from invertune_plugin.errors import InputError

FORMAT = "invertune-ground-truth"
VERSION = 1
FOLDER_TRUTH = "ground_truth.json"


def truth_path(data: str | Path) -> Path:
    """Where the ground truth of a written data set is.

    Args:
        data: a folder, a data file, or the ground truth itself.
    """
    data = Path(data)
    if data.suffix == ".json":
        return data
    return data / FOLDER_TRUTH if data.is_dir() else data.with_suffix(".truth.json")


def truth_beside(data: str | Path) -> Path | None:
    """The ground truth of data as a reader names them; None where there is none.

    Args:
        data: a folder, a Parquet file, or the caption table or the shards inside a folder.
    """
    data = Path(data).expanduser()
    beside = truth_path(data)
    inside = data.parent / FOLDER_TRUTH
    return next((path for path in (beside, inside) if path.is_file()), None)


def check_size(truth: GroundTruth | None, size: int) -> None:
    """Check that a ground truth is about a data set of this size.

    Raises:
        InputError: it is about another one.
    """
    if truth is not None and truth.size != size:
        raise InputError(
            f"Expected the ground truth of {size} items, got one of {truth.size}. "
            "Write the poisoned set itself, not a part of it."
        )


def truth_text(truth: GroundTruth, places: Sequence[str]) -> str:
    """The content of the file.

    Args:
        truth: what was poisoned.
        places: file, archive member or row per item of the data set, in its order.
    """
    placed = tuple(replace(item, place=places[item.index]) for item in truth.poisoned)
    content = {"format": FORMAT, "version": VERSION, **asdict(replace(truth, poisoned=placed))}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def read_ground_truth(path: str | Path) -> GroundTruth:
    """Read and check what a data set says about itself.

    Args:
        path: the written folder, Parquet file, or the JSON file itself.

    Raises:
        InputError: there is no such file, it is no ground truth of this version, or it contradicts
            itself.
    """
    path = truth_path(path)
    if not path.is_file():
        raise InputError(
            f"Expected a ground truth at {path}, got none there. Check the path, or write the data "
            "set with its truth."
        )
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"Expected JSON in {path}, got what is none: {error}. Write the data set again."
        ) from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise InputError(
            f"Expected the ground truth of a data set in {path}, got another JSON file. "
            "Check the path."
        )
    version = content.pop("version", None)
    if version != VERSION:
        raise InputError(
            f"Expected version {VERSION} of a ground truth in {path}, got {version!r}. "
            "Write the data set again with this version of the package."
        )
    truth = _parsed(content, path)
    wrong = _contradiction(truth)
    if wrong:
        raise InputError(
            f"Expected a consistent ground truth in {path}, got {wrong}. Write the data set again."
        )
    return truth


def poisoned_indices(truth: GroundTruth, dataset: EncodedSet[Any]) -> list[int]:
    """Where the poisoned items are in a written data set as our readers order it.

    A folder of classes is read class by class, so that its indices are not those of the truth.

    Args:
        truth: of the written data set.
        dataset: that data set, read again: one folder, one Parquet file, or all shards.

    Returns:
        Indices in ``dataset``, sorted; of those that can be read.

    Raises:
        InputError: the data set lacks a poisoned item, or is another one.
    """
    places = {item.place for item in truth.poisoned}
    unreadable = {_place(str(path)) for path in getattr(dataset, "unreadable", ())} & places
    found = [i for i in range(len(dataset)) if _place(dataset.name(i)) in places]
    if len(found) + len(unreadable) != len(truth.poisoned):
        raise InputError(
            f"Expected the {len(truth.poisoned)} poisoned items of the ground truth in the data "
            f"set, got {len(found)} of them. Read all of the data set that it belongs to."
        )
    return found


def _place(name: str) -> str:
    row = re.match(r"row \d+", name)
    return row.group() if row else "/".join(Path(name).parts[-2:])


def _parsed(content: dict[str, Any], path: Path) -> GroundTruth:
    try:
        return TypeAdapter(GroundTruth).validate_json(json.dumps(content), strict=True)
    except RecursionError as error:
        raise InputError(
            f"Expected plain settings in {path}, got deeply nested ones. Write the data set again."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"Expected a complete ground truth in {path}, got {first['input']!r:.80} for {where}: "
            f"{first['msg']}. Write the data set again."
        ) from error


def _contradiction(truth: GroundTruth) -> str:
    indices = [item.index for item in truth.poisoned]
    if indices != sorted(set(indices)):
        return "indices that are not sorted or not unique"
    if indices and not 0 <= indices[0] <= indices[-1] < truth.size:
        return f"indices outside 0 to {truth.size - 1}"
    if any(not 0 <= item.backdoor < len(truth.backdoors) for item in truth.poisoned):
        return f"a backdoor outside 0 to {len(truth.backdoors) - 1}"
    if not 0 < truth.rate <= 1:
        return f"the rate {truth.rate}"
    return ""
