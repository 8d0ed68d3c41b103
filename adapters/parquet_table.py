"""Rows of Parquet files as data set items."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from torch import Tensor

from invertune_plugin.adapters.encoded import EncodedSet
from invertune_plugin.adapters.images import decode
from invertune_plugin.errors import InputError

T = TypeVar("T")
_BROKEN = (pa.ArrowException, OSError, UnicodeDecodeError)


def schema_of(path: Path) -> Any:
    """The Arrow schema of a Parquet file.

    Raises:
        InputError: there is no such file, or it is not Parquet.
    """
    if not path.is_file():
        raise InputError(f"Expected a Parquet file at {path}, got none there. Check the path.")
    try:
        return pq.read_schema(path)
    except MemoryError:
        raise
    except _BROKEN as error:
        raise InputError(
            f"Expected a Parquet file at {path}, got something else: {error}. Check the path."
        ) from error


@contextmanager
def _reading(*paths: Path) -> Iterator[None]:
    """Say of damaged pages, which show only when they are read, which file they are in."""
    try:
        yield
    except MemoryError:
        raise
    except _BROKEN as error:
        told = " ".join(str(error).split()).rstrip(".")
        raise InputError(
            f"Expected a whole Parquet file at {', '.join(map(str, paths))}, got: {told}. "
            "Copy or download it again."
        ) from error


class ParquetSet(EncodedSet[T]):
    """Images of one or more Parquet files with the same columns, one behind the other.

    Construction reads schemas only. The first item that is asked for loads the image column; the
    images stay encoded, so memory is about the size of the files. ``stream`` holds no more than one
    row group at a time.

    Args:
        paths: one file or several.
        size: side of the decoded images in pixels.
        image_column: ``struct<bytes, path>`` as Hugging Face writes it, or plain bytes.
        text_column: labels or captions; None for neither.

    Raises:
        InputError: a file is missing or not Parquet, lacks a column, or holds no encoded images.
    """

    def __init__(
        self,
        paths: str | Path | Sequence[str | Path],
        size: int,
        image_column: str,
        text_column: str | None,
    ) -> None:
        super().__init__(size)
        several = [paths] if isinstance(paths, (str, Path)) else paths
        self.paths = [Path(path) for path in several]
        self.image_column = image_column
        self.text_column = text_column
        self._columns = [image_column, *([text_column] if text_column else [])]
        if not self.paths:
            raise InputError("Expected at least one Parquet file, got none. Name one.")
        self._schemas = [schema_of(path) for path in self.paths]
        self._counts: list[int] = [pq.read_metadata(path).num_rows for path in self.paths]
        for path, schema in zip(self.paths, self._schemas, strict=True):
            for column in self._columns:
                if column not in schema.names:
                    raise InputError(
                        f"Expected a column {column!r} in {path}, got {schema.names}. "
                        "Name the column to use."
                    )
                if schema.field(column).type != self._schemas[0].field(column).type:
                    raise InputError(
                        f"Expected {column!r} in {path} to be of the type that it has in "
                        f"{self.paths[0]}, got {schema.field(column).type}. Read the files as "
                        "separate data sets."
                    )
        kind = self._schemas[0].field(image_column).type
        if pa.types.is_struct(kind):
            kind = next((field.type for field in kind if field.name == "bytes"), None)
        if kind not in (pa.binary(), pa.large_binary()):
            raise InputError(
                f"Expected encoded images (bytes, or a struct with a field 'bytes') in the column "
                f"{image_column!r} of {self.paths[0]}, got "
                f"{self._schemas[0].field(image_column).type}. Name the image column, or save the "
                "data set with its images embedded."
            )

    @abstractmethod
    def _read_texts(self, column: Any, count: int, first: int) -> list[T]:
        """Texts of ``count`` rows from row ``first`` on; ``column`` is None without a column."""

    def _images(self, column: Any) -> Any:
        if not pa.types.is_struct(column.type):
            return column
        return pc.struct_field(column, [[field.name for field in column.type].index("bytes")])

    def _column(self, name: str) -> Any:
        tables = []
        for path in self.paths:
            with _reading(path):
                tables.append(
                    pq.read_table(path, columns=[name], memory_map=True, partitioning=None)
                )
        return pa.chunked_array([chunk for table in tables for chunk in table.column(name).chunks])

    @cached_property
    def _encoded(self) -> Any:
        return self._images(self._column(self.image_column))

    @cached_property
    def _texts(self) -> list[T]:
        column = self._column(self.text_column) if self.text_column else None
        with _reading(*self.paths):
            return self._read_texts(column, len(self), 0)

    @property
    def texts(self) -> Sequence[T]:
        """Label or captions per image; reading them loads no images."""
        return self._texts

    def __len__(self) -> int:
        return sum(self._counts)

    def encoded(self, index: int) -> bytes:
        """The image file of an item."""
        return _bytes(self._encoded[index].as_py())

    def name(self, index: int) -> str:
        """The row and the file."""
        for path, count in zip(self.paths, self._counts, strict=True):
            if index < count:
                return f"row {index} of {path}"
            index -= count
        return f"row {index} behind {self.paths[-1]}"

    def stream(self, batch_rows: int = 256) -> Iterator[tuple[Tensor, list[T]]]:
        """Read from front to back without loading the files: one row group at a time.

        Args:
            batch_rows: most images of a batch.

        Yields:
            ``uint8 [B, 3, size, size]`` and B texts; B may be smaller at the end of a file.

        Raises:
            InputError: an image or a text cannot be read.
        """
        first = 0
        for path in self.paths:
            with _reading(path), pq.ParquetFile(path) as file:
                for rows in file.iter_batches(batch_rows, columns=self._columns):
                    column = rows.column(self.text_column) if self.text_column else None
                    texts = self._read_texts(column, rows.num_rows, first)
                    images = []
                    for i, found in enumerate(
                        self._images(rows.column(self.image_column)).to_pylist(), first
                    ):
                        try:
                            images.append(decode(_bytes(found), self.size))
                        except InputError as error:
                            raise InputError(f"{self.name(i)}: {error}") from error
                    first += rows.num_rows
                    yield torch.stack(images), texts


def _bytes(found: object) -> bytes:
    if not isinstance(found, bytes):
        raise InputError(
            f"Expected the bytes of an image, got {type(found).__name__}. Save the data set with "
            "its images embedded, or leave the row out."
        )
    return found
