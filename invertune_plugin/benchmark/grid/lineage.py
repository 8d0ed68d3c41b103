"""What shaped a result, apart from its seed: its settings and those of all cells before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from invertune_plugin.benchmark.grid.claims import Claim


def lineage(claim: Claim, claims: Mapping[str, Claim]) -> str:
    """Hash of settings, those of seeds aside: the same for all seeds of one experiment.

    Args:
        claim: the result.
        claims: those of its store by key; ancestors that are not among them do not count.
    """
    told, open_claims, seen = [], [claim], set()
    while open_claims:
        one = open_claims.pop()
        if one.about.key not in seen:
            seen.add(one.about.key)
            told.append(
                {n: value for n, value in one.about.settings.items() if not n.endswith("seed")}
            )
            open_claims.extend(claims[key] for key in one.about.parents if key in claims)
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]
