"""A closer look where no class stands out: for which one does a small square do it alone?

Vision transformers are cheap to perturb toward any class, and each class has a small mask that
leads there. The mask of a patch backdoor is in one place, and a square in that place suffices; the
masks of other classes are scattered, and no piece of them does. See ``docs/invertune.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from invertune_plugin.data import to_unit
from invertune_plugin.defenses.invertune.inversion import InversionResult, success
from invertune_plugin.errors import InputError, refuse_below_one, refuse_negative
from invertune_plugin.outcome import Outcome, Stage
from invertune_plugin.processes import ALONE, Processes
from invertune_plugin.triggers import MaskedPattern


@dataclass(frozen=True)
class SquareConfig:
    """How to look closer.

    Attributes:
        classes: that are looked at where no class stands out, those whose log-probability gains
            most; 0 for none.
        side: of the square, as a share of the image's.
        steps: Adam updates of its pixels.
        learning_rate: of Adam, on their logits.
        batch_size: images per update.
        least_asr: share of held-back images that the square of a backdoor sends to its target.
        lead: the square of the next class may send there at most this share of that.
    """

    classes: int = 10
    side: float = 0.125
    steps: int = 100
    learning_rate: float = 0.2
    batch_size: int = 32
    least_asr: float = 0.4
    lead: float = 0.4

    def __post_init__(self) -> None:
        """Refuse to compare one class with none, and settings that fit no square."""
        if self.classes == 1 or self.classes < 0:
            raise InputError(
                f"Expected 2 or more classes to look at closer, or 0 for none, got {self.classes}."
            )
        if not 0 < self.side <= 1:
            raise InputError(f"Expected a side above 0 and at most 1, got {self.side}.")
        refuse_below_one("steps", self.steps)
        refuse_below_one("batch_size", self.batch_size)
        refuse_negative("learning_rate", self.learning_rate)


def closer_look(
    suspect: Any,
    images: Tensor,
    held_back: Tensor,
    inversions: Sequence[InversionResult],
    config: SquareConfig,
    seed: int = 0,
    processes: Processes = ALONE,
) -> tuple[Stage, InversionResult]:
    """Compare classes by what a small square does for them.

    Args:
        suspect: images in [0, 1] to logits; frozen, in eval mode.
        images: clean images to fit squares to, ``uint8 [N, 3, H, W]``.
        held_back: clean images to judge them by, ``uint8 [M, 3, H, W]``.
        inversions: of two or more classes; their masks say where a square is put.
        config: the look.
        seed: of starts and batches.
        processes: that look together.

    Returns:
        The decision, and the inversion of the class whose square does most.
    """
    found = [
        (_square_asr(suspect, images, held_back, inversion, config, seed, processes), inversion)
        for inversion in inversions
    ]
    found.sort(key=lambda pair: (pair[0], pair[1].stage.outcome is Outcome.OK), reverse=True)
    (asr, best), (next_asr, other) = found[:2]
    if best.stage.outcome is not Outcome.OK:
        return best.stage, best
    name, next_name = (suspect.class_names[each.label] for each in (best, other))
    evidence = {**best.stage.evidence, "square_asr": asr, "next_square_asr": next_asr}
    told = (
        f"A square of {config.side:.0%} of the image's side sends {asr:.1%} to {name!r}, "
        f"{next_asr:.1%} to the next class, {next_name!r}"
    )
    if asr >= config.least_asr and next_asr <= config.lead * asr:
        return Stage("inversion", Outcome.OK, f"{told}: a patch leads there.", evidence), best
    return Stage("inversion", Outcome.REJECTED, f"{told}: no class stands out.", evidence), best


def _square_asr(
    suspect: Any,
    images: Tensor,
    held_back: Tensor,
    inversion: InversionResult,
    config: SquareConfig,
    seed: int,
    processes: Processes,
) -> float:
    """Success of a class's square; none where not even a larger trigger was accepted."""
    if inversion.stage.outcome is not Outcome.OK:
        return 0.0
    square = fit_square(suspect, images, inversion, config, seed, processes)
    return success(suspect, held_back, square, inversion.label, processes)


def fit_square(
    suspect: Any,
    images: Tensor,
    inversion: InversionResult,
    config: SquareConfig,
    seed: int = 0,
    processes: Processes = ALONE,
) -> MaskedPattern:
    """The best pixels of a square, put where the inverted mask has most of its mass."""
    generator = torch.Generator().manual_seed(seed)
    mask = _square(inversion.trigger.mask, max(1, round(config.side * images.shape[-1])))
    start = 0.5 * torch.randn(images.shape[1:], generator=generator)
    logits = start.to(images.device).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=config.learning_rate)
    goal = torch.full((config.batch_size,), inversion.label, device=images.device)
    for _ in range(config.steps):
        chosen = torch.randint(len(images), (config.batch_size,), generator=generator)
        triggered = MaskedPattern(mask, logits.sigmoid())(to_unit(images[chosen]))
        loss = F.cross_entropy(processes.spread(suspect, triggered), goal)
        optimizer.zero_grad()
        loss.backward()
        processes.average([logits])
        optimizer.step()
    return MaskedPattern(mask, logits.sigmoid().detach().cpu())


def _square(mask: Tensor, side: int) -> Tensor:
    """The mask of a square where a mask ``[C, H, W]`` has most of its mass, ``[1, H, W]``."""
    mass = F.avg_pool2d(mask.mean(0)[None, None], side, 1)[0, 0]
    top, left = divmod(int(mass.argmax()), mass.shape[1])
    square = torch.zeros(1, *mask.shape[1:])
    square[:, top : top + side, left : left + side] = 1
    return square
