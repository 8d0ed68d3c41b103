"""What a model of a recipe is made of: its data and attack as settings, and foreign code."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from invertune_plugin.attacks.attack import AttackConfig
from invertune_plugin.benchmark.experiment.recipe import DataConfig, Recipe
from invertune_plugin.benchmark.experiment.sources import Use, source_of
from invertune_plugin.benchmark.grid.code import code_digest
from invertune_plugin.files import file_sha256
from invertune_plugin.plugins import packages_of
from invertune_plugin.triggers import NAMED


def described(attack: AttackConfig) -> dict[str, Any]:
    """An attack as JSON values."""
    settings = {
        name: asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
        for name, value in ((f.name, getattr(attack, f.name)) for f in fields(attack))
        if value is not None and name not in ("trigger", "also")
    }
    settings["trigger"] = attack.trigger.parameters() if attack.trigger else None
    settings["also"] = [(p.trigger.parameters(), p.target) for p in attack.also]
    return settings


def data_of(data: DataConfig) -> dict[str, Any]:
    """Settings of data as JSON values, with the SHA-256 of the files that models are trained on.

    Raises:
        InputError: a file is absent.
    """
    files = digests_of(data, "training")
    return asdict(data) | ({"files": files} if files else {})


def digests_of(data: DataConfig, use: Use) -> list[str]:
    """SHA-256 of the files that a use of data reads.

    Raises:
        InputError: a file is absent.
    """
    files = source_of(data.source).files(data, use)
    return [_digest(path, path.stat().st_mtime_ns) for path in files]


@lru_cache
def _digest(path: Path, changed: int) -> str:
    """SHA-256 of a file as it was last changed; a grid asks for it with every cell."""
    return file_sha256(path)


def code_of(*things: Any) -> dict[str, str]:
    """A field with the digest of the other packages that things come from; none without any."""
    packages = packages_of(*things)
    return {"code": code_digest(packages)} if packages else {}


def plugged(recipe: Recipe) -> list[Any]:
    """What of a recipe may come from other packages: its data and the triggers of its attack."""
    kinds = _trigger_kinds(described(recipe.attack))
    return [source_of(recipe.data.source), *(NAMED[kind] for kind in kinds if kind in NAMED)]


def _trigger_kinds(settings: Any) -> Iterator[str]:
    """The kinds that are named anywhere in the settings of an attack."""
    if isinstance(settings, dict):
        yield from (value for key, value in settings.items() if key == "kind")
        settings = list(settings.values())
    if isinstance(settings, list | tuple):
        for part in settings:
            yield from _trigger_kinds(part)
