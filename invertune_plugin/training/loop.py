"""The training loop, the same on CPU, GPU and several processes.

Equal captions in a batch are not negatives of each other: each distinct caption is encoded once and
images are classified among the distinct captions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invertune_plugin.batch_norm import shared_statistics
from invertune_plugin.data import PairSet, to_unit
from invertune_plugin.errors import InputError
from invertune_plugin.modes import channels_last
from invertune_plugin.processes import ALONE, Processes
from invertune_plugin.resuming import Described, Stateful, load_state, save_state
from invertune_plugin.training.config import TrainingConfig
from invertune_plugin.training.epochs import augmented, batches_of, stream
from invertune_plugin.training.loss import contrastive_loss
from invertune_plugin.training.optimizing import Schedule, freeze, one_cycle, parameter_groups
from invertune_plugin.zero_shot import ZeroShotClassifier

Report = Callable[[int, int, float], None]
MAX_LOGIT_SCALE = math.log(100)
KEPT_CAPTIONS = 200_000


@dataclass(frozen=True)
class Batch:
    """What a penalty sees of a training step, the same in all processes.

    Embeddings are of unit length and have gradients.

    Attributes:
        image_features: embeddings of the images, ``[N, D]``.
        text_features: embeddings of the captions, ``[U, D]``.
        owners: caption of each image, ``[N]`` with values in [0, U).
        scale: logit scale.
        captions: the U distinct captions.
        images: ``[N, 3, H, W]`` in [0, 1], augmented as they were trained on.
        step: steps done before this one.
    """

    image_features: Tensor
    text_features: Tensor
    owners: Tensor
    scale: Tensor
    captions: list[str]
    images: Tensor
    step: int


Penalty = Callable[[Batch], Tensor]


def train_contrastive(
    classifier: ZeroShotClassifier,
    pairs: PairSet,
    config: TrainingConfig,
    *,
    resume_path: Path | None = None,
    report: Report | None = None,
    penalty: Penalty | None = None,
    schedule: Schedule | None = None,
    beside: Mapping[str, Stateful] | None = None,
    processes: Processes = ALONE,
) -> None:
    """Train the CLIP inside a classifier, in place; its class weights are renewed at the end.

    Args:
        classifier: holds model, tokenizer and normalisation; trained on a GPU where it is on one.
        pairs: training pairs; each epoch takes one caption per image.
        config: the recipe.
        resume_path: state after each epoch is kept here, and training goes on from it.
        report: called with (steps done, steps in all, loss) after each step.
        penalty: of each batch, added to the loss.
        schedule: (steps done, steps in all) -> factor on the learning rate, instead of the rise and
            the cosine of ``config.warmup``.
        beside: what else is kept and gone on from, by name, such as a penalty with a state.
        processes: that train together; one of them saves. BatchNorm sees the batch of all; layers
            that draw (dropout) draw for the share of each, so that only without them several train
            as one.

    Raises:
        InputError: there are no pairs, the processes cannot share a batch, or the state that was
            kept is damaged, of another training, or cannot be written.
    """
    if len(pairs) == 0:
        raise InputError("Expected image-caption pairs to train on, got none.")
    processes.refuse_uneven(min(config.batch_size, len(pairs)))
    clip, device = classifier.clip, classifier.mean.device
    freeze(clip, config.freeze)
    groups = parameter_groups(clip, config)
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, fused=True)
    per_epoch = len(pairs) // config.batch_size or 1
    steps = config.epochs * per_epoch if config.max_steps is None else config.max_steps
    factor = schedule or one_cycle(config.warmup)
    rates = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, steps))
    settings = {**asdict(replace(config, workers=0)), "pairs": len(pairs), "steps": steps}
    parts: dict[str, Stateful] = {"training": Described(settings)}
    parts |= {"clip": clip, "optimizer": optimizer, "schedule": rates, **(beside or {})}
    done = load_state(resume_path, **parts)

    @lru_cache(maxsize=KEPT_CAPTIONS)
    def tokens_of(caption: str) -> Tensor:
        return classifier.tokenizer([caption])[0]

    devices = [device] if device.type == "cuda" else []
    alone, together = torch.random.fork_rng(devices), shared_statistics(clip.visual, processes)
    with alone, channels_last(clip.visual), together:
        clip.train()
        if config.freeze == "image":
            clip.visual.eval()
        while done < steps:
            epoch, skip = divmod(done, per_epoch)
            for images, captions in batches_of(pairs, config, epoch, skip, processes):
                pixels = to_unit(augmented(images, config, done, processes).to(device))
                inputs = (pixels - classifier.mean) / classifier.std
                torch.manual_seed(stream(config.seed, done, "layers"))
                encoded = _encoded(clip, inputs, captions, tokens_of, processes)
                loss = contrastive_loss(*encoded[:4])
                if penalty is not None:
                    loss = loss + penalty(Batch(*encoded, processes.gather(pixels), done))
                optimizer.zero_grad()
                loss.backward()
                processes.average(clip.parameters())
                optimizer.step()
                rates.step()
                clip.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)
                done += 1
                if report is not None:
                    report(done, steps, float(loss.detach()))
                if done == steps:
                    break
            if processes.is_main:
                save_state(resume_path, done, **parts)
    for parameter in clip.parameters():
        parameter.requires_grad_(True)
    clip.zero_grad(set_to_none=True)
    clip.eval()
    classifier.renew_class_weights()


def _encoded(
    clip: Any,
    images: Tensor,
    captions: list[str],
    tokens_of: Callable[[str], Tensor],
    processes: Processes,
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[str]]:
    """Embeddings of images and distinct captions, owners, scale and captions, of all processes."""
    captions = processes.gather_items(captions)
    place = {caption: i for i, caption in enumerate(dict.fromkeys(captions))}
    owners = torch.tensor([place[caption] for caption in captions], device=images.device)
    distinct = list(place)
    tokens = torch.stack([tokens_of(caption) for caption in processes.share(distinct)])
    image_features, text_features, scale = clip(images, tokens.to(images.device))[:3]
    image_features = processes.gather(image_features)
    text_features = processes.gather(text_features)[: len(distinct)]
    return image_features, text_features, owners, scale, distinct
