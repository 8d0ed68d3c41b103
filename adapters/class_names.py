"""Which class of one list another list's names mean."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from invertune_plugin.class_order import plain
from invertune_plugin.errors import InputError


def match_names(own: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Find each of a data set's names among the class names that a model uses.

    An exact match wins; otherwise case does not count and ``_`` and ``-`` equal a space. Where both
    lists repeat a name (open_clip's ImageNet has two missiles), the first means the first, the
    second the second.

    Args:
        own: names of the data set, for instance folder names.
        wanted: class names of the model.

    Returns:
        For each own name its index in ``wanted``, -1 where it has none.

    Raises:
        InputError: an own name fits several class names and equals none of them.
    """
    exact: dict[str, list[int]] = {}
    loose: dict[str, list[int]] = {}
    for i, name in enumerate(wanted):
        exact.setdefault(name, []).append(i)
        loose.setdefault(plain(name), []).append(i)
    found, seen = [], Counter[str]()
    for name in own:
        same = exact.get(name, [])
        candidates = (
            [same[min(seen[name], len(same) - 1)]] if same else loose.get(plain(name), [-1])
        )
        seen[name] += 1
        if len(candidates) > 1:
            raise InputError(
                f"Expected {name!r} to fit one class name, got "
                f"{[wanted[i] for i in candidates]}. Rename it to the one that is meant."
            )
        found.append(candidates[0])
    return found


def counted_in(
    own: Sequence[str] | None, wanted: Sequence[str] | None
) -> tuple[list[str], list[int]]:
    """The class names that labels shall count in, and what each label of a data set is in them.

    Args:
        own: names that the data set's labels count in; None where it does not say.
        wanted: class names of the model; None takes ``own``.

    Returns:
        Class names, and the new label per label: -1 where it has none. Where ``own`` is None,
        labels are taken as they are.

    Raises:
        InputError: an own name fits several class names and equals none of them.
    """
    names = list(wanted if wanted is not None else own or ())
    return names, list(range(len(names))) if own is None else match_names(own, names)
