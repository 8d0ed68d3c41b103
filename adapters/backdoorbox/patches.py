"""All repairs of the toolbox, in the order in which they are applied."""

from __future__ import annotations

from collections.abc import Iterable

from invertune_plugin.adapters.backdoorbox.device_patches import DEVICE_PATCHES
from invertune_plugin.adapters.backdoorbox.library_patches import LIBRARY_PATCHES
from invertune_plugin.adapters.backdoorbox.patch import Patch
from invertune_plugin.adapters.backdoorbox.upstream_patches import UPSTREAM_PATCHES
from invertune_plugin.errors import InputError

PATCHES: tuple[Patch, ...] = (*DEVICE_PATCHES, *UPSTREAM_PATCHES, *LIBRARY_PATCHES)


def checked_names(names: Iterable[str]) -> frozenset[str]:
    """Names of patches to switch off.

    Raises:
        InputError: there is no such patch.
    """
    names = {names} if isinstance(names, str) else set(names)
    known = {patch.name for patch in PATCHES}
    unknown = sorted(names - known)
    if unknown:
        raise InputError(
            f"Expected names of patches to switch off, got {', '.join(unknown)}. "
            f"Known are {', '.join(sorted(known))}."
        )
    return frozenset(names)
