"""The rows of Parquet files whose images can be read."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from invertune_plugin.adapters.encoded import EncodedSet
from invertune_plugin.adapters.parquet_table import ParquetSet
from invertune_plugin.adapters.verified import checked
from invertune_plugin.data import Subset
from invertune_plugin.errors import InputError

T = TypeVar("T")


class ReadableRows(EncodedSet[T]):
    """Some rows of a Parquet set, in order.

    Args:
        rows: the set.
        indices: of the rows that can be read.
        unreadable: names of the others.

    Attributes:
        class_names: of the set, where it has labels.
        unreadable: as given.
    """

    def __init__(
        self, rows: ParquetSet[T], indices: Sequence[int], unreadable: Sequence[str]
    ) -> None:
        super().__init__(rows.size)
        self.rows, self.indices, self.unreadable = rows, indices, list(unreadable)
        self.class_names: list[str] = list(getattr(rows, "class_names", ()))

    @property
    def texts(self) -> Sequence[T]:
        """Label or captions per row."""
        return Subset(self.rows, self.indices).texts

    def encoded(self, index: int) -> bytes:
        """The image file of a row."""
        return self.rows.encoded(self.indices[index])

    def name(self, index: int) -> str:
        """The row and the file."""
        return self.rows.name(self.indices[index])

    def same_rows(self, other: ParquetSet[T]) -> ReadableRows[T]:
        """These rows of the same files, opened otherwise."""
        return ReadableRows(other, self.indices, self.unreadable)


def readable_rows(rows: ParquetSet[T], threads: int = 2) -> ReadableRows[T]:
    """Decode every image once, as a truncated one shows in no other way, and leave out what fails.

    Args:
        rows: the set.
        threads: that decode.

    Raises:
        InputError: no image can be read.
    """

    def reads(index: int) -> bool:
        return isinstance(checked(lambda: rows.encoded(index)), bytes)

    with ThreadPoolExecutor(threads) as pool:
        fine = list(pool.map(reads, range(len(rows))))
    broken = [rows.name(index) for index, good in enumerate(fine) if not good]
    if len(broken) == len(fine):
        raise InputError(
            f"Expected readable images in {rows.paths[0]}, got none among {len(fine)} rows. Save "
            "the data set with its images embedded."
        )
    return ReadableRows(rows, [index for index, good in enumerate(fine) if good], broken)
