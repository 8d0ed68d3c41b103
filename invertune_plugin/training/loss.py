"""The contrastive loss of CLIP (Radford et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def contrastive_loss(images: Tensor, texts: Tensor, owners: Tensor, scale: Tensor) -> Tensor:
    """Symmetric contrastive loss in which equal captions are not negatives of each other.

    Args:
        images: unit embeddings ``[N, D]``.
        texts: unit embeddings ``[U, D]`` of the distinct captions.
        owners: caption of each image, ``[N]`` with values in [0, U).
        scale: logit scale.
    """
    logits = scale * images @ texts.T
    among_texts = F.cross_entropy(logits, owners)
    mine = logits.gather(1, owners[:, None]).squeeze(1)
    others = F.one_hot(owners, len(texts)).bool()
    rest = logits.masked_fill(others, -torch.inf).logsumexp(0)[owners]
    among_images = F.softplus(rest - mine).mean()
    return (among_texts + among_images) / 2
