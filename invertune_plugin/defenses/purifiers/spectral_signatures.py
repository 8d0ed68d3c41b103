"""Spectral signatures: per label, the samples that lie far out along the main direction.

Tran et al. 2018 (arXiv 1811.00636, algorithm 1). It always removes samples, also from a clean set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from invertune_plugin.data import ImageSet, texts_of
from invertune_plugin.defenses.purifiers.embeddings import image_embeddings
from invertune_plugin.defenses.purify import Found, Purified, Report, check_items, timed_search
from invertune_plugin.errors import InputError


@dataclass(frozen=True)
class SpectralSignatures:
    """Settings.

    Attributes:
        rate: share of a label's samples that are taken to be poisoned; 1.5 times as many of each
            label are removed, as published.
        batch_size: images at a time.
    """

    rate: float = 0.1
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Refuse a rate that removes nothing or everything."""
        if not 0 < self.rate < 2 / 3 or self.batch_size < 1:
            raise InputError(
                "Expected a rate above 0 and below 2/3 and batches of one or more, got "
                f"{self.rate} and {self.batch_size}."
            )


def spectral_signatures(
    model: nn.Module,
    dataset: ImageSet,
    config: SpectralSignatures | None = None,
    seed: int = 0,
    report: Report | None = None,
) -> Purified:
    """Remove the samples of each label with the largest spectral scores.

    Args:
        model: trained on the set; images in [0, 1] to logits.
        dataset: labelled images.
        config: settings.
        seed: nothing here is random; taken for the contract.
        report: called with sentences.

    Raises:
        InputError: an image has no label, or the model no linear layer.
    """
    settings = config or SpectralSignatures()
    check_items("spectral_signatures", dataset, ("labels",))

    def search(say: Report) -> Found:
        found = image_embeddings("spectral_signatures", model, dataset, settings.batch_size, say)
        labels = torch.tensor(list(texts_of(dataset)))
        scores = np.zeros(len(labels))
        poisoned: list[int] = []
        for label in labels.unique():
            mine = (labels == label).nonzero()[:, 0].numpy()
            scores[mine] = spectral_scores(found[mine]).numpy()
            count = int(1.5 * settings.rate * len(mine))
            poisoned += mine[scores[mine].argsort()[::-1][:count].copy()].tolist()
        reason = (
            f"Removed the {len(poisoned)} most outlying of {len(labels)} samples, "
            f"{1.5 * settings.rate:.0%} of each label; so many in any set."
        )
        return Found(scores, poisoned, reason, {"rate": settings.rate})

    return timed_search("spectral_signatures", model, seed, report, search)


def spectral_scores(embeddings: Tensor) -> Tensor:
    """Squared projection on the main direction over its mean, ``[N]`` of embeddings ``[N, D]``."""
    centred = embeddings.double() - embeddings.double().mean(0)
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    scores: Tensor = (centred @ directions[0]).square()
    return scores / scores.mean().clamp_min(1e-12)
