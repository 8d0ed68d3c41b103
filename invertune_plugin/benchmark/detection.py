"""How well a search for poisoned items did, as fields of a result row."""

from __future__ import annotations

from collections.abc import Sequence

from invertune_plugin.benchmark.record import rate_fields
from invertune_plugin.defenses.purify import Purified


def search_fields(found: Purified, poisoned: Sequence[int]) -> dict[str, float]:
    """``tpr``, ``fpr`` and ``auroc`` of a search as flat fields, as far as the truth defines them.

    Args:
        found: what a purifier found.
        poisoned: indices of the items that are poisoned in truth.
    """
    fields: dict[str, float] = {}
    for name, rate in found.rates(poisoned).items():
        fields |= rate_fields(name, rate) if rate.n else {}
    auroc = found.auroc(poisoned)
    return fields if auroc is None else fields | {"auroc": round(auroc, 5)}
