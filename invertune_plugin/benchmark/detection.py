"""Purifiers named in one word with their options, and how well a search did as fields of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from invertune_plugin.benchmark.record import rate_fields
from invertune_plugin.config import parse
from invertune_plugin.defenses.purifiers import purifier_of
from invertune_plugin.defenses.purify import Purified
from invertune_plugin.errors import InputError
from invertune_plugin.outcome import Outcome


def name_and_options(text: str) -> tuple[str, Mapping[str, Any]]:
    """Both of ``NAME`` or ``NAME {OPTION: VALUE}``, the options as YAML.

    Raises:
        InputError: what follows the name is no mapping.
    """
    name, _, rest = text.partition(" ")
    try:
        options = yaml.safe_load(rest or "{}")
    except yaml.YAMLError:
        options = None
    if not isinstance(options, dict):
        raise InputError(
            f"Expected options of {name} like {{rate: 0.05}}, got {rest!r}. Correct them, or leave "
            "them out."
        )
    return name, options


def check_purifier(text: str) -> None:
    """Check a purifier with its options before there is anything to search.

    Raises:
        InputError: it is unknown, or an option is unknown or wrong.
    """
    name, options = name_and_options(text)
    parse(purifier_of(name).config, options, name)


def search_fields(found: Purified, poisoned: Sequence[int]) -> dict[str, float]:
    """``tpr``, ``fpr`` and ``auroc`` of a search as flat fields, as far as the truth defines them.

    None of a search that failed: to flag nothing for that reason is no merit.

    Args:
        found: what a purifier found.
        poisoned: indices of the items that are poisoned in truth.
    """
    fields: dict[str, float] = {}
    if found.outcome is Outcome.FAILED:
        return fields
    for name, rate in found.rates(poisoned).items():
        fields |= rate_fields(name, rate) if rate.n else {}
    auroc = found.auroc(poisoned)
    return fields if auroc is None else fields | {"auroc": round(auroc, 5)}
