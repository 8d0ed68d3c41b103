"""What of a loaded toolbox is usable, what was patched, what is missing and why."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

from invertune_plugin.adapters.backdoorbox.finder import Toolbox
from invertune_plugin.adapters.backdoorbox.loader import loaded_toolbox
from invertune_plugin.adapters.backdoorbox.patch import Patch
from invertune_plugin.adapters.backdoorbox.patches import PATCHES
from invertune_plugin.adapters.backdoorbox.placeholders import Placeholder


@dataclass(frozen=True)
class Row:
    """One attack, defence or patch.

    Attributes:
        kind: attack, defence or patch.
        name: the class or the patch.
        state: usable, registered or placeholder; applied, switched off, not matching or not needed.
        detail: where it comes from, what it does, or why it is absent.
    """

    kind: str
    name: str
    state: str
    detail: str


def check(core: ModuleType) -> list[Row]:
    """Look at a loaded toolbox.

    Args:
        core: what ``load_toolbox`` returned.

    Raises:
        InputError: the module did not come from ``load_toolbox``.
    """
    toolbox = loaded_toolbox(core)
    listed = (("attack", core.attacks), ("defence", core.defenses))
    classes = [
        _class_row(kind, name, getattr(package, name))
        for kind, package in listed
        for name in package.__all__
    ]
    return classes + [_patch_row(patch, toolbox) for patch in PATCHES]


def _class_row(kind: str, name: str, found: type) -> Row:
    if isinstance(found, Placeholder):
        return Row(kind, name, "placeholder", found.reason)
    foreign = found.__module__.partition(".")[0] != "core"
    return Row(kind, name, "registered" if foreign else "usable", found.__module__)


def _patch_row(patch: Patch, toolbox: Toolbox) -> Row:
    changed = toolbox.changed.get(patch.name, {})
    unmatched = [name.removeprefix("core.") for name, lines in changed.items() if not lines]
    if patch.name in toolbox.disabled:
        state, detail = "switched off", f"without it: {patch.why}"
    elif unmatched:
        state, detail = "not matching", f"no such line in {', '.join(unmatched)}"
    elif not changed:
        state, detail = "not needed", "none of its modules is there"
    else:
        places = [f"{name.removeprefix('core.')}:{lines[0]}" for name, lines in changed.items()]
        state, detail = (
            "applied",
            f"{patch.what} ({', '.join(places)}; needed with {patch.needed_with})",
        )
    return Row("patch", patch.name, state, detail)
