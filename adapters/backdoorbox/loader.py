"""BackdoorBox as a module, from wherever its clone lies."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType

from invertune_plugin.adapters.backdoorbox import workers
from invertune_plugin.adapters.backdoorbox.finder import (
    Toolbox,
    ToolboxFinder,
    install,
    installed,
    uninstall,
)
from invertune_plugin.adapters.backdoorbox.locate import Clone, core_on_path, find_clone
from invertune_plugin.adapters.backdoorbox.patches import checked_names
from invertune_plugin.adapters.backdoorbox.registration import register_all
from invertune_plugin.devices import pick_device
from invertune_plugin.errors import InputError


def load_toolbox(
    path: str | Path | None = None, device: str = "cpu", disable: Iterable[str] = ()
) -> ModuleType:
    """Import BackdoorBox, patched for today's libraries, with InverTune among its defences.

    Nothing is written into the clone. Modules that cannot be imported become placeholders whose
    use raises the reason. Worker processes find the toolbox too, however they are started. A second
    call gives the same module.

    Args:
        path: root of the clone; without it ``BACKDOORBOX_HOME`` and the import path are asked.
        device: cpu, cuda, cuda:N or auto, for the classes that know no schedule; the others take
            the device of their schedule.
        disable: names of patches to leave out; ``invertune toolbox check`` lists them.

    Returns:
        The package ``core``.

    Raises:
        InputError: no clone, another package named ``core``, no such device or patch, or the
            toolbox is loaded already in another way.
    """
    target, disabled = pick_device(device), checked_names(disable)
    finder = installed() or _joined()
    if finder is None:
        clone = find_clone(path)
        _refuse_other_core(clone)
        return _imported(ToolboxFinder(Toolbox(clone, target, disabled)))
    _refuse_change(finder.toolbox, path, Toolbox(finder.toolbox.clone, target, disabled))
    return import_module("core")


def loaded_toolbox(core: ModuleType) -> Toolbox:
    """What is known about a loaded toolbox.

    Raises:
        InputError: the module did not come from ``load_toolbox``.
    """
    finder = installed()
    if finder is None or sys.modules.get("core") is not core:
        raise InputError(
            f"Expected the module that load_toolbox() returns, got {core!r}. Call load_toolbox() "
            "and pass what it gives."
        )
    return finder.toolbox


def enter_worker() -> None:
    """Set a new worker process up as its parent was; called by the import of ``core`` there.

    Raises:
        ModuleNotFoundError: the parent had loaded no toolbox.
    """
    del sys.modules["core"]
    if _joined() is None:
        raise ModuleNotFoundError("No module named 'core'", name="core")
    import_module("core")


def _joined() -> ToolboxFinder | None:
    """The finder of a new worker process, set up as its parent's was; None in other processes."""
    toolbox = workers.toolbox_behind_door()
    if toolbox is None or "core" in sys.modules:
        return None

    def complete() -> None:
        finder.fill()
        register_all(import_module("core"))

    finder = ToolboxFinder(toolbox, complete)
    install(finder)
    return finder


def _imported(finder: ToolboxFinder) -> ModuleType:
    install(finder)
    try:
        core = import_module("core")
        register_all(core)
    except BaseException:
        uninstall(finder)
        raise
    workers.open_door(finder.toolbox)
    return core


def _refuse_other_core(clone: Clone) -> None:
    imported = sys.modules.get("core")
    if imported is not None:
        came = f"one that is imported already from {getattr(imported, '__file__', None)}"
    else:
        found = core_on_path()
        ours = {clone.path / "core" / "__init__.py", workers.FOLDER / "core.py"}
        if found is None or found in ours:
            return
        came = f"{found} on the import path"
    raise InputError(
        f"Expected no other package named core beside the toolbox in {clone.path}, got {came}. "
        "Call load_toolbox() before any `import core`, in a process and a folder without it."
    )


def _refuse_change(now: Toolbox, path: str | Path | None, wanted: Toolbox) -> None:
    place = now.clone.path if path is None else Path(path).expanduser().resolve()
    if (place, wanted.device, wanted.disabled) == (now.clone.path, now.device, now.disabled):
        return
    raise InputError(
        f"Expected the toolbox as it is loaded in this process ({_told(now, now.clone.path)}), "
        f"got a call for another ({_told(wanted, place)}). Start a new process for that."
    )


def _told(toolbox: Toolbox, path: Path) -> str:
    off = f", without {', '.join(sorted(toolbox.disabled))}" if toolbox.disabled else ""
    return f"{path} on {toolbox.device}{off}"
