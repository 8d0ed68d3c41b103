"""Step 2: which trigger leads there? A mask and a pattern, found by gradient descent.

The loss follows InverTune, step 2: alignment with the target class over all class texts, distance
to the original embedding, structural similarity and sparsity, all in pixel space [0, 1].
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from pytorch_msssim import SSIM
from torch import Tensor
from torch.nn import functional as F

from invertune_plugin.data import to_unit
from invertune_plugin.errors import refuse_below_one, refuse_negative
from invertune_plugin.metrics import top_class
from invertune_plugin.outcome import Outcome, Stage, diverged
from invertune_plugin.processes import ALONE, Processes
from invertune_plugin.triggers import MaskedPattern, Trigger


@dataclass(frozen=True)
class InversionConfig:
    """How to invert a trigger.

    Attributes:
        steps: Adam updates.
        learning_rate: of Adam, on the logits of mask and pattern.
        batch_size: images per update.
        align_weight: of the cross-entropy toward the target over all classes (the paper's 5).
        embedding_weight: of 1 - cosine to the clean embedding (0.5).
        visual_weight: of 1 - SSIM to the clean image (1).
        visual_images: images of each batch on which SSIM is taken; it costs a third of a small
            encoder's pass.
        mask_weight: of the mean of the mask. The paper has 0.01 on its sum at 224 px.
        least_asr: a trigger with less success on images it was not fitted to is rejected.
        most_area: so is one that covers more than this share of the image.
    """

    steps: int = 200
    learning_rate: float = 0.1
    batch_size: int = 32
    align_weight: float = 5.0
    embedding_weight: float = 0.5
    visual_weight: float = 1.0
    visual_images: int = 8
    mask_weight: float = 50.0
    least_asr: float = 0.7
    most_area: float = 0.15

    def __post_init__(self) -> None:
        """Refuse settings that invert nothing."""
        refuse_below_one("batch_size", self.batch_size)
        refuse_below_one("steps", self.steps)
        refuse_below_one("visual_images", self.visual_images)
        refuse_negative("learning_rate", self.learning_rate)


@dataclass(frozen=True)
class InversionResult:
    """An inverted trigger and the decision about it.

    Attributes:
        label: class index it leads to.
        trigger: mask and pattern.
        asr: its success on held-back images that the model did not read as the class anyway.
        area: mean of the mask, the share of the image that is replaced.
        losses: loss after each update.
        stage: outcome and evidence.
    """

    label: int
    trigger: MaskedPattern
    asr: float
    area: float
    losses: list[float]
    stage: Stage


def invert_trigger(
    suspect: Any,
    images: Tensor,
    held_back: Tensor,
    label: int,
    config: InversionConfig,
    seed: int = 0,
    processes: Processes = ALONE,
) -> InversionResult:
    """Invert the trigger of a class.

    Args:
        suspect: ``encode_image`` and ``logits_of``; frozen, in eval mode.
        images: clean images to fit the trigger to, ``uint8 [N, 3, H, W]``.
        held_back: clean images to judge it by, ``uint8 [M, 3, H, W]``.
        label: class index of the suspected target.
        config: the inversion.
        seed: of start and batches.
        processes: that invert together.
    """
    generator = torch.Generator().manual_seed(seed)
    side = images.shape[-2:]
    start = 0.1 * torch.randn((1, *side), generator=generator) - 2.0
    mask_logits = start.to(images.device).requires_grad_()
    start = 0.5 * torch.randn((3, *side), generator=generator)
    pattern_logits = start.to(images.device).requires_grad_()
    optimizer = torch.optim.Adam(
        [mask_logits, pattern_logits], lr=config.learning_rate, betas=(0.5, 0.9)
    )
    similarity = SSIM(data_range=1.0, win_size=_window(side[0])).to(images.device)
    goal = torch.full((config.batch_size,), label, device=images.device)
    with torch.no_grad():
        parts = (to_unit(part) for part in images.split(128))
        originals = torch.cat([processes.spread(suspect.encode_image, part) for part in parts])
    losses, some = [], config.visual_images
    for _ in range(config.steps):
        chosen = torch.randint(len(images), (config.batch_size,), generator=generator)
        batch = to_unit(images[chosen])
        trigger = MaskedPattern(mask_logits.sigmoid(), pattern_logits.sigmoid())
        triggered = trigger(batch)
        features = processes.spread(suspect.encode_image, triggered)
        loss = (
            config.align_weight * F.cross_entropy(suspect.logits_of(features), goal)
            + config.embedding_weight * (1 - (features * originals[chosen]).sum(1)).mean()
            + config.visual_weight * (1 - similarity(triggered[:some], batch[:some]))
            + config.mask_weight * trigger.mask.mean()
        )
        optimizer.zero_grad()
        loss.backward()
        processes.average([mask_logits, pattern_logits])
        optimizer.step()
        losses.append(float(loss.detach()))
    mask, pattern = (each.sigmoid().detach().cpu() for each in (mask_logits, pattern_logits))
    if not (mask.isfinite().all() and pattern.isfinite().all()):
        nothing = MaskedPattern(torch.zeros_like(mask), torch.zeros_like(pattern))
        failed = Stage("inversion", Outcome.FAILED, diverged(losses[-1]))
        return InversionResult(label, nothing, 0.0, 0.0, losses, failed)
    trigger = MaskedPattern(mask, pattern)
    asr = success(suspect, held_back, trigger, label, processes)
    area = float(trigger.mask.mean())
    stage = _judge(suspect.class_names[label], asr, area, config)
    reached = 0.0 if math.isnan(asr) else asr
    return InversionResult(label, trigger, reached, area, losses, stage)


@torch.no_grad()
def success(
    suspect: Any, images: Tensor, trigger: Trigger, label: int, processes: Processes = ALONE
) -> float:
    """Share of ``uint8`` images, not read as the class anyway, that the trigger sends to it.

    NaN where all of them are read as it.
    """
    hits = sources = 0
    for part in (to_unit(part) for part in images.split(128)):
        elsewhere = top_class(processes.spread(suspect, part)) != label
        reached = top_class(processes.spread(suspect, trigger(part))) == label
        hits += int(reached[elsewhere].sum())
        sources += int(elsewhere.sum())
    return hits / sources if sources else math.nan


def _window(side: int) -> int:
    """SSIM window: 11 as published, smaller and odd on images under 64 px."""
    return 11 if side >= 64 else 7


def _judge(name: str, asr: float, area: float, config: InversionConfig) -> Stage:
    if math.isnan(asr):
        reason = f"All clean images that judge are read as {name!r}; none is left to send there."
        return Stage("inversion", Outcome.REJECTED, reason, {"area": area})
    evidence = {"inverted_asr": asr, "area": area}
    told = f"The trigger inverted for {name!r} sends {asr:.1%} there and covers {area:.1%}"
    if asr < config.least_asr:
        reason = f"{told}; at least {config.least_asr:.0%} were expected."
        return Stage("inversion", Outcome.REJECTED, reason, evidence)
    if area > config.most_area:
        reason = f"{told}; a trigger covers at most {config.most_area:.0%}."
        return Stage("inversion", Outcome.REJECTED, reason, evidence)
    return Stage("inversion", Outcome.OK, f"{told}.", evidence)
