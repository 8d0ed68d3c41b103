"""What toolbox attacks that reach into the network need, so that they run on the given model."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

from torch import nn

from invertune_plugin.adapters.backdoorbox.staged import math_attention

PIXEL_DATASET = "gtsrb"
"""``dataset_name`` for IAD, ISSBA and LIRA: the one for which they leave pixels in [0, 1]."""

SECOND_ORDER = frozenset({"LIRA", "SleeperAgent"})
"""Attacks that differentiate a gradient, which attention allows with its plain kernel only."""


def fit_attack(attack: Any) -> Any:
    """Make a constructed attack use the model that it was given; the same object comes back.

    LIRA builds a VGG of its own to try its updates on: it gets copies of the given model instead.
    Attacks of second order train under ``math_attention``.

    Args:
        attack: an instance of a toolbox attack; those that need nothing stay as they are.
    """
    name = type(attack).__name__
    if name == "LIRA":
        attack.create_net = lambda: lambda: copy.deepcopy(attack.model)
    if name in SECOND_ORDER:
        attack.train = _with_math_attention(attack.train)
    return attack


def restart_from(model: nn.Module) -> Callable[[nn.Module], nn.Module]:
    """SleeperAgent's ``init_model``: back to the weights of now, where upstream draws new ones.

    A CLIP is not trained from scratch in the epochs of an attack.
    """
    start = {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}

    def restart(trained: nn.Module) -> nn.Module:
        trained.load_state_dict(start)
        return trained

    return restart


def _with_math_attention(train: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(train)
    def run(*args: Any, **kwargs: Any) -> Any:
        with math_attention():
            return train(*args, **kwargs)

    return run
