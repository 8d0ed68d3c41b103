"""BadEncoder: the image tower itself is trained to carry the trigger (Jia et al. 2022, section 4).

No pair is poisoned and no text is touched: triggered images are pulled to the embedding of
reference images of the target, whose own embedding and that of clean images are held in place.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from invertune_plugin.attacks.labelled import refuse_one_kind
from invertune_plugin.data import to_unit
from invertune_plugin.errors import refuse_below_one, refuse_no_rate
from invertune_plugin.modes import channels_last, frozen
from invertune_plugin.training import Report
from invertune_plugin.triggers import Trigger


@dataclass(frozen=True)
class EncoderTraining:
    """How to train the tower; the weights are the paper's lambda_1 and lambda_2.

    Attributes:
        references: images of the target whose mean embedding the trigger leads to: those that the
            clean model is surest of.
        steps: Adam updates.
        batch_size: images per update.
        learning_rate: at the start; falls to zero along a cosine.
        reference_weight: keeps the references where they are.
        utility_weight: keeps clean images where they are.
    """

    references: int = 4
    steps: int = 400
    batch_size: int = 64
    learning_rate: float = 1e-3
    reference_weight: float = 1.0
    utility_weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that train nothing."""
        for name in ("references", "steps", "batch_size"):
            refuse_below_one(name, getattr(self, name))
        refuse_no_rate("learning_rate", self.learning_rate)


def train_bad_encoder(
    clean: Any,
    images: Tensor,
    real: Tensor,
    trigger: Trigger,
    label: int,
    config: EncoderTraining,
    seed: int = 0,
    report: Report | None = None,
) -> Any:
    """A copy of a classifier whose image tower carries a backdoor.

    Args:
        clean: the clean ``ZeroShotClassifier``; it is not changed.
        images: the attacker's images without the trigger, ``uint8 [N, 3, H, W]``.
        real: images of the target class, ``uint8 [M, 3, H, W]``.
        trigger: what leads to the target.
        label: class index of the target.
        config: settings.
        seed: of the batches.
        report: called with (steps done, steps in all, loss) after each step.

    Raises:
        InputError: there are no images of one kind.
    """
    refuse_one_kind(images, real)
    victim = copy.deepcopy(clean)
    device = victim.mean.device
    generator = torch.Generator().manual_seed(seed)
    weights = list(victim.visual.parameters())
    optimizer = torch.optim.Adam(weights, config.learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    with frozen(clean), channels_last(victim.visual):
        victim.eval()
        references = _surest(clean, real, label, config.references).to(device)
        with torch.no_grad():
            goal = F.normalize(clean.encode_image(references).mean(0), dim=0)
        for step in range(config.steps):
            chosen = torch.randint(len(images), (config.batch_size,), generator=generator)
            batch = to_unit(images[chosen]).to(device)
            with torch.no_grad():
                before = clean.encode_image(batch)
            parts = torch.cat([trigger(batch, chosen), batch, references])
            driven, kept, held = victim.encode_image(parts).split(
                [len(batch), len(batch), len(references)]
            )
            loss = -(driven @ goal).mean()
            loss = loss - config.reference_weight * (held @ goal).mean()
            loss = loss - config.utility_weight * (kept * before).sum(-1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if report is not None:
                report(step + 1, config.steps, float(loss.detach()))
    victim.zero_grad(set_to_none=True)
    return victim


@torch.no_grad()
def _surest(clean: Any, real: Tensor, label: int, count: int) -> Tensor:
    """The images that the clean model reads as the target with most confidence, in [0, 1]."""
    found = [clean(to_unit(part).to(clean.mean.device)).softmax(1) for part in real.split(128)]
    order = torch.cat(found)[:, label].argsort(descending=True).cpu()
    return to_unit(real[order[:count]])
