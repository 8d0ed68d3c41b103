"""What every writer asks of a data set: images one after the other, with labels or captions."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from invertune_plugin.data import Captions, ImageSet, Items, PairSet, texts_of
from invertune_plugin.errors import InputError

Report = Callable[[int, int], None]


def has_labels(dataset: ImageSet | PairSet) -> bool:
    """Whether the items have labels; otherwise they have captions.

    Raises:
        InputError: there are no items, or they have something else.
    """
    if not len(dataset):
        raise InputError("Expected one image or more to write, got an empty data set. Add images.")
    texts: Sequence[Any] = texts_of(dataset)
    if not isinstance(texts[0], int | tuple):
        raise InputError(
            f"Expected labels (int) or captions (a tuple of text), got {type(texts[0]).__name__}. "
            "Convert them first."
        )
    return isinstance(texts[0], int)


def labelled(
    dataset: Items[Any], class_names: Sequence[str], report: Report | None = None, least: int = 0
) -> Iterator[tuple[int, Tensor, int]]:
    """Go through labelled images: index, ``uint8 [3, H, W]`` and label.

    Args:
        dataset: the images.
        class_names: name per label.
        report: called with (done, total) after each item.
        least: the lowest label that is taken; -1 takes images without a label.

    Raises:
        InputError: a label is out of range.
    """
    for index, image, label in _each(dataset, report):
        if not least <= label < len(class_names):
            raise InputError(
                f"Expected labels from {least} to {len(class_names) - 1}, got {label} at image "
                f"{index}. Leave unlabelled images out with Subset."
            )
        yield index, image, label


def captioned(
    dataset: Items[Any], report: Report | None = None
) -> Iterator[tuple[int, Tensor, Captions]]:
    """Go through pairs: index, ``uint8 [3, H, W]`` and captions without blanks around them.

    Raises:
        InputError: a pair has no caption or a blank one.
    """
    for index, image, captions in _each(dataset, report):
        stripped = tuple(caption.strip() for caption in captions)
        if not stripped or not all(stripped):
            raise InputError(
                f"Expected one or more captions at image {index}, got {captions!r}. "
                "Leave the pair out with Subset."
            )
        yield index, image, stripped


def needed_names(class_names: Sequence[str] | None) -> Sequence[str]:
    """The class names, which labels need.

    Raises:
        InputError: there are none.
    """
    if not class_names:
        raise InputError(
            "Expected class names for a data set with labels, got none. Pass class_names, in label "
            "order."
        )
    return class_names


def png(image: Tensor) -> bytes:
    """The PNG file of an image ``uint8 [3, H, W]``."""
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).contiguous().numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def padded(number: int, count: int, least: int = 1) -> str:
    """A number below ``count`` with zeros in front, so that names sort like numbers."""
    return str(number).zfill(max(least, len(str(max(count - 1, 0)))))


def legal(name: str) -> str:
    """A class name as part of a file name on every system."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_") or "class"


def _each(dataset: Items[Any], report: Report | None) -> Iterator[tuple[int, Tensor, Any]]:
    for index in range(len(dataset)):
        image, text = dataset[index]
        yield index, image, text
        if report is not None:
            report(index + 1, len(dataset))
