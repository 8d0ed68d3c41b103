"""Files that are complete or absent: checks before the work, atomic writes after it."""

from __future__ import annotations

import hashlib
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from invertune_plugin.errors import InputError


def refuse_existing(path: str | Path, overwrite: bool = False) -> None:
    """Check that an output can be written; call it before the work that makes the output.

    Missing folders are made.

    Raises:
        InputError: the file exists and ``overwrite`` is not set, the path is a folder, or its
            folder is not writable.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"Expected a file to write, got the folder {path}. Add a file name.")
    if path.exists() and not overwrite:
        raise InputError(
            f"Expected an output that does not exist yet, got {path}. "
            "Pass --overwrite to replace it, or choose another name."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _unwritable(path, error) from error


def write_text(path: str | Path, text: str, overwrite: bool = False) -> None:
    """Write a UTF-8 text file; a half-written file never shows.

    What is no text, such as the name of a file in another encoding, is written as escapes.

    Raises:
        InputError: the file exists or the folder is not writable.
    """
    path = Path(path)
    refuse_existing(path, overwrite)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file beside ``path``; it takes that name when the block ends well.

    Raises:
        InputError: writing failed, for instance because the disk is full.
    """
    temporary = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        yield temporary
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise _unwritable(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        InputError: there is no such file.
    """
    digest = hashlib.sha256()
    with existing_file(path).open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def existing_file(path: str | Path) -> Path:
    """The path of a checkpoint that is there.

    Raises:
        InputError: there is no such file.
    """
    path = Path(path)
    if path.is_file():
        return path
    came = "is a folder" if path.is_dir() else "does not exist"
    raise InputError(f"Expected a checkpoint file, got {path}, which {came}. Check the path.")


def _unwritable(path: Path, error: Exception) -> InputError:
    return InputError(f"Expected to write {path}, got: {error}. Choose a folder you can write to.")
