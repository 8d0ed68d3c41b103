"""Models without memory for weights: what a config claims costs nothing until weights fit it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from invertune_plugin.adapters.model_configs import ModelSpec, build_model
from invertune_plugin.errors import InputError

TIMES = 10
LEAST = 10_000_000
OF_A_TENSOR = 1_000


def empty_model(spec: ModelSpec, state_dict: Mapping[str, Tensor], source: str) -> nn.Module:
    """Make a model on the device ``meta``; random numbers stay as they are.

    Building stops as soon as the model is far larger than the weights that shall fill it: a card
    can ask for a million layers, too.

    Args:
        spec: the architecture, maybe as an untrusted checkpoint describes it.
        state_dict: the weights.
        source: where they came from, for messages.

    Raises:
        InputError: open_clip cannot build the config, or the model has more than ten times as many
            weights as there are.
    """
    room = TIMES * sum(tensor.numel() for tensor in state_dict.values()) + LEAST
    too_large = InputError(
        f"Expected the weights of {spec.name} in {source}, got less than a tenth of what it needs. "
        "Name the architecture that the checkpoint was made with."
    )
    with _Room(room, too_large), torch.device("meta"):
        return build_model(spec)


class _Room(TorchFunctionMode):
    """Counts the elements of new tensors, and more for each tensor, as it needs a module."""

    def __init__(self, room: int, too_large: InputError) -> None:
        super().__init__()
        self.room = room
        self.too_large = too_large

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and not any(isinstance(arg, Tensor) for arg in args):
            self.room -= result.numel() + OF_A_TENSOR
            if self.room < 0:
                raise self.too_large
        return result
