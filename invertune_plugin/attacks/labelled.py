"""The attacker's labelled images, of the target and of other classes."""

from __future__ import annotations

import torch
from torch import Tensor

from invertune_plugin.data import ImageSet, in_memory
from invertune_plugin.errors import InputError


def by_class(images: ImageSet | None, label: int) -> tuple[Tensor, Tensor]:
    """Images of other classes, and of one, ``uint8 [N, 3, H, W]``.

    Raises:
        InputError: there are no images.
    """
    if images is None:
        raise InputError(
            "Expected labelled images for an attack that crafts a trigger or trains the encoder, "
            "got none. Give the attacker's images."
        )
    loaded = in_memory(images)
    mine = torch.tensor([text == label for text in loaded.texts])
    return loaded.images[~mine], loaded.images[mine]


def refuse_one_kind(others: Tensor, real: Tensor) -> None:
    """Refuse images ``[N, 3, H, W]`` that are all of the target, or none of it.

    Raises:
        InputError: one of the two is empty.
    """
    if len(others) == 0 or len(real) == 0:
        raise InputError(
            f"Expected images of the target class and others, got {len(real)} and {len(others)}. "
            "Give the attacker more data, or choose another target."
        )
