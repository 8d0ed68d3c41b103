"""Imports ``core`` from a clone: patched in memory, with placeholders, without leaving a trace."""

from __future__ import annotations

import ast
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from types import CodeType, ModuleType
from typing import Any

import torch

from invertune_plugin.adapters.backdoorbox import shims
from invertune_plugin.adapters.backdoorbox.locate import Clone
from invertune_plugin.adapters.backdoorbox.patches import PATCHES
from invertune_plugin.adapters.backdoorbox.placeholders import empty, reason_of

_LISTINGS = ("core", "core.attacks", "core.defenses")


@dataclass
class Toolbox:
    """A clone as it is loaded here.

    Attributes:
        clone: where it comes from.
        device: for the lines that know no schedule.
        disabled: patches that are switched off.
        quiet: whether patches that fit nowhere go without a warning, as in worker processes.
        changed: patch -> module -> lines that were changed.
        missing: modules that could not be imported -> reason.
    """

    clone: Clone
    device: torch.device
    disabled: frozenset[str] = frozenset()
    quiet: bool = False
    changed: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def patch(self, module: str, tree: ast.Module) -> None:
        """Apply all patches of a module; warn of those that fit nowhere in it."""
        for patch in PATCHES:
            lines = None if patch.name in self.disabled else patch.apply(module, tree)
            if lines is None:
                continue
            self.changed.setdefault(patch.name, {})[module] = lines
            if not lines and not self.quiet:
                warnings.warn(
                    f"The patch {patch.name!r} fits nowhere in {module} of {self.clone.path}; "
                    f"left as it is. Without it: {patch.why}.",
                    stacklevel=2,
                )


class ToolboxFinder(MetaPathFinder):
    """Owns the name ``core`` and what is below it, and no other.

    Args:
        toolbox: what to import.
        complete: for worker processes, which need a class or two: the packages that only list
            other modules stay empty until one of their names is asked for; this is called then.
    """

    def __init__(self, toolbox: Toolbox, complete: Callable[[], object] | None = None) -> None:
        self.toolbox = toolbox
        self.complete = complete
        self.waiting: dict[str, ModuleType] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module of that name in the clone."""
        if fullname.partition(".")[0] != "core":
            return None
        place = self.toolbox.clone.path.joinpath(*fullname.split("."))
        package, leaf = place / "__init__.py", place.parent / f"{place.name}.py"
        if package.is_file():
            return spec_from_file_location(
                fullname,
                package,
                loader=_Loader(fullname, str(package), self),
                submodule_search_locations=[str(place)],
            )
        if leaf.is_file():
            return spec_from_file_location(
                fullname, leaf, loader=_Loader(fullname, str(leaf), self)
            )
        return None

    def wait(self, module: ModuleType) -> bool:
        """Put off the execution of a package that only lists others, in a worker process."""
        if self.complete is None or module.__name__ not in _LISTINGS:
            return False
        self.waiting[module.__name__] = module
        vars(module)["__getattr__"] = partial(self._completed, module)
        return True

    def fill(self) -> None:
        """Execute what was put off."""
        self.complete = None
        while self.waiting:
            _, module = self.waiting.popitem()
            del vars(module)["__getattr__"]
            assert module.__spec__ is not None  # noqa: S101
            assert module.__spec__.loader is not None  # noqa: S101
            module.__spec__.loader.exec_module(module)

    def _completed(self, module: ModuleType, name: str) -> Any:
        if name.startswith("__") and name != "__all__":
            raise AttributeError(name)
        (self.complete or self.fill)()
        return getattr(module, name)


class _Loader(SourceFileLoader):
    """Executes a patched module; byte code is neither read nor written."""

    def __init__(self, fullname: str, path: str, finder: ToolboxFinder) -> None:
        super().__init__(fullname, path)
        self.finder = finder

    def get_code(self, fullname: str) -> CodeType:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(self.get_data(self.path), self.path)
        self.finder.toolbox.patch(fullname, tree)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return compile(tree, self.path, "exec", dont_inherit=True)

    def exec_module(self, module: ModuleType) -> None:
        if self.finder.wait(module):
            return
        toolbox = self.finder.toolbox
        vars(module).update(_device=toolbox.device, _shims=shims)
        searched = sys.path[:]
        try:
            super().exec_module(module)
        except Exception as error:
            name = module.__name__
            if self.is_package(name) or name.endswith(".base"):
                raise
            toolbox.missing[name] = reason_of(name, error, toolbox.missing)
            empty(module, toolbox.missing[name])
        finally:
            sys.path[:] = searched


def installed() -> ToolboxFinder | None:
    """The finder of this process, if a toolbox is loaded."""
    found = [finder for finder in sys.meta_path if isinstance(finder, ToolboxFinder)]
    return found[0] if found else None


def install(finder: ToolboxFinder) -> None:
    """Let a finder own ``core``."""
    sys.meta_path.insert(0, finder)


def uninstall(finder: ToolboxFinder) -> None:
    """Forget a finder and all that it imported."""
    sys.meta_path.remove(finder)
    for name in [name for name in sys.modules if name.partition(".")[0] == "core"]:
        del sys.modules[name]
