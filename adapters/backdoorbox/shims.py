"""What the patched toolbox calls in place of what is gone."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def zero_gradients(tensor: Tensor) -> None:
    """Clear a tensor's gradient, as the function did that torch 1.9 removed."""
    if tensor.grad is not None:
        tensor.grad.detach_()
        tensor.grad.zero_()


def perceptual_loss(lpips: ModuleType, trunk: str) -> nn.Module:
    """LPIPS on a pretrained trunk, or on a random one where it cannot be downloaded."""
    try:
        return lpips.LPIPS(net=trunk)  # type: ignore[no-any-return]
    except OSError as error:
        warnings.warn(
            f"LPIPS could not download its {trunk} trunk ({error}); it measures with random "
            f"weights. Put the trunk into {torch.hub.get_dir()} for the published loss.",
            stacklevel=2,
        )
        return lpips.LPIPS(net=trunk, pnet_rand=True)  # type: ignore[no-any-return]


def as_bytes(image: NDArray[Any]) -> NDArray[np.uint8]:
    """An image as bytes; values outside [0, 1] are spread over the whole range."""
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 1:
        image = (image - low) / (high - low)
    return (image * 255 + 0.5).astype(np.uint8)


def load_array(path: str | Path) -> NDArray[Any]:
    """A numpy array written by ``torch.save``; nothing else is let in.

    Raises:
        pickle.UnpicklingError: the file asks to run other code.
    """
    rebuild = np.arange(1).__reduce__()[0]
    needed: list[Any] = [rebuild, np.ndarray, np.dtype, np.dtypes.Int64DType, np.dtypes.Int32DType]
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals(needed)
    try:
        return np.array(torch.load(path, map_location="cpu", weights_only=True))
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)
