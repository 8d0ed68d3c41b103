"""What a mistyped name was probably meant to be."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str], count: int = 5) -> str:
    """The known names closest to a name, as text; the first known ones where none is close."""
    by_lower = {option.lower(): option for option in known}
    close = get_close_matches(name.lower(), by_lower, n=count, cutoff=0.5)
    return ", ".join(by_lower[option] for option in close or list(by_lower)[:count])
