"""What purifiers read of a model: embeddings of images and captions, one forward pass each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from invertune_plugin.data import Items, batches, texts_of, to_unit
from invertune_plugin.defenses.purify import Report, refuse_non_finite, told_progress
from invertune_plugin.errors import InputError
from invertune_plugin.hooks import head_inputs
from invertune_plugin.modes import frozen


@torch.no_grad()
def image_embeddings(
    name: str, model: nn.Module, dataset: Items[Any], batch_size: int, say: Report
) -> Tensor:
    """Embeddings of the images of a set, ``[N, D]`` float32 on the CPU.

    Of a CLIP those of ``encode_image``, of unit length; of any other classifier what its last
    linear layer takes in.

    Raises:
        InputError: the model has neither, or a value is no finite number.
    """
    progress, found, done = told_progress(name, say), [], 0
    device = next(model.parameters()).device
    with frozen(model), head_inputs(model) as seen:
        for images, _ in batches(dataset, batch_size):
            model(to_unit(images).to(device))
            if not seen:
                raise InputError(
                    "Expected a classifier with a linear layer at its end, got "
                    f"{type(model).__name__} without any. Wrap it with one."
                )
            found.append(seen.pop().float().cpu())
            done += len(images)
            progress(done, len(dataset))
    embeddings = torch.cat(found)
    refuse_non_finite(name, embeddings.numpy())
    return embeddings


@torch.no_grad()
def caption_embeddings(model: Any, dataset: Items[Any], batch_size: int) -> Tensor:
    """Embeddings of the captions of a set, ``[N, D]`` of unit length: of the mean over captions."""
    texts: Sequence[tuple[str, ...]] = texts_of(dataset)
    every = sorted({caption for captions in texts for caption in captions})
    place = {caption: i for i, caption in enumerate(every)}
    with frozen(model):
        parts = [
            model.encode_text(every[start : start + batch_size]).float().cpu()
            for start in range(0, len(every), batch_size)
        ]
    table = torch.cat(parts)
    rows = [table[[place[caption] for caption in captions]].mean(0) for captions in texts]
    return F.normalize(torch.stack(rows), dim=1)


def needs_captions(name: str, model: nn.Module) -> None:
    """Refuse a model that cannot read captions.

    Raises:
        InputError: it has no ``encode_text``.
    """
    if not hasattr(model, "encode_text"):
        raise InputError(
            f"Expected a CLIP with encode_text for {name}, got {type(model).__name__}. Pass a "
            "ZeroShotClassifier."
        )
