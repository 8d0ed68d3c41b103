"""The command of a job, so that a record says how it came about."""

from __future__ import annotations

import shlex
from dataclasses import fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def command_line(name: str, job: DataclassInstance, argument: str) -> str:
    """What to type for the same once more, quoted for a shell.

    Args:
        name: of the command.
        job: its options: fields called like them, with their defaults.
        argument: the field that has no name on the command line.

    Returns:
        The command with its argument and all options that are not the defaults.
    """
    words = ["invertune", name, str(getattr(job, argument))]
    for field in fields(job):
        value = getattr(job, field.name)
        option = field.name.replace("_", "-")
        if field.name == argument or value == field.default:
            continue
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", str(value)]
    return shlex.join(words)
