"""Prompt templates: what a class name is put into."""

from __future__ import annotations

import string
from collections.abc import Sequence

from invertune_plugin.errors import InputError


def refuse_templates(templates: Sequence[str], source: str = "the list") -> None:
    """Refuse templates that do not name their class once.

    Args:
        templates: format strings with one ``{}`` for the class name.
        source: where they came from, for the message.

    Raises:
        InputError: there is none, or one is something else.
    """
    if not templates:
        raise InputError(f"Expected one or more templates in {source}, got none. Add one.")
    for template in templates:
        if not _has_one_place(template):
            raise InputError(
                f"Expected templates with one {{}} for the class name, got {template!r} in "
                f"{source}. Write for instance 'a photo of a {{}}.'"
            )


def _has_one_place(template: str) -> bool:
    try:
        places = [part[1:] for part in string.Formatter().parse(template) if part[1] is not None]
    except ValueError:
        return False
    return places == [("", "", None)]
