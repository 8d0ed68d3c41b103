"""What stands for a module of the toolbox that cannot be imported here."""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any, NoReturn

from invertune_plugin.errors import InputError

_EXTRA = ("cv2", "hdbscan", "imageio", "lpips", "matplotlib", "pandas", "scipy", "sklearn", "umap")


class Placeholder(type):
    """The type of a class that tells why it is absent as soon as it is used."""

    reason: str

    def __call__(cls, *_: Any, **__: Any) -> NoReturn:
        """Refuse to make an instance.

        Raises:
            InputError: always, with the reason.
        """
        raise InputError(cls.reason)

    def __getattr__(cls, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        raise InputError(cls.reason)


def empty(module: ModuleType, reason: str) -> None:
    """Leave nothing in a half-executed module but a placeholder of the class it is named after."""
    for name in [name for name in vars(module) if not name.startswith("__")]:
        delattr(module, name)
    name = module.__name__.rpartition(".")[2]
    made = Placeholder(name, (), {"reason": reason, "__doc__": reason})
    made.__module__ = module.__name__
    setattr(module, name, made)


def reason_of(module: str, error: Exception, missing: Mapping[str, str]) -> str:
    """Why a module cannot be imported, and what to do about it.

    Args:
        module: full name.
        error: what its execution raised.
        missing: reasons of the modules that are placeholders already; the first cause is told.
    """
    if isinstance(error, AttributeError):
        cause = getattr(error.obj, "__name__", "")
    else:
        cause = getattr(error, "name", None) or ""
    if cause in missing:
        return missing[cause]
    if module == "core.attacks.BAAT":
        advice = (
            "It needs code and weights that are not in the toolbox; the text at the top of "
            "core/attacks/BAAT.py says which, and where they go."
        )
    elif cause.partition(".")[0] in _EXTRA:
        advice = "In a clone of this package run `pip install '.[toolbox]'`."
    else:
        advice = "Install what it misses, or use another class; the rest of the toolbox works."
    return f"Expected {module} to import, got {type(error).__name__}: {error}. {advice}"
