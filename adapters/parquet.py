"""Images in Parquet files of the Hugging Face schema: labelled ones and captioned ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from invertune_plugin.adapters.class_names import counted_in
from invertune_plugin.adapters.data_root import data_file, data_root
from invertune_plugin.adapters.parquet_table import ParquetSet
from invertune_plugin.data import Captions
from invertune_plugin.errors import InputError

__all__ = ["ParquetImages", "ParquetPairs", "data_file", "data_root"]


class ParquetImages(ParquetSet[int]):
    """Labelled images.

    Args:
        paths: one file or several.
        size: side of the decoded images in pixels.
        image_column: the image column.
        label_column: integers that count in the ClassLabel names of the schema metadata; None
            gives every image the label -1.
        class_names: names that labels shall count in. Where the file has names of its own, labels
            are translated by name (those without a match become -1); where it has none, its
            integers are taken to count in these.

    Attributes:
        class_names: what the labels mean.

    Raises:
        InputError: as for ``ParquetSet``; there are no class names; a label is out of their range
            (when labels are first read).
    """

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        size: int,
        image_column: str = "image",
        label_column: str | None = "label",
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(paths, size, image_column, label_column)
        own = self._own_names() if label_column else None
        if label_column and own is None and class_names is None:
            raise InputError(
                f"Expected ClassLabel names for {label_column!r} in the metadata of "
                f"{self.paths[0]}, got none. Pass class_names (in label order), or "
                "label_column=None for images without labels."
            )
        self.class_names, self._label = counted_in(own, class_names)

    def _own_names(self) -> list[str] | None:
        names = [_class_label_names(schema, self.text_column) for schema in self._schemas]
        if any(other != names[0] for other in names):
            raise InputError(
                f"Expected the same class names in {[str(path) for path in self.paths]}, got "
                "different ones. Read the files as separate data sets."
            )
        return names[0]

    def _read_texts(self, column: Any, count: int, first: int) -> list[int]:
        if column is None:
            return [-1] * count
        labels = []
        for i, found in enumerate(column.to_pylist(), first):
            label = -1 if found is None else found
            if not isinstance(label, int) or not -1 <= label < len(self._label):
                raise InputError(
                    f"Expected labels from -1 to {len(self._label) - 1}, got {label!r} in "
                    f"{self.name(i)}. Correct the class names or the label column."
                )
            labels.append(self._label[label] if label >= 0 else -1)
        return labels


def _class_label_names(schema: Any, column: str | None) -> list[str] | None:
    raw = (schema.metadata or {}).get(b"huggingface")
    try:
        names = json.loads(raw or b"{}")["info"]["features"][column]["names"]
    except (ValueError, KeyError, TypeError):
        return None
    return [str(name) for name in names] or None


class ParquetPairs(ParquetSet[Captions]):
    """Images with captions.

    Args:
        paths: one file or several.
        size: side of the decoded images in pixels.
        image_column: the image column.
        caption_column: ``list<string>``, or ``string`` for one caption each.

    Raises:
        InputError: as for ``ParquetSet``; a row has no caption (when captions are first read).
    """

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        size: int,
        image_column: str = "image",
        caption_column: str = "captions",
    ) -> None:
        super().__init__(paths, size, image_column, caption_column)

    def _read_texts(self, column: Any, count: int, first: int) -> list[Captions]:
        captions = []
        for i, found in enumerate(column.to_pylist(), first):
            texts = (found,) if isinstance(found, str) else tuple(found or ())
            if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
                raise InputError(
                    f"Expected one or more captions in {self.name(i)}, got {found!r}. "
                    "Remove the row or complete it."
                )
            captions.append(texts)
        return captions
