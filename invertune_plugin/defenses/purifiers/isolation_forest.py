"""Isolation forest on image embeddings (Liu et al. 2008), a baseline of Huang et al. 2025."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sklearn.ensemble import IsolationForest as Forest
from torch import nn

from invertune_plugin.data import Items
from invertune_plugin.defenses.purifiers.embeddings import image_embeddings
from invertune_plugin.defenses.purifiers.outliers import OutlierConfig, removed_outliers
from invertune_plugin.defenses.purify import Found, Purified, Report, check_items, timed_search
from invertune_plugin.errors import InputError


@dataclass(frozen=True)
class IsolationForest(OutlierConfig):
    """Settings: those of ``OutlierConfig``, and the forest.

    Attributes:
        trees: of the forest.
    """

    trees: int = 100

    def __post_init__(self) -> None:
        """Refuse a forest without trees."""
        super().__post_init__()
        if self.trees < 1:
            raise InputError(f"Expected one or more trees, got {self.trees}.")


def isolation_forest(
    model: nn.Module,
    dataset: Items[Any],
    config: IsolationForest | None = None,
    seed: int = 0,
    report: Report | None = None,
) -> Purified:
    """Remove samples that few random cuts isolate; only images are needed.

    Raises:
        InputError: the model has no embeddings.
    """
    settings = config or IsolationForest()
    check_items("isolation_forest", dataset, ())

    def search(say: Report) -> Found:
        found = image_embeddings(
            "isolation_forest", model, dataset, settings.batch_size, say
        ).numpy()
        forest = Forest(n_estimators=settings.trees, random_state=seed).fit(found)
        return removed_outliers(-forest.score_samples(found), settings)

    return timed_search("isolation_forest", model, seed, report, search)
