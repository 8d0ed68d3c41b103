"""A data set as one Parquet file of the Hugging Face image schema."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from invertune_plugin.adapters.writing.samples import (
    Report,
    captioned,
    has_labels,
    labelled,
    needed_names,
    padded,
    png,
)
from invertune_plugin.adapters.writing.truth import check_size, truth_path, truth_text
from invertune_plugin.attacks.ground_truth import GroundTruth
from invertune_plugin.data import ImageSet, PairSet
from invertune_plugin.errors import InputError
from invertune_plugin.files import refuse_existing, replacing

ROW_GROUP = 256


def write_parquet(
    dataset: ImageSet | PairSet,
    path: str | Path,
    class_names: Sequence[str] | None = None,
    truth: GroundTruth | None = None,
    overwrite: bool = False,
    report: Report | None = None,
    row_group: int = ROW_GROUP,
) -> Path:
    """Write PNG images with their labels or captions, one row group at a time.

    The columns are ``image`` (``struct<bytes, path>``) and ``label`` (with the class names in the
    schema) or ``captions`` (``list<string>``): read them with ``ParquetImages`` or
    ``ParquetPairs``. The truth of ``NAME.parquet`` is in ``NAME.truth.json``; without one, an
    older one there is removed.

    Args:
        dataset: images ``uint8 [3, H, W]`` with labels from -1 (none) to K - 1 or with captions.
        path: the file to make, ``*.parquet``.
        class_names: name per label.
        truth: of a poisoned set.
        overwrite: replace the file and its truth.
        report: called with (done, total) after each image.
        row_group: images that are held in memory, 1 or more.

    Returns:
        ``path``.

    Raises:
        InputError: the name is another one or the file exists, a label is out of range, a caption
            is blank, the truth is about another set, or the disk refuses.
    """
    path = Path(path)
    if path.suffix != ".parquet" or path.is_dir():
        raise InputError(f"Expected a file *.parquet to write, got {path}. Choose such a name.")
    if row_group < 1:
        raise InputError(f"Expected row groups of 1 image or more, got {row_group}. Raise it.")
    beside = truth_path(path)
    for file in (path, beside):
        refuse_existing(file, overwrite)
    check_size(truth, len(dataset))
    rows, schema = _rows(dataset, class_names, report)
    with replacing(path) as partial:
        with pq.ParquetWriter(partial, schema) as writer:
            while group := list(islice(rows, row_group)):
                writer.write_table(pa.Table.from_pylist(group, schema))
        if truth is None:
            beside.unlink(missing_ok=True)
        else:
            with replacing(beside) as partial_truth:
                places = [f"row {i}" for i in range(len(dataset))]
                partial_truth.write_text(truth_text(truth, places), encoding="utf-8")
    return path


def _rows(
    dataset: ImageSet | PairSet, class_names: Sequence[str] | None, report: Report | None
) -> tuple[Iterator[dict[str, Any]], Any]:
    def row(index: int, image: Any, column: str, text: object) -> dict[str, Any]:
        name = f"{padded(index, len(dataset), 4)}.png"
        return {"image": {"bytes": png(image), "path": name}, column: text}

    if has_labels(dataset):
        names = needed_names(class_names)
        items = labelled(dataset, names, report, least=-1)
        feature: dict[str, Any] = {"names": list(names), "_type": "ClassLabel"}
        return (row(i, image, "label", label) for i, image, label in items), _schema(
            "label", pa.int64(), feature
        )
    pairs = captioned(dataset, report)
    feature = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"}
    return (row(i, image, "captions", list(found)) for i, image, found in pairs), _schema(
        "captions", pa.list_(pa.string()), feature
    )


def _schema(column: str, kind: Any, feature: dict[str, Any]) -> Any:
    features = {"image": {"_type": "Image"}, column: feature}
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.schema(
        [("image", image), (column, kind)],
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
