"""CLIP score: pairs whose image and captions do not fit are removed (Hessel et al. 2021)."""

from __future__ import annotations

from typing import Any

from invertune_plugin.data import PairSet
from invertune_plugin.defenses.purifiers.embeddings import (
    caption_embeddings,
    image_embeddings,
    needs_captions,
)
from invertune_plugin.defenses.purifiers.outliers import OutlierConfig, removed_outliers
from invertune_plugin.defenses.purify import (
    Found,
    Purified,
    Report,
    check_items,
    refuse_non_finite,
    timed_search,
)


def clip_score(
    model: Any,
    dataset: PairSet,
    config: OutlierConfig | None = None,
    seed: int = 0,
    report: Report | None = None,
) -> Purified:
    """Remove the pairs of lowest cosine of image and mean caption.

    Poisoned pairs fit a clean CLIP badly. One that was trained on them has learnt in part that they
    fit; those of our grids, fine-tuned with 3 % of poison, still tell (``docs/benchmark.md``).

    Args:
        model: a ``ZeroShotClassifier``.
        dataset: image-caption pairs.
        config: settings.
        seed: nothing here is random; taken for the contract.
        report: called with sentences.

    Raises:
        InputError: the model has no text tower, or the set no captions.
    """
    settings = config or OutlierConfig()
    needs_captions("clip_score", model)
    check_items("clip_score", dataset, ("captions",))

    def search(say: Report) -> Found:
        images = image_embeddings("clip_score", model, dataset, settings.batch_size, say)
        captions = caption_embeddings(model, dataset, settings.batch_size)
        refuse_non_finite("clip_score", captions.numpy())
        return removed_outliers(-(images * captions).sum(1).double().numpy(), settings)

    return timed_search("clip_score", model, seed, report, search)
