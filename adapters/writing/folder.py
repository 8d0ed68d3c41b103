"""A data set as a folder of PNG files: one folder a class, or a caption table beside the images."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from invertune_plugin.adapters.writing.replacing import refuse_filled, replacing_folder
from invertune_plugin.adapters.writing.samples import (
    Report,
    captioned,
    has_labels,
    labelled,
    legal,
    needed_names,
    padded,
    png,
)
from invertune_plugin.adapters.writing.truth import FOLDER_TRUTH, check_size, truth_text
from invertune_plugin.attacks.ground_truth import GroundTruth
from invertune_plugin.data import ImageSet, Items, PairSet
from invertune_plugin.errors import InputError

CAPTION_TABLE = "captions.csv"
IMAGE = r"\d{4,}\.png"
CLASSES = rf"\d+-[A-Za-z0-9_-]+/({IMAGE})?"
OWN = rf"{CLASSES}|images/({IMAGE})?|{CAPTION_TABLE}|{FOLDER_TRUTH}"


def write_folder(
    dataset: ImageSet | PairSet,
    root: str | Path,
    class_names: Sequence[str] | None = None,
    truth: GroundTruth | None = None,
    overwrite: bool = False,
    report: Report | None = None,
) -> Path:
    """Write a data set as PNG files; images are made one at a time.

    Labelled images go to ``root/<label>-<name>/<index>.png``, with zeros in front: read them with
    ``ImageFolderSet(root, size)``. Captioned ones go to ``root/images/<index>.png``, with their
    captions in ``root/captions.csv``: read them with ``CaptionFile``. The truth is in
    ``root/ground_truth.json``. ``root`` is complete or absent, whenever the writing ends.

    Args:
        dataset: images ``uint8 [3, H, W]`` with labels from 0 to K - 1 or with captions.
        root: the folder to make.
        class_names: name per label; every class needs an image, or labels would move up.
        truth: of a poisoned set.
        overwrite: replace a folder written before.
        report: called with (done, total) after each image.

    Returns:
        ``root``.

    Raises:
        InputError: ``root`` holds files already (with ``overwrite``: others than such a folder's),
            a label is out of range, a class has no image, a caption is blank, the truth is about
            another set, or the disk refuses.
    """
    root = Path(root)
    refuse_filled(root, overwrite, OWN, "write_folder")
    check_size(truth, len(dataset))
    names = needed_names(class_names) if has_labels(dataset) else None
    with replacing_folder(root) as partial:
        if names is not None:
            places = write_classes(dataset, names, partial, report)
        else:
            places = _write_captioned(dataset, partial, report)
        if truth is not None:
            (partial / FOLDER_TRUTH).write_text(truth_text(truth, places), encoding="utf-8")
    return root


def write_classes(
    dataset: Items[Any], class_names: Sequence[str], folder: Path, report: Report | None = None
) -> list[str]:
    """Write labelled images into class folders of an empty folder.

    Returns:
        File per image, relative to the folder.

    Raises:
        InputError: a label is out of range, or a class has no image.
    """
    names = [f"{padded(i, len(class_names))}-{legal(n)}" for i, n in enumerate(class_names)]
    empty = set(range(len(names)))
    for name in names:
        (folder / name).mkdir()
    places = []
    for index, image, label in labelled(dataset, class_names, report):
        empty.discard(label)
        places.append(f"{names[label]}/{padded(index, len(dataset), 4)}.png")
        (folder / places[-1]).write_bytes(png(image))
    if empty:
        raise InputError(
            "Expected an image of every class, got none of "
            f"{', '.join(class_names[i] for i in sorted(empty)[:8])}. Export images of all "
            "classes: readers number the classes by the folders that hold images."
        )
    return places


def _write_captioned(dataset: Items[Any], folder: Path, report: Report | None) -> list[str]:
    (folder / "images").mkdir()
    places = []
    with (folder / CAPTION_TABLE).open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(("filepath", "title"))
        for index, image, captions in captioned(dataset, report):
            places.append(f"images/{padded(index, len(dataset), 4)}.png")
            (folder / places[-1]).write_bytes(png(image))
            table.writerows((places[-1], caption) for caption in captions)
    return places
