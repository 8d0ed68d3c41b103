"""Pickles of strangers: read as data, never as a program."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from invertune_plugin.errors import InputError

_SAFE_PICKLE_TORCH = (2, 6)
_ARCHIVE = b"PK\x03\x04"
_BESIDE_WEIGHTS = (
    "argparse.Namespace",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
)


class _Inert:
    """Stands in for what lies beside weights in a pickle; takes anything and keeps nothing."""

    __slots__ = ()

    def __new__(cls, *_: Any) -> _Inert:
        return super().__new__(cls)

    def __setstate__(self, _: Any) -> None:
        """Forget the state."""


def read_pickle(path: Path) -> Any:
    """Read a pickle with torch's restricted reader; nothing that it names ever runs.

    Training scripts also save their options (``argparse.Namespace``, PAR) and learning rates that
    are NumPy numbers (CleanCLIP, BadCLIP), which that reader refuses. Only these names are let
    through, and they become empty objects of ours: neither argparse nor NumPy is called.

    Args:
        path: a ``.pt``, ``.pth``, ``.bin`` or ``.ckpt`` file.

    Returns:
        What was pickled: tensors on the CPU, containers, plain values, and empty objects.

    Raises:
        InputError: torch is too old, the file is damaged, asks to run code, or would grow when it
            is read.
    """
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if version < _SAFE_PICKLE_TORCH:
        raise InputError(
            f"Expected torch 2.6 or newer to read the pickle {path} safely, got "
            f"{torch.__version__}. Update torch, or convert the file to safetensors."
        )
    _check_archive(path)
    try:
        with torch.serialization.safe_globals(_INERT):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        if refused is None:
            raise damaged(path, "PyTorch", error) from error
        raise InputError(
            f"Expected plain tensors in {path}, got a pickle that asks to run {refused[1]}. "
            "It was refused and nothing ran. Save its state_dict() as safetensors where you "
            "trust it."
        ) from error
    except Exception as error:
        raise damaged(path, "PyTorch", error) from error


def damaged(path: Path, kind: str, error: Exception) -> InputError:
    """What to say of a file that cannot be read."""
    detail = str(error).split("\n", 1)[0][:160] or type(error).__name__
    return InputError(
        f"Expected a whole {kind} file, got {path}, which cannot be read ({detail}). "
        "It may be truncated or of another kind; download or copy it again."
    )


def _check_archive(path: Path) -> None:
    """Refuse TorchScript, and records that are larger in memory than in the file."""
    try:
        with path.open("rb") as file:
            if file.read(len(_ARCHIVE)) != _ARCHIVE:
                return
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except Exception as error:
        raise damaged(path, "PyTorch", error) from error
    if any(record.filename.endswith("/constants.pkl") for record in records):
        raise InputError(
            f"Expected a state dict in {path}, got a TorchScript archive, which holds code. "
            "Save its state_dict() as safetensors where you trust it; for OpenAI's own models "
            "pass the tag 'openai' instead of a file."
        )
    size, stored = sum(record.file_size for record in records), path.stat().st_size
    if size > stored or any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise InputError(
            f"Expected records as torch.save stores them in {path}, got compressed or repeated "
            f"ones ({size} bytes in a file of {stored}). Save the state_dict() with torch.save."
        )


def _inert(path: str) -> type[_Inert]:
    module, _, name = path.rpartition(".")
    return type(name, (_Inert,), {"__slots__": (), "__module__": module})


_INERT: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    _inert(path) for path in _BESIDE_WEIGHTS
]
