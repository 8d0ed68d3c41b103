"""What a repair of the toolbox is: named, explained, and applied in memory only."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass

from invertune_plugin.adapters.backdoorbox.rewriting import Rule, rewrite


@dataclass(frozen=True)
class Patch:
    """A small change to some of the toolbox's modules.

    Attributes:
        name: what switches it off, ``load_toolbox(disable=(name,))``.
        what: what the code does instead.
        why: what happens without it.
        needed_with: versions and circumstances.
        places: module below ``core`` -> the lines it changes at the tested commit.
        rules: the changes. They may use ``_device``, the device given to ``load_toolbox``, and
            ``_shims``, the module of that name.
    """

    name: str
    what: str
    why: str
    needed_with: str
    places: Mapping[str, tuple[int, ...]]
    rules: tuple[Rule, ...]

    def apply(self, module: str, tree: ast.Module) -> list[int] | None:
        """Change a module's tree.

        Args:
            module: full name, as in ``core.attacks.TUAP``.
            tree: changed in place.

        Returns:
            The changed lines, none where nothing fits; None for a module that needs no change.
        """
        if module.removeprefix("core.") not in self.places:
            return None
        return rewrite(tree, self.rules)
