"""Values that strangers wrote, on cards and in files: neither many, nor deep, nor large."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from invertune_plugin.errors import InputError

MOST_VALUES = 100_000
DEEPEST = 32
LONGEST_TEXT = 500
MOST_BITS = 63


def every_value(values: Any, where: str) -> Iterator[Any]:
    """The values themselves, all keys and items in them, and so on.

    YAML aliases can make few bytes look like very many.

    Args:
        values: of any kind, such as what JSON or YAML holds.
        where: they came from, for messages.

    Raises:
        InputError: there are more than ``MOST_VALUES``, or they lie deeper than ``DEEPEST`` in each
            other.
    """
    waiting, seen = [(values, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        yield value
        inner: list[Any] = []
        if isinstance(value, Mapping):
            inner = [*value.keys(), *value.values()]
        elif isinstance(value, Sequence) and not isinstance(value, str):
            inner = [*value]
        seen += 1
        if seen + len(waiting) + len(inner) > MOST_VALUES:
            raise InputError(
                f"Expected at most {MOST_VALUES} values in {where}, got more. Leave out what does "
                "not belong there."
            )
        if inner and depth == DEEPEST:
            raise InputError(
                f"Expected values at most {DEEPEST} deep in each other in {where}, got deeper "
                "ones. Take out what lies so deep."
            )
        waiting += [(each, depth + 1) for each in inner]


def refuse_flood(values: Any, where: str) -> None:
    """Refuse values that are more, deeper, longer or larger than a card or a trigger needs.

    Raises:
        InputError: they are.
    """
    for value in every_value(values, where):
        if isinstance(value, str) and len(value) > LONGEST_TEXT:
            raise InputError(
                f"Expected texts of at most {LONGEST_TEXT} characters in {where}, got one of "
                f"{len(value)} ({value[:20]!r}...). Shorten it."
            )
        if isinstance(value, int) and value.bit_length() > MOST_BITS:
            raise InputError(
                f"Expected whole numbers of at most {MOST_BITS} bits in {where}, got one of "
                f"{value.bit_length()}. Choose a smaller one."
            )


def names_file(values: Any, where: str) -> bool:
    """Whether a trigger, or a part of it, is told by the path of a file.

    Raises:
        InputError: as ``every_value``.
    """
    return any(isinstance(each, Mapping) and "path" in each for each in every_value(values, where))
