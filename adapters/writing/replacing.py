"""Folders that are complete or absent, and are replaced only by their own kind."""

from __future__ import annotations

import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from invertune_plugin.errors import InputError


def refuse_filled(
    root: Path, overwrite: bool, own: str, writer: str, hint: str = "overwrite=True"
) -> None:
    """Check that a folder can be written; call it before the work that fills it.

    Args:
        root: the folder.
        overwrite: an earlier folder of the same kind may be replaced.
        own: pattern of all paths inside such a folder, relative to it; those of folders end in
            ``/``.
        writer: what writes such folders, for messages.
        hint: how to ask for ``overwrite``, for messages.

    Raises:
        InputError: ``root`` is the current folder, is a file or holds anything; with ``overwrite``:
            anything else than what the writer made.
    """
    if root.resolve() == Path.cwd():
        raise InputError(
            "Expected a folder to write, got the one you are in, which cannot be replaced as a "
            "whole. Name one inside it."
        )
    if root.exists() and not root.is_dir():
        raise InputError(f"Expected a folder to write, got the file {root}. Choose another name.")
    entries = list(root.iterdir()) if root.is_dir() else []
    if not entries:
        return
    if not overwrite:
        raise InputError(
            f"Expected a folder that is empty or absent, got {root} with {len(entries)} entries. "
            f"Pass {hint} to replace it, or choose another name."
        )
    foreign = next((path for path in _inside(root) if not re.fullmatch(own, path)), None)
    if foreign is not None:
        raise InputError(
            f"Expected to replace an earlier export, got {root} with {foreign!r} in it. "
            f"Only folders of {writer} are replaced: move or remove it yourself."
        )


def _inside(root: Path) -> Iterator[str]:
    for path in root.rglob("*"):
        is_folder = path.is_dir() and not path.is_symlink()
        yield path.relative_to(root).as_posix() + "/" * is_folder


@contextmanager
def replacing_folder(root: Path) -> Iterator[Path]:
    """Give a temporary folder beside ``root``; it takes that name when the block ends well.

    Where ``root`` is a link, the folder that it leads to is replaced, and the link stays.

    Raises:
        InputError: writing failed, for instance because the disk is full.
    """
    root = root.resolve()
    partial = root.with_name(f".{uuid.uuid4().hex}.partial")
    retired = root.with_name(f".{uuid.uuid4().hex}.retired")
    try:
        partial.mkdir(parents=True)
        yield partial
        if root.exists():
            root.rename(retired)
        partial.rename(root)
        shutil.rmtree(retired, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"Expected to write {root}, got: {error}. Choose a folder you can write to."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        if retired.exists() and not root.exists():
            retired.rename(root)
