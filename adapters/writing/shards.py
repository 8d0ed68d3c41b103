"""A data set as webdataset shards: tar files in which the parts of a sample share a name."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from invertune_plugin.adapters.shards import CLASS_NAMES
from invertune_plugin.adapters.writing.replacing import refuse_filled, replacing_folder
from invertune_plugin.adapters.writing.samples import (
    Report,
    captioned,
    has_labels,
    labelled,
    needed_names,
    padded,
    png,
)
from invertune_plugin.adapters.writing.truth import FOLDER_TRUTH, check_size, truth_text
from invertune_plugin.attacks.ground_truth import GroundTruth
from invertune_plugin.data import ImageSet, Items, PairSet
from invertune_plugin.errors import InputError

SAMPLES = 1000
OWN = rf"shard-\d+\.tar|{CLASS_NAMES}|{FOLDER_TRUTH}"
Sample = tuple[str, dict[str, bytes]]


def write_shards(
    dataset: ImageSet | PairSet,
    root: str | Path,
    class_names: Sequence[str] | None = None,
    truth: GroundTruth | None = None,
    overwrite: bool = False,
    report: Report | None = None,
    samples: int = SAMPLES,
) -> Path:
    """Write ``root/shard-<number>.tar``; images are made one at a time.

    A sample is ``<index>.png`` with ``<index>.cls`` (its label), or with ``<index>.txt`` (its first
    caption) and, where it has several, ``<index>.json`` (``{"captions": [...]}``). Read them with
    ``ShardImages`` or ``ShardPairs``. Class names are in ``root/classnames.txt``, the truth is in
    ``root/ground_truth.json``. ``root`` is complete or absent, whenever the writing ends.

    Args:
        dataset: images ``uint8 [3, H, W]`` with labels from 0 to K - 1 or with captions.
        root: the folder to make.
        class_names: name per label.
        truth: of a poisoned set.
        overwrite: replace a folder written before.
        report: called with (done, total) after each image.
        samples: most samples of a shard, 1 or more.

    Returns:
        ``root``.

    Raises:
        InputError: ``root`` holds files already (with ``overwrite``: others than such a folder's),
            a label is out of range, a caption is blank, the truth is about another set, or the
            disk refuses.
    """
    root = Path(root)
    if samples < 1:
        raise InputError(f"Expected shards of 1 sample or more, got {samples}. Raise it.")
    refuse_filled(root, overwrite, OWN, "write_shards")
    check_size(truth, len(dataset))
    names = needed_names(class_names) if has_labels(dataset) else None
    found = _captioned(dataset, report) if names is None else _labelled(dataset, names, report)
    shards = -(-len(dataset) // samples)
    places: list[str] = []
    with replacing_folder(root) as partial:
        for number in range(shards):
            name = f"shard-{padded(number, shards, 6)}.tar"
            with tarfile.open(partial / name, "w") as shard:
                for key, parts in islice(found, samples):
                    places.append(f"{name}/{key}.png")
                    for extension, data in parts.items():
                        _add(shard, f"{key}.{extension}", data)
        if names is not None:
            (partial / CLASS_NAMES).write_text("\n".join(names) + "\n", encoding="utf-8")
        if truth is not None:
            (partial / FOLDER_TRUTH).write_text(truth_text(truth, places), encoding="utf-8")
    return root


def _labelled(
    dataset: Items[Any], class_names: Sequence[str], report: Report | None
) -> Iterator[Sample]:
    for index, image, label in labelled(dataset, class_names, report):
        yield padded(index, len(dataset), 6), {"png": png(image), "cls": str(label).encode()}


def _captioned(dataset: Items[Any], report: Report | None) -> Iterator[Sample]:
    for index, image, captions in captioned(dataset, report):
        parts = {"png": png(image), "txt": captions[0].encode()}
        if len(captions) > 1:
            parts["json"] = json.dumps({"captions": captions}, ensure_ascii=False).encode()
        yield padded(index, len(dataset), 6), parts


def _add(shard: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    shard.addfile(member, io.BytesIO(data))
