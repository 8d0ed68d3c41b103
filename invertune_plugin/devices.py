"""Which device to run on."""

from __future__ import annotations

import torch

from invertune_plugin.errors import InputError


def pick_device(name: str = "auto") -> torch.device:
    """The device of a name; ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        InputError: the device is unknown or absent.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise _unknown(name) from error
    mps = device.type == "mps" and torch.backends.mps.is_available()
    if device.type not in ("cpu", "cuda") and not mps:
        raise _unknown(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"Expected a CUDA device {name!r}, but torch sees {torch.cuda.device_count()} here. "
            "Use --device cpu, or install a CUDA build of torch and its driver."
        )
    return device


def _unknown(name: str) -> InputError:
    return InputError(
        f"Expected auto, cpu, cuda or cuda:N as device, got {name!r}. Use auto, which takes CUDA "
        "where there is one."
    )
