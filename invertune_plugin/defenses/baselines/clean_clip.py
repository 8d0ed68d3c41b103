"""CleanCLIP: contrastive tuning with self-supervision within each modality.

Bansal et al. 2023 (arXiv 2303.03323). The in-modal loss tells an image (a caption) from the others
of the batch by its augmented view, so that embeddings rest on content and not on a joint trigger.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from invertune_plugin.defenses.baselines.fine_tuning import FineTuning, tuned_on_pairs
from invertune_plugin.defenses.baselines.views import ImageViews, augmented_caption, image_views
from invertune_plugin.defenses.repair import DefenderData, Repaired, Report
from invertune_plugin.errors import InputError
from invertune_plugin.processes import ALONE, Processes
from invertune_plugin.training import Batch, Penalty, stream


@dataclass(frozen=True)
class CleanClip(FineTuning):
    """Settings of CleanCLIP: those of ``FineTuning``, and its own.

    Published (paper and released code): weight 1 beside the contrastive loss of weight 1; rate
    1e-5, batches of 64, 10 epochs, 50 steps of warm-up, weight decay 0.1, on 100,000 pairs.

    Attributes:
        in_modal_weight: of the in-modal loss.
        word_share: share of the words of a caption that are changed.
        crop: least share of the area of a view.
        colour: most by which brightness, contrast and saturation of a view change.
    """

    in_modal_weight: float = 1.0
    word_share: float = 0.1
    crop: float = 0.5
    colour: float = 0.4

    def __post_init__(self) -> None:
        """Refuse weights and shares out of range."""
        super().__post_init__()
        if self.in_modal_weight <= 0:
            raise InputError(
                f"Expected a positive in_modal_weight, got {self.in_modal_weight}. "
                "Use fine_tuning for the contrastive loss alone."
            )
        if not (0 < self.crop <= 1 and 0 <= self.colour < 1 and 0 < self.word_share <= 1):
            raise InputError(
                "Expected crop and word_share above 0 and at most 1 and colour from 0 to below 1, "
                f"got {self.crop}, {self.word_share} and {self.colour}."
            )


def clean_clip(
    suspect: Any,
    data: DefenderData,
    config: CleanClip | None = None,
    seed: int = 0,
    report: Report | None = None,
    processes: Processes = ALONE,
) -> Repaired:
    """Repair a copy of the suspect by CleanCLIP on the defender's pairs.

    Args:
        suspect: a ``ZeroShotClassifier``; it is not changed.
        data: gives the pairs.
        config: settings.
        seed: of everything random.
        report: called with sentences.
        processes: that tune together.

    Raises:
        InputError: there are no pairs, or the processes cannot share a batch.
    """
    settings = config or CleanClip()

    def penalty_of(mine: Any) -> Penalty:
        return in_modal_penalty(mine, settings, seed, processes)

    return tuned_on_pairs(
        "clean_clip", suspect, data, settings, seed, report, processes, penalty_of=penalty_of
    )


def in_modal_penalty(
    classifier: Any, config: CleanClip, seed: int, processes: Processes = ALONE
) -> Penalty:
    """The weighted in-modal loss of a batch; its views depend on the seed and the step only.

    Where the training augments images, its own draws are not drawn once more for the views.
    """
    views = ImageViews(config.crop, config.colour)
    purpose = "views" if config.flip or config.shift else ""

    def penalty(batch: Batch) -> Tensor:
        key = stream(seed, batch.step, purpose)
        generator = torch.Generator().manual_seed(key)
        words = random.Random(key)
        shown = image_views(batch.images, views, generator)
        images = processes.spread(classifier.encode_image, shown)
        captions = [augmented_caption(c, words, config.word_share) for c in batch.captions]
        texts = processes.spread(classifier.encode_text, captions)
        of_images = in_modal_loss(batch.image_features, images, batch.scale)
        of_texts = in_modal_loss(batch.text_features, texts, batch.scale)
        return config.in_modal_weight * (of_images + of_texts) / 2

    return penalty


def in_modal_loss(features: Tensor, views: Tensor, scale: Tensor) -> Tensor:
    """Cross-entropy of finding each item's own view among all views.

    Args:
        features: unit embeddings ``[N, D]``.
        views: unit embeddings ``[N, D]`` of an augmented view of each.
        scale: of the cosines.
    """
    return F.cross_entropy(
        scale * features @ views.T, torch.arange(len(features), device=features.device)
    )
