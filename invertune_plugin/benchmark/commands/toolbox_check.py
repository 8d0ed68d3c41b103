"""``invertune toolbox check``: what of a clone of BackdoorBox is usable here."""

from __future__ import annotations

from pathlib import Path

from invertune_plugin.adapters.backdoorbox.check import check
from invertune_plugin.adapters.backdoorbox.loader import load_toolbox, loaded_toolbox
from invertune_plugin.console import say, table


def check_toolbox(path: Path | None) -> None:
    """Print what is usable, what is patched, and what is missing and why.

    Args:
        path: root of the clone; without it the environment and the import path are asked.

    Raises:
        InputError: there is no toolbox.
    """
    core = load_toolbox(path)
    clone = loaded_toolbox(core).clone
    rows = check(core)
    say(f"BackdoorBox in {clone.path}, commit {(clone.commit or 'unknown')[:7]}.")
    classes = [[r.kind, r.name, r.state, r.detail] for r in rows if r.kind != "patch"]
    table(["kind", "class", "state", "detail"], classes)
    table(
        ["patch", "state", "detail"],
        [[r.name, r.state, r.detail] for r in rows if r.kind == "patch"],
    )
