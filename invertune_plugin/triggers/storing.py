"""Triggers out of their parameters, and in and out of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from invertune_plugin.checkpoints import read_card, read_state_dict, write_checkpoint
from invertune_plugin.errors import InputError
from invertune_plugin.triggers.base import Trigger
from invertune_plugin.triggers.foreign import every_value, names_file, refuse_flood
from invertune_plugin.triggers.kinds import NAMED, STORED

DERIVED = {"size", "sha256"}
"""What a stored kind says of its tensors."""


def trigger_of(parameters: Mapping[str, Any]) -> Trigger:
    """The trigger that has these ``parameters()``, for instance those on a card.

    Raises:
        InputError: the parameters are of no known kind, make no trigger, leave out tensors, or are
            more than a trigger needs.
    """
    refuse_flood(parameters, "the trigger")
    return _build(parameters, {}, "")


def save_trigger(path: str | Path, trigger: Trigger, overwrite: bool = False) -> None:
    """Write a trigger as one safetensors file: its tensors, and its parameters beside them.

    Args:
        path: a name that ends in ``.safetensors``; missing folders are made.
        trigger: of any kind that names no other file; its tensors are stored as fp32.
        overwrite: replace an existing file.

    Raises:
        InputError: the file exists, cannot be written, a tensor is not finite, or the trigger names
            a file, which ``load_trigger`` would not open.
    """
    if names_file(trigger.parameters(), "the trigger"):
        raise InputError(
            f"Expected a trigger that {path} can hold, got one that names another file. Keep its "
            "parameters as YAML."
        )
    tensors = {name: tensor.detach().float() for name, tensor in trigger.tensors().items()}
    card = {"trigger": trigger.parameters(), "fingerprint": trigger.fingerprint()}
    write_checkpoint(path, tensors, card, overwrite)


def load_trigger(path: str | Path) -> Trigger:
    """Read what ``save_trigger`` wrote; nothing in the file is run, and it opens no other file.

    Raises:
        InputError: the file is missing or damaged, holds no trigger, names another file, or its
            content is not what its fingerprint says.
    """
    card = read_card(path)
    parameters = card.get("trigger")
    if not isinstance(parameters, Mapping):
        raise InputError(
            f"Expected a trigger in {path}, got a file without one. Write it with save_trigger."
        )
    refuse_flood(parameters, str(path))
    if names_file(parameters, str(path)):
        raise InputError(
            f"Expected a trigger that {path} holds, got one that names another file. A file of a "
            "trigger opens no files: write its parameters as YAML of your own."
        )
    tensors = read_state_dict(path) if needs_tensors(parameters) else {}
    trigger = _build(parameters, tensors, "")
    if trigger.fingerprint() != card.get("fingerprint"):
        raise InputError(
            f"Expected the trigger {card.get('fingerprint')} in {path}, got "
            f"{trigger.fingerprint()}. The file was changed; take the original."
        )
    return trigger


def needs_tensors(parameters: Any) -> bool:
    """Whether a trigger, or a part of it, has tensors beside these ``parameters()``.

    Raises:
        InputError: they are too many or too deep.
    """
    found = (each for each in every_value(parameters, "the trigger") if isinstance(each, Mapping))
    return any(each.get("kind") in list(STORED) for each in found)


def _build(parameters: Mapping[str, Any], tensors: Mapping[str, Tensor], where: str) -> Trigger:
    """The trigger of these parameters; its tensors have names that begin with ``where``."""
    kinds = [*NAMED, *STORED]
    name = parameters.get("kind") if isinstance(parameters, Mapping) else None
    if not isinstance(name, str) or name not in kinds:
        raise InputError(
            f"Expected a trigger of a kind among {', '.join(kinds)}, got {_shown(parameters)}. "
            "Take the parameters as Trigger.parameters() gives them."
        )
    kind = STORED[name] if name in STORED else NAMED[name]
    hints = get_type_hints(kind)
    names = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    needed = {name for name in names if hints[name] is Tensor}
    values: dict[str, Any] = {name: tensors.get(f"{where}{name}") for name in needed}
    if any(value is None for value in values.values()):
        raise InputError(
            f"Expected the tensors {', '.join(sorted(needed))} of {name}, got parameters alone. "
            "Read the trigger's file with load_trigger."
        )
    ignored = {"kind"} | (DERIVED if name in STORED else set())
    for key in parameters.keys() - ignored:
        if key not in names - needed:
            raise InputError(
                f"Expected parameters of {name} ({', '.join(sorted(names))}), got {key!r}. "
                "Take it out."
            )
        if key == "parts":
            parts = enumerate(_list(parameters[key]))
            values[key] = tuple(_build(part, tensors, f"{where}parts.{i}.") for i, part in parts)
        else:
            values[key] = _checked(hints[key], parameters[key], f"{name}.{key}")
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"Expected all parameters of {name}, but {error}. Add them.") from error


def _list(parts: Any) -> Sequence[Any]:
    if isinstance(parts, list | tuple):
        return parts
    raise InputError(
        f"Expected a list of parts, got {_shown(parts)}. Put each part's parameters in it."
    )


def _checked(hint: Any, value: Any, where: str) -> Any:
    """The value, as it was written where it is right: 1 and 1.0 have different fingerprints."""
    written = tuple(value) if isinstance(value, list) else value
    try:
        valid = TypeAdapter(hint).validate_python(value)
        return written if written == valid else valid
    except ValidationError as error:
        raise InputError(
            f"Expected another value for {where}, got {_shown(value)}. Take the parameters as "
            "Trigger.parameters() gives them."
        ) from error


def _shown(value: Any) -> str:
    return repr(value)[:200]
