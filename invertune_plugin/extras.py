"""Packages that only some users need, imported when they are asked for."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from invertune_plugin.errors import InputError


def extra(module: str, name: str, purpose: str) -> ModuleType:
    """Import a module of an optional extra of this package.

    Args:
        module: to import.
        name: of the extra.
        purpose: what it is needed for, to end "Expected the package ... for".

    Raises:
        InputError: it is not installed; says how to get it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package, *_ = module.split(".")
        raise InputError(
            f"Expected the package {package} for {purpose}, got none. "
            f"In a clone of this package run: pip install '.[{name}]'"
        ) from error
