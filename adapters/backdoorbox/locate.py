"""Where a clone of BackdoorBox lies, and in which state it is."""

from __future__ import annotations

import os
import subprocess
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from invertune_plugin.errors import InputError

HOME = "BACKDOORBOX_HOME"
URL = "https://github.com/THUYimingLi/BackdoorBox"
TESTED_COMMIT = "af3afd1"
_MARKERS = ("core/attacks/BadNets.py", "core/defenses/base.py", "core/utils/test.py")


@dataclass(frozen=True)
class Clone:
    """A clone of BackdoorBox.

    Attributes:
        path: its root, the folder that holds ``core``.
        commit: what is checked out; None where git cannot tell, as for an unpacked archive.
        dirty: whether tracked files of ``core`` differ from that commit.
    """

    path: Path
    commit: str | None = None
    dirty: bool = False


def find_clone(path: str | Path | None = None) -> Clone:
    """Find BackdoorBox: by argument, by ``BACKDOORBOX_HOME``, or as an importable ``core``.

    Warns when the clone has changed files or is at a commit other than the tested one.

    Args:
        path: root of the clone; without it the environment and the import path are asked.

    Raises:
        InputError: nothing was found, or what was found is not BackdoorBox.
    """
    if path is not None:
        return _opened(Path(path), "the given path")
    if home := os.environ.get(HOME):
        return _opened(Path(home), f"the environment variable {HOME}")
    found = core_on_path()
    if found is not None and _is_toolbox(found.parent.parent):
        return _opened(found.parent.parent, "the import path")
    came = "nothing" if found is None else f"another package named core in {found.parent}"
    raise InputError(
        f"Expected a clone of BackdoorBox as argument, in {HOME} or on the import path, got {came}."
        f" Get one by `git clone {URL}` and pass its folder, or set {HOME} to it."
    )


def core_on_path() -> Path | None:
    """The file of the ``core`` that a plain ``import core`` would load; None without one."""
    try:
        spec = find_spec("core")
    except (ImportError, ValueError):
        return None
    return Path(spec.origin).resolve() if spec is not None and spec.origin else None


def _opened(path: Path, source: str) -> Clone:
    path = path.expanduser().resolve()
    if not _is_toolbox(path):
        missing = [name for name in _MARKERS if not (path / name).is_file()]
        came = f"which has no {', '.join(missing)}" if path.is_dir() else "which is no folder"
        raise InputError(
            f"Expected the root of a clone of BackdoorBox as {source}, got {path}, {came}. "
            f"Get one by `git clone {URL}` and name the folder that holds core/."
        )
    clone = _asked(path)
    _warn(clone)
    return clone


def _is_toolbox(path: Path) -> bool:
    return all((path / name).is_file() for name in _MARKERS)


def _asked(path: Path) -> Clone:
    root = _git(path, "rev-parse", "--show-toplevel")
    if root is None or Path(root).resolve() != path:
        return Clone(path)
    changed = _git(path, "status", "--porcelain", "--untracked-files=no", "--", "core")
    return Clone(path, commit=_git(path, "rev-parse", "HEAD"), dirty=bool(changed))


def _git(path: Path, *words: str) -> str | None:
    """What git answers; None without git or without a repository."""
    command = ["git", "--no-optional-locks", "-C", str(path), *words]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=20, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _warn(clone: Clone) -> None:
    told = []
    if clone.dirty:
        told.append("has changed files under core/")
    if clone.commit is not None and not clone.commit.startswith(TESTED_COMMIT):
        told.append(f"is at commit {clone.commit[:7]}")
    if told:
        warnings.warn(
            f"The clone of BackdoorBox in {clone.path} {' and '.join(told)}; this plugin was "
            f"tested with a clean {TESTED_COMMIT}. `invertune toolbox check` shows what fits.",
            stacklevel=4,
        )
