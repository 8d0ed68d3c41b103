"""Data sets of torchvision's kind: ``(PIL image, label)``."""

from __future__ import annotations

from typing import Any, Protocol

from PIL import Image
from torch import Tensor

from invertune_plugin.adapters.images import fit, pixel_key
from invertune_plugin.decoding import to_rgb
from invertune_plugin.errors import InputError


class Indexed(Protocol):
    """What torchvision's data sets, and subsets of them, have in common."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class TorchvisionSet:
    """A ``DatasetFolder``, ``ImageFolder``, ``CIFAR10`` or the like as an ``ImageSet``.

    Args:
        dataset: gives ``(PIL image, label)``; build it with ``transform=None``.
        size: side of the decoded images in pixels.

    Attributes:
        class_names: the data set's ``classes``; empty where it has none.
    """

    def __init__(self, dataset: Indexed, size: int) -> None:
        self.dataset = dataset
        self.size = size
        self.class_names: list[str] = list(getattr(dataset, "classes", ()))

    def _item(self, index: int) -> tuple[Image.Image, int]:
        image, label = self.dataset[index]
        if not isinstance(image, Image.Image):
            raise InputError(
                f"Expected PIL images from {type(self.dataset).__name__}, got "
                f"{type(image).__name__}. Build it with transform=None (arrays and tensors do not "
                "say whether they hold RGB or BGR, or which range)."
            )
        return to_rgb(image), int(label)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self._item(index)
        return fit(image, self.size), label

    def content_key(self, index: int) -> bytes:
        """Hash of the RGB pixels, the same as for this image in a folder or a Parquet file."""
        return pixel_key(self._item(index)[0])
