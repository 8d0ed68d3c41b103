"""Deep visual prompts: trained tokens beside those of the image, in the blocks of a ViT tower.

Each prompted block sees prompts of its own (Jia et al. 2022, VPT-deep); what it makes of them is
dropped, so that the tower's weights, pooling and output are those it had.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class PromptedBlock(nn.Module):
    """A block of a transformer that also reads prompts.

    Args:
        block: tokens to tokens; its weights are not touched.
        prompts: ``[P, C]``.
        axis: of the tokens in its input, 1 where the batch comes first.
    """

    def __init__(self, block: nn.Module, prompts: Tensor, axis: int) -> None:
        super().__init__()
        self.block = block
        self.prompts = nn.Parameter(prompts)
        self.axis = axis

    def forward(self, tokens: Tensor, *args: Any, **options: Any) -> Tensor:
        """Tokens of the image only, ``[N, L, C]`` (or ``[L, N, C]``), as without prompts."""
        count, width = self.prompts.shape
        batch = tokens.shape[1 - self.axis]
        shape = (batch, count, width) if self.axis == 1 else (count, batch, width)
        prompts = self.prompts.unsqueeze(1 - self.axis).to(tokens.dtype).expand(shape)
        both = torch.cat([tokens, prompts], self.axis)
        found: Tensor = self.block(both, *args, **options)
        return found.narrow(self.axis, 0, tokens.shape[self.axis])


def why_no_prompts(suspect: Any) -> str | None:
    """Why a tower cannot take deep prompts, in a sentence; None where it can."""
    if _blocks(suspect.visual) is not None:
        return None
    return (
        "It adds prompt tokens to the blocks of an open_clip vision transformer "
        f"(transformer.resblocks), and this image tower is a {type(suspect.visual).__name__}, "
        "which has no tokens to add to."
    )


def block_count(suspect: Any) -> int:
    """Blocks of a tower that can take prompts."""
    blocks = _blocks(suspect.visual)
    return 0 if blocks is None else len(blocks)


def add_prompts(
    classifier: Any, first: int, length: int, generator: torch.Generator
) -> list[nn.Parameter]:
    """Put prompts into all blocks from one on, in place.

    Args:
        classifier: a ``ZeroShotClassifier`` with a tower of open_clip's vision transformer.
        first: index of the first block with prompts.
        length: prompts per block.
        generator: draws them, with a standard deviation of 0.02.

    Returns:
        The prompts; nothing else in the model is new.
    """
    transformer = classifier.visual.transformer
    axis = 1 if getattr(transformer, "batch_first", False) else 0
    device = classifier.mean.device
    for index in range(first, len(transformer.resblocks)):
        draws = 0.02 * torch.randn(length, transformer.width, generator=generator)
        block = PromptedBlock(transformer.resblocks[index], draws.to(device), axis)
        transformer.resblocks[index] = block.train(classifier.training)
    return [b.prompts for b in transformer.resblocks if isinstance(b, PromptedBlock)]


def _blocks(visual: nn.Module) -> nn.ModuleList | None:
    transformer = getattr(visual, "transformer", None)
    blocks = getattr(transformer, "resblocks", None)
    fits = isinstance(blocks, nn.ModuleList) and hasattr(transformer, "width")
    return blocks if fits else None
