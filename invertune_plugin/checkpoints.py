"""Weights in and out of files: safe to read, atomic to write, with a card that describes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from invertune_plugin.errors import InputError
from invertune_plugin.files import (
    existing_file,
    file_sha256,
    refuse_existing,
    replacing,
    write_text,
)
from invertune_plugin.pickles import damaged, read_pickle

__all__ = [
    "file_sha256",
    "listed",
    "read_card",
    "read_state_dict",
    "refuse_existing",
    "write_checkpoint",
    "write_text",
]

CARD_KEY = "invertune_card"
PICKLE_SUFFIXES = (".pt", ".pth", ".bin", ".ckpt")
SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)
_WRAPPERS = ("state_dict", "model_state_dict", "model")
MOST_NUMBERS = 2
_MAX_NESTING = 4


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read weights without ever running code from the file.

    Wrapping dicts (``state_dict``, ``model``, ``model_state_dict``) and the prefixes that
    ``DataParallel`` and ``torch.compile`` leave behind are removed.

    Args:
        path: a ``.safetensors`` file, or a pickle of plain tensors (``.pt``, ``.pth``, ``.bin``,
            ``.ckpt``).

    Returns:
        Name -> dense tensor on the CPU; every floating tensor is fp32.

    Raises:
        InputError: the file is missing, damaged, asks to run code, holds no state dict, or has
            weights that are NaN or infinite.
    """
    path = existing_file(path)
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        try:
            content: Any = load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise damaged(path, "safetensors", error) from error
    elif suffix in PICKLE_SUFFIXES:
        content = read_pickle(path)
    else:
        raise InputError(
            f"Expected a checkpoint that ends in {', '.join(SUFFIXES)}, got {path}. "
            "Save the state dict as safetensors."
        )
    tensors = _plain_tensors(_unwrap(content, path), path)
    _refuse_not_finite(tensors, str(path))
    return _strip_prefixes(tensors)


def read_card(path: str | Path) -> dict[str, Any]:
    """Read what ``write_checkpoint`` stored beside the weights.

    Returns:
        The card; empty for files that have none, such as pickles and foreign safetensors.

    Raises:
        InputError: the file is missing, damaged, or its card is not a JSON object.
    """
    path = existing_file(path)
    if path.suffix.lower() != ".safetensors":
        return {}
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(CARD_KEY, "{}")
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(path, "safetensors", error) from error
    try:
        card = json.loads(text)
    except (ValueError, RecursionError):
        card = None
    if not isinstance(card, dict):
        raise InputError(
            f"Expected a JSON object as the card of {path}, got {text[:80]!r}. Write the file "
            "again, or remove the card from its metadata."
        )
    return card


def write_checkpoint(
    path: str | Path,
    state_dict: Mapping[str, Tensor],
    card: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Write weights and their card as one safetensors file; a half-written file never shows.

    Args:
        path: a name that ends in ``.safetensors``; missing folders are made.
        state_dict: name -> tensor; tensors that share memory are stored apart.
        card: what the weights are; JSON values only.
        overwrite: replace an existing file.

    Raises:
        InputError: the file exists, the folder is not writable, the card is not JSON, or weights
            are NaN or infinite.
    """
    path = Path(path)
    if path.suffix.lower() != ".safetensors":
        raise InputError(
            f"Expected an output that ends in .safetensors, got {path}. Rename the output."
        )
    refuse_existing(path, overwrite)
    try:
        text = json.dumps(dict(card), sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"Expected a card of finite JSON values, got one that JSON refuses ({error}). "
            "Turn its values into str, int, float, bool, list or dict."
        ) from error
    _refuse_not_finite(state_dict, "the weights to be saved")
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in state_dict.items():
        stored = tensor.detach().cpu().contiguous()
        if stored.untyped_storage().data_ptr() in storages:
            stored = stored.clone()
        storages.add(stored.untyped_storage().data_ptr())
        tensors[name] = stored
    with replacing(path) as temporary:
        save_file(tensors, temporary, {"format": "pt", CARD_KEY: text})


def _unwrap(content: Any, path: Path) -> Mapping[Any, Any]:
    for _ in range(_MAX_NESTING):
        if not isinstance(content, Mapping):
            break
        inner = [content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            return content
        content = inner[0]
    raise _no_state_dict(path, f"a {type(content).__name__}")


def _plain_tensors(content: Mapping[Any, Any], path: Path) -> dict[str, Tensor]:
    _refuse_repeated(content, path)
    tensors: dict[str, Tensor] = {}
    odd: list[str] = []
    for name, value in content.items():
        if isinstance(value, bool | int | float):
            value = torch.tensor(value)  # noqa: PLW2901
        if not isinstance(name, str) or not isinstance(value, Tensor) or not _is_dense(value):
            odd.append(str(name)[:80])
        elif value.is_floating_point():
            tensors[name] = value.detach().to(torch.float32).contiguous()
        else:
            tensors[name] = value.detach().contiguous()
    if odd:
        raise _no_state_dict(path, f"a dict whose values are not all tensors ({listed(odd)})")
    if not any(value.is_floating_point() for value in tensors.values()):
        raise _no_state_dict(path, "a dict without weights")
    return tensors


def _refuse_repeated(content: Mapping[Any, Any], path: Path) -> None:
    """Refuse tensors that share memory by the thousand: as fp32 each takes its own."""
    dense = [value for value in content.values() if isinstance(value, Tensor) and _is_dense(value)]
    numbers, size = sum(value.numel() for value in dense), path.stat().st_size
    if numbers > MOST_NUMBERS * size:
        raise InputError(
            f"Expected at most {MOST_NUMBERS} numbers a byte in {path}, got {numbers} in {size} "
            "bytes, of tensors that share memory. Save each of them once."
        )


def _is_dense(tensor: Tensor) -> bool:
    """Whether every element is stored: no sparse, quantised, meta or expanded tensor."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _strip_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    tensors = {name.replace("_orig_mod.", ""): tensor for name, tensor in tensors.items()}
    while all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    return tensors


def _refuse_not_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise InputError(
            f"Expected finite weights in {where}, got NaN or infinity in {len(bad)} of "
            f"{len(tensors)} tensors ({listed(bad)}). Use a checkpoint from before the training "
            "diverged."
        )


def listed(names: Sequence[str], limit: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def _no_state_dict(path: Path, came: str) -> InputError:
    return InputError(
        f"Expected a state dict (names to tensors) in {path}, got {came}. "
        "Save model.state_dict(), not the model."
    )
