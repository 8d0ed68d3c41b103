"""``attack=badnets defense=invertune``: choosing cells and claims by their names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from invertune_plugin.config import nearest
from invertune_plugin.errors import InputError

Filters = Mapping[str, frozenset[str]]


def parse_filters(words: Sequence[str], known: Sequence[Mapping[str, Any]]) -> Filters:
    """Filters of words ``name=value``; one name may come with several values.

    Args:
        words: from the command line.
        known: names and values of all that can be chosen.

    Raises:
        InputError: a word is no ``name=value``, or nothing has that name or value.
    """
    found: dict[str, frozenset[str]] = {}
    values: dict[str, set[str]] = {}
    for each in known:
        for name, value in each.items():
            values.setdefault(name, set()).add(str(value))
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise InputError(f"Expected a filter name=value, got {word!r}. Write attack=badnets.")
        if not values:
            raise InputError(f"Expected something to choose {word!r} from, got nothing at all yet.")
        if name not in values:
            raise InputError(
                f"Expected a known name in a filter, got {name!r}. {nearest(name, sorted(values))}"
            )
        if value not in values[name]:
            raise InputError(
                f"Expected a known {name}, got {value!r}. {nearest(value, sorted(values[name]))}"
            )
        found[name] = found.get(name, frozenset()) | {value}
    return found


def matches(filters: Filters, names: Mapping[str, Any]) -> bool:
    """Whether all filters hold; something without a name does not match a filter on it."""
    return all(name in names and str(names[name]) in wanted for name, wanted in filters.items())
