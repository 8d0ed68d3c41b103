"""Data sets of the toolbox's kind as our ``ImageSet``: whatever the items are, bytes come out."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from invertune_plugin.adapters.images import fit, pixel_key
from invertune_plugin.adapters.torchvision_sets import Indexed
from invertune_plugin.class_order import class_names_of
from invertune_plugin.data import ImageSet
from invertune_plugin.decoding import to_rgb
from invertune_plugin.errors import InputError

ROUNDING = 1e-3


class ToolboxImages:
    """Any labelled map-style data set as an ``ImageSet``; see ``image_set_of``.

    Attributes:
        class_names: the ``classes`` of the data set or of the one it is a subset of; empty where
            there are none.
    """

    def __init__(self, dataset: Indexed, image_size: int | None) -> None:
        self.dataset = dataset
        self.image_size = image_size
        self.class_names = class_names_of(dataset)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.dataset[index]
        pixels = to_bytes(image, self.image_size)
        if self.image_size is not None and pixels.shape[1:] != (self.image_size, self.image_size):
            raise InputError(
                f"Expected images of {self.image_size} x {self.image_size} pixels, got "
                f"{pixels.shape[1]} x {pixels.shape[2]} at {index}. Resize them in the data set's "
                "transform, before the tensor step."
            )
        return pixels, int(label)

    def content_key(self, index: int) -> bytes:
        """Hash of the pixels at their own size, the same as in a folder or a Parquet file."""
        pixels = to_bytes(self.dataset[index][0])
        return pixel_key(Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()))


def image_set_of(dataset: Any, image_size: int | None = None) -> ImageSet:
    """A labelled data set of the toolbox or torchvision as an ``ImageSet``.

    Args:
        dataset: a ``DatasetFolder``, ``CIFAR10``, ``MNIST``, ``Subset``, ``TensorDataset``, list of
            pairs or the like; an ``ImageSet`` is returned as it is. Its items, after its own
            transform, are pairs of an image (see ``to_bytes``) and a label.
        image_size: PIL images are resized and cropped to this side, as open_clip does; arrays and
            tensors must have it. None takes images as they are.

    Returns:
        Items ``(uint8 [3, H, W], label)`` in the same order; read when asked for, and refused then
        (``InputError``) where they are no images.

    Raises:
        InputError: the data set cannot be indexed.
    """
    if hasattr(dataset, "content_key"):
        images: ImageSet = dataset
        return images
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise InputError(
            f"Expected a data set with a length and an index, got {type(dataset).__name__}. "
            "Pass the data set itself, not its DataLoader or iterator."
        )
    return ToolboxImages(dataset, image_size)


def to_bytes(image: Any, image_size: int | None = None) -> Tensor:
    """One image as ``uint8 [3, H, W]``.

    Args:
        image: PIL image; array ``[H, W]``, ``[H, W, 1]`` or ``[H, W, 3]`` in RGB order; tensor
            ``[H, W]``, ``[1, H, W]`` or ``[3, H, W]``. Arrays and tensors hold bytes or floats in
            [0, 1]. Grey images get three equal channels.
        image_size: side to fit PIL images to, see ``images.fit``.

    Raises:
        InputError: another type or shape, or values outside [0, 1].
    """
    if isinstance(image, Image.Image):
        rgb = to_rgb(image)
        if image_size is not None:
            return fit(rgb, image_size)
        image = np.array(rgb)
    if isinstance(image, np.ndarray):
        array = torch.from_numpy(np.ascontiguousarray(image))
        image = array.permute(2, 0, 1) if array.ndim == 3 else array
    if not isinstance(image, Tensor):
        raise InputError(
            f"Expected a PIL image, an array or a tensor, got {type(image).__name__}. "
            "Items of the data set are pairs of an image and a label."
        )
    pixels = image.detach().cpu()
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        raise InputError(
            f"Expected an image of 1 or 3 channels, got {list(pixels.shape)} as [channels, height, "
            "width]. Tensors have channels first, arrays last."
        )
    return _bytes(pixels).expand(3, -1, -1).contiguous()


def _bytes(pixels: Tensor) -> Tensor:
    if pixels.dtype == torch.uint8:
        return pixels
    low, high = float(pixels.min()), float(pixels.max())
    if not (pixels.is_floating_point() and low >= -ROUNDING and high <= 1 + ROUNDING):
        raise InputError(
            f"Expected bytes, or floats in [0, 1], got {pixels.dtype} from {low:.3g} to {high:.3g}."
            " Take Normalize out of the data set's transform and give its mean and std to the "
            "model: triggers and defences here work on pixels."
        )
    return pixels.clamp(0, 1).mul(255).round().to(torch.uint8)
