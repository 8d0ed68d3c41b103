"""What a data set is to this package.

Images are ``uint8`` tensors ``[3, H, W]``; models and triggers see them as floats in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar, cast, overload

import torch
from torch import Tensor

from invertune_plugin.errors import InputError

Text = TypeVar("Text", covariant=True)
T = TypeVar("T")
Captions = tuple[str, ...]


class Items(Protocol[Text]):
    """A map-style data set of ``(uint8 [3, H, W], text)``.

    ``text`` is a label (``int``, -1 where unknown) in an ``ImageSet`` and a tuple of one or more
    captions in a ``PairSet``.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, Text]: ...

    def content_key(self, index: int, /) -> bytes:
        """Bytes that are equal for equal images; they decide the split an image falls into."""
        ...


ImageSet = Items[int]
PairSet = Items[Captions]


class Texts(Sequence[T]):
    """Labels or captions of a data set, each read when it is asked for.

    Args:
        count: how many there are.
        read: the text of an index from 0 to ``count - 1``.
    """

    def __init__(self, count: int, read: Callable[[int], T]) -> None:
        self._indices = range(count)
        self._read = read

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[T]:
        return map(self._read, self._indices)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self._read(i) for i in self._indices[index]]
        return self._read(self._indices[index])


def texts_of(dataset: Items[T]) -> Sequence[T]:
    """The labels or captions of a data set; where it has ``texts``, no image is decoded."""
    known = getattr(dataset, "texts", None)
    if known is not None:
        return cast("Sequence[T]", known)
    return Texts(len(dataset), lambda index: dataset[index][1])


def to_unit(images: Tensor) -> Tensor:
    """Turn ``uint8`` images into floats in [0, 1] (what every model and trigger here works on).

    Raises:
        InputError: they are of another type; floats have been divided by 255 before, it may be.
    """
    if images.dtype != torch.uint8:
        raise InputError(
            f"Expected uint8 images from the data set, got {images.dtype}. Load them with "
            "PILToTensor in place of ToTensor."
        )
    return images.to(torch.float32).div_(255.0)


def batches(dataset: Items[T], batch_size: int) -> Iterator[tuple[Tensor, list[T]]]:
    """Go through a data set in order, as ``(uint8 [B, 3, H, W], B texts)``."""
    for start in range(0, len(dataset), batch_size):
        items = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
        yield torch.stack([image for image, _ in items]), [text for _, text in items]
