"""Settings from YAML: into frozen dataclasses, with every mistake named."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from invertune_plugin.errors import InputError
from invertune_plugin.triggers import NAMED, Trigger

Settings = TypeVar("Settings")
Value = TypeVar("Value")


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a mapping from a YAML file.

    Raises:
        InputError: the file is missing, is no YAML or holds no mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"Expected a YAML file, got {path}, which does not exist.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"Expected YAML in {path}, got what is none: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"Expected settings (key: value) in {path}, got {type(content).__name__}.")
    return content


def parse(kind: type[Settings], values: Mapping[str, Any], where: str = "") -> Settings:
    """Make a settings dataclass of a mapping; nested dataclasses of nested mappings.

    Args:
        kind: the dataclass; ``Trigger`` takes any of the known kinds by its ``kind`` key.
        values: settings by name; what is left out keeps its default.
        where: path of the mapping for messages, for instance ``"defence.target"``.

    Raises:
        InputError: a key is unknown (the nearest one is named) or missing, or a value is wrong.
    """
    if not isinstance(values, Mapping):
        raise InputError(
            f"Expected settings (key: value) in {where or 'the file'}, got {values!r}."
        )
    if kind is Trigger:
        kind, values = _trigger(values, where)
    hints = get_type_hints(kind)
    names = [f.name for f in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise InputError(_unknown("setting", f"{where}.{key}".lstrip("."), key, names))
    found = {
        name: _value(hints[name], value, f"{where}.{name}".lstrip("."))
        for name, value in values.items()
    }
    try:
        return kind(**found)
    except TypeError as error:
        missing = ", ".join(
            sorted(
                f.name
                for f in fields(kind)  # type: ignore[arg-type]
                if f.name not in found and f.default is MISSING and f.default_factory is MISSING
            )
        )
        raise InputError(
            f"Expected all needed settings in {where or 'the file'}, but {error}. "
            f"Not set: {missing}."
        ) from error


def _trigger(values: Mapping[str, Any], where: str) -> tuple[type[Any], dict[str, Any]]:
    rest = dict(values)
    name = rest.pop("kind", None)
    if not isinstance(name, str) or name not in NAMED:
        raise InputError(_unknown("trigger", f"{where}.kind".lstrip("."), str(name), list(NAMED)))
    return NAMED[name], rest


def _value(hint: Any, value: Any, where: str) -> Any:
    if _is_settings(hint):
        return parse(cast("type[Any]", hint), value, where)
    inner = [each for each in get_args(hint) if _is_settings(each)]
    if inner and type(None) in get_args(hint):
        return None if value is None else _value(inner[0], value, where)
    if inner and get_origin(hint) is Mapping and isinstance(value, Mapping):
        return {str(key): _value(inner[0], v, f"{where}.{key}") for key, v in value.items()}
    if inner and get_origin(hint) in (Sequence, tuple):
        if not isinstance(value, list | tuple):
            raise InputError(f"Expected a list in {where}, got {value!r}. Begin each with a dash.")
        return tuple(_value(inner[0], part, f"{where}[{i}]") for i, part in enumerate(value))
    try:
        return TypeAdapter(hint).validate_python(value)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise InputError(f"Expected another value for {where}: {reason}; got {value!r}.") from error


def _is_settings(hint: Any) -> bool:
    return is_dataclass(hint) or hint is Trigger


def named(what: str, name: str, among: Mapping[str, Value]) -> Value:
    """What a name stands for.

    Raises:
        InputError: it stands for nothing; the nearest name is told.
    """
    if name not in among:
        raise InputError(_unknown(what, repr(name), name, list(among)))
    return among[name]


def nearest(name: str, known: Sequence[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, or all of them."""
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(sorted(known))}."


def _unknown(what: str, where: str, name: str, known: list[str]) -> str:
    return f"Expected a known {what}, got {where}. {nearest(name, known)}"
