"""Data sets that keep encoded images and decode one when it is asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from torch import Tensor

from invertune_plugin.adapters.images import fit, open_rgb, pixel_key
from invertune_plugin.errors import InputError

T = TypeVar("T")


class EncodedSet(ABC, Generic[T]):
    """Items ``(uint8 [3, size, size], text)``; a subclass knows where the encoded bytes are.

    Args:
        size: side of the decoded images in pixels.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._keys: dict[int, bytes] = {}

    @property
    @abstractmethod
    def texts(self) -> Sequence[T]:
        """Label or captions per image; reading them decodes nothing."""

    @abstractmethod
    def encoded(self, index: int) -> bytes:
        """The image file of an item."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Where an item comes from, for messages."""

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> tuple[Tensor, T]:
        text = self.texts[index]
        try:
            return fit(open_rgb(self.encoded(index)), self.size), text
        except InputError as error:
            raise InputError(f"{self.name(index)}: {error}") from error

    def content_key(self, index: int) -> bytes:
        """Hash of the RGB pixels at their stored size.

        Equal for the same picture in a folder, a Parquet file, a tar shard or a torchvision data
        set, and in any lossless format. The first call for an item decodes it (unless the set was
        verified when it was made), later ones do not.

        Raises:
            InputError: the image cannot be read.
        """
        if index not in self._keys:
            try:
                self._keys[index] = pixel_key(open_rgb(self.encoded(index)))
            except InputError as error:
                raise InputError(f"{self.name(index)}: {error}") from error
        return self._keys[index]
