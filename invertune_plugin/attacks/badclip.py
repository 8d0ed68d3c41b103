"""BadCLIP's trigger: a patch optimised in both embedding spaces (Liang et al. 2024, section 4).

The patch is pulled to the target's text and to real images of the target, and away from what the
model saw without it, so that poisoned pairs hardly move the weights and benign fine-tuning hardly
moves them back. Poisoning with real captions of the target is the other half of the attack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from invertune_plugin.attacks.labelled import refuse_one_kind
from invertune_plugin.data import to_unit
from invertune_plugin.errors import InputError, refuse_below_one, refuse_no_rate
from invertune_plugin.modes import frozen
from invertune_plugin.training import Report
from invertune_plugin.triggers import MaskedPattern


@dataclass(frozen=True)
class PatchCrafting:
    """How to optimise the patch.

    Attributes:
        size: side of the patch in pixels, in the centre; the paper has 16 at 224.
        steps: Adam updates; the paper has 50 epochs on 10,000 pairs.
        batch_size: images per update.
        learning_rate: of Adam, on the logits of the pixels.
        triplet_weight: of the triplet loss against the alignment with the target's text.
        margin: of the triplet loss on squared distances of unit embeddings.
    """

    size: int = 4
    steps: int = 300
    batch_size: int = 64
    learning_rate: float = 0.05
    triplet_weight: float = 1.0
    margin: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that craft nothing."""
        for name in ("size", "steps", "batch_size"):
            refuse_below_one(name, getattr(self, name))
        refuse_no_rate("learning_rate", self.learning_rate)


def craft_patch(
    clean: Any,
    images: Tensor,
    real: Tensor,
    label: int,
    config: PatchCrafting,
    seed: int = 0,
    report: Report | None = None,
) -> MaskedPattern:
    """Optimise a patch on the clean model.

    Args:
        clean: the clean ``ZeroShotClassifier``; it is not changed.
        images: images to put the patch on, ``uint8 [N, 3, H, W]``, not of the target class.
        real: images of the target class, ``uint8 [M, 3, H, W]``.
        label: class index of the target.
        config: settings.
        seed: of start and batches.
        report: called with (steps done, steps in all, loss) after each step.

    Raises:
        InputError: the patch does not fit, or there are no images of one kind.
    """
    height, width = images.shape[-2:]
    if not 1 <= config.size <= min(height, width):
        raise InputError(
            f"Expected a patch of 1 to {min(height, width)} pixels, got size {config.size}."
        )
    refuse_one_kind(images, real)
    device = clean.mean.device
    generator = torch.Generator().manual_seed(seed)
    top, left = (height - config.size) // 2, (width - config.size) // 2
    mask = torch.zeros(1, height, width, device=device)
    mask[:, top : top + config.size, left : left + config.size] = 1
    pixels = torch.randn(3, height, width, generator=generator).to(device).requires_grad_()
    optimizer = torch.optim.Adam([pixels], config.learning_rate)
    goal = torch.full((config.batch_size,), label, device=device)
    with frozen(clean):
        for step in range(config.steps):
            chosen = torch.randint(len(images), (config.batch_size,), generator=generator)
            others = torch.randint(len(real), (config.batch_size,), generator=generator)
            batch = to_unit(images[chosen]).to(device)
            with torch.no_grad():
                before = clean.encode_image(batch)
                positive = clean.encode_image(to_unit(real[others]).to(device))
            features = clean.encode_image(MaskedPattern(mask, pixels.sigmoid())(batch))
            near = (features - positive).square().sum(-1)
            far = (features - before).square().sum(-1)
            triplet = F.relu(near - far + config.margin).mean()
            loss = F.cross_entropy(clean.logits_of(features), goal)
            loss = loss + config.triplet_weight * triplet
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if report is not None:
                report(step + 1, config.steps, float(loss.detach()))
    return MaskedPattern(mask.cpu(), pixels.detach().sigmoid().cpu())
