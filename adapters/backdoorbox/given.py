"""The model that a user of the toolbox gave to a defence, and where it is to run."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from invertune_plugin.adapters.backdoorbox.evaluator import device_of_model
from invertune_plugin.adapters.backdoorbox.schedules import device_of
from invertune_plugin.defenses.base import Schedule
from invertune_plugin.errors import InputError


def given_network(model: Any) -> nn.Module:
    """The model itself.

    Raises:
        InputError: it is no module.
    """
    if not isinstance(model, nn.Module):
        raise InputError(
            f"Expected a model that is a torch.nn.Module, got {type(model).__name__}. "
            "Pass the classifier itself as model."
        )
    return model


def device_asked_for(settings: Schedule, model: nn.Module) -> torch.device:
    """The device that a schedule asks for; where it asks for none, that of the model.

    Raises:
        InputError: a GPU is asked for and absent.
    """
    return device_of(settings) if "device" in settings else device_of_model(model)
