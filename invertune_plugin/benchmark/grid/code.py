"""The version of code: a digest of the source files of packages and modules."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from invertune_plugin.errors import InputError


@lru_cache
def code_digest(names: tuple[str, ...]) -> str:
    """Digest of the Python files of packages (with all in them) and modules, as at first asked.

    Raises:
        InputError: there is no such module, or it has no source file.
    """
    digest = hashlib.sha256()
    for name in sorted(set(names)):
        for inside, path in _sources(name):
            digest.update(f"{name}/{inside}\0".encode())
            digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def _sources(name: str) -> list[tuple[str, Path]]:
    try:
        spec = None if name == "__main__" else find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not (spec.has_location or spec.submodule_search_locations):
        raise InputError(
            f"Expected a module or package with source files, got {name!r}. Put the function of "
            "a cell in a file that can be imported, not in a script or notebook."
        )
    if spec.submodule_search_locations is None:
        return [("", Path(str(spec.origin)))]
    roots = [Path(place) for place in spec.submodule_search_locations]
    return sorted(
        (path.relative_to(root).as_posix(), path) for root in roots for path in root.rglob("*.py")
    )
