"""The version of code: a digest of source files and of what they import of this package."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import lru_cache
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path

from invertune_plugin.errors import InputError

OWN = __name__.partition(".")[0]


@lru_cache
def code_digest(names: tuple[str, ...]) -> str:
    """Digest of packages (with all in them) and modules, and of what they import, as first asked.

    Raises:
        InputError: there is no such module, or it has no source file.
    """
    digest = hashlib.sha256()
    for name, path in sorted(reached(names).items()):
        digest.update(f"{name}\0".encode())
        digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def reached(names: tuple[str, ...]) -> dict[str, Path]:
    """Source files by module: of packages and modules, and of all that they import, and so on.

    Imports are followed inside this package, wherever they stand in a file; what is imported from
    the package itself may come from anywhere in it, so that all of it counts then.

    Raises:
        InputError: there is no such module, or it has no source file.
    """
    found: dict[str, Path] = {}
    waiting = [source for name in names for source in _sources(name)]
    while waiting:
        name, path = waiting.pop()
        if name not in found:
            found[name] = path
            waiting += [source for module in imported(path) for source in _sources(module)]
    return found


@lru_cache
def imported(path: Path) -> tuple[str, ...]:
    """The modules of this package that a source file names in its imports, and their packages."""
    if path.suffix != ".py":
        return ()
    names = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return tuple(sorted(set(_modules(names))))


def _modules(names: set[str]) -> Iterator[str]:
    """The modules that names inside this package belong to; dunder names of it shape nothing."""
    for name in names:
        parts = name.split(".")
        if parts[0] != OWN or (parts[:-1] == [OWN] and parts[-1].startswith("__")):
            continue
        while _own(".".join(parts)) is None:
            parts.pop()
        yield from (".".join(parts[:end]) for end in range(min(2, len(parts)), len(parts) + 1))


@lru_cache
def _own(name: str) -> ModuleSpec | None:
    """Where a module or package of this package is; nothing but packages is imported to find it."""
    package = name.rpartition(".")[0]
    if package and ((outer := _own(package)) is None or outer.submodule_search_locations is None):
        return None
    return find_spec(name)


def _sources(name: str) -> list[tuple[str, Path]]:
    """A module, or of a package all modules; of a package inside this one only what it imports."""
    try:
        spec = None if name == "__main__" else find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not (spec.has_location or spec.submodule_search_locations):
        raise InputError(
            f"Expected a module or package with source files, got {name!r}. Put the function of "
            "a cell in a file that can be imported, not in a script or notebook."
        )
    if spec.submodule_search_locations is None or name.startswith(f"{OWN}."):
        return [(name, Path(str(spec.origin)))]
    roots = [Path(place) for place in spec.submodule_search_locations]
    return [
        (f"{name}/{path.relative_to(root).as_posix()}", path)
        for root in roots
        for path in root.rglob("*.py")
    ]
