"""Triggers made of triggers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor

from invertune_plugin.errors import InputError
from invertune_plugin.triggers.base import Trigger
from invertune_plugin.triggers.draws import CHOICES, DRAWN, draw_integers

Self = TypeVar("Self", bound="Composed")


@dataclass(frozen=True)
class Composed(Trigger):
    """Some parts, and how they act together; gradients flow where they flow in all parts."""

    parts: Sequence[Trigger] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        """Take over what the parts are."""
        flows = all(part.differentiable for part in self.parts)
        object.__setattr__(self, "differentiable", flows)

    def parameters(self) -> dict[str, Any]:
        """Kind and the parameters of the parts, in order."""
        return {"kind": self.kind, "parts": [part.parameters() for part in self.parts]}

    def identity(self) -> dict[str, Any]:
        """The parameters, with what identifies the parts."""
        return {**self.parameters(), "parts": [part.identity() for part in self.parts]}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the parts, for instance ``parts.0.mask``."""
        return {
            f"parts.{i}.{name}": tensor
            for i, part in enumerate(self.parts)
            for name, tensor in part.tensors().items()
        }

    def at_scale(self: Self, factor: float) -> Self:
        """The same of the parts at that scale."""
        return replace(self, parts=tuple(part.at_scale(factor) for part in self.parts))


@dataclass(frozen=True)
class Chain(Composed):
    """Triggers applied one after the other; parts that draw need seeds of their own.

    Draws of one seed and key are the same: two random patches of one seed hide one another.

    Attributes:
        parts: the first one sees the image, each next one what came out before.
    """

    kind: ClassVar[str] = "chain"

    def _apply(self, images: Tensor, keys: Tensor) -> Tensor:
        for part in self.parts:
            images = part(images, keys)
        return images


@dataclass(frozen=True)
class Pick(Composed):
    """One of several triggers for each image, drawn from its key; picks within need other seeds.

    Attributes:
        parts: the triggers, one or more.
        weights: how often each is drawn, relative to the others; equally often by default.
        seed: of the draw.
    """

    kind: ClassVar[str] = "pick"
    weights: tuple[float, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be drawn from."""
        super().__post_init__()
        if not self.parts:
            raise InputError("Expected triggers to pick from, got none. Name one or more parts.")
        if self.weights and len(self.weights) != len(self.parts):
            raise InputError(
                f"Expected one weight for each of {len(self.parts)} parts, got "
                f"{len(self.weights)}. Add or remove weights."
            )
        if any(part.seed == self.seed for part in self.parts if isinstance(part, Pick)):
            raise InputError(
                f"Expected picks within a pick to have other seeds, got {self.seed} twice, which "
                "would draw the same. Give the inner one another seed."
            )
        if not all(weight > 0 for weight in self.weights):
            raise InputError(
                f"Expected weights above 0, got {list(self.weights)}. Leave out a part instead."
            )

    def parameters(self) -> dict[str, Any]:
        """Kind, weights, seed and the parameters of the parts."""
        draw = {"weights": list(self.weights), "seed": self.seed}
        return {**super().parameters(), **draw}

    def chosen(self, keys: Tensor) -> Tensor:
        """The index of the part for each key, ``[N]``."""
        weights = torch.tensor(self.weights or (1.0,) * len(self.parts), dtype=torch.float64)
        bounds = (weights.cumsum(0) / weights.sum())[:-1].to(keys.device)
        return torch.bucketize(draw_integers(keys, self.seed, CHOICES) / DRAWN, bounds, right=True)

    def _apply(self, images: Tensor, keys: Tensor) -> Tensor:
        chosen, triggered = self.chosen(keys), images.clone()
        for i, part in enumerate(self.parts):
            places = (chosen == i).nonzero()[:, 0]
            if len(places):
                here = places.to(images.device)
                triggered[here] = part(images[here], keys[places])
        return triggered
