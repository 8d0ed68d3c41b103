"""Normalisation layers: their statistics per channel, and a summary of what they take in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torchvision.ops import FrozenBatchNorm2d

from invertune_plugin.errors import InputError

Measure = Literal["log-density", "z-score", "deviation", "mean-and-largest"]
LARGEST = " (largest)"
"""At the end of the names of features that are a maximum."""
EVERY_POSITION = ("deviation", "mean-and-largest")
"""Measures that read a mean over positions, not the least likely of them."""
BATCH_NORMS = (_BatchNorm, FrozenBatchNorm2d)
NORMS = (*BATCH_NORMS, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
Norm = TypeVar("Norm", bound=nn.Module)
LEAST_SQUARE = 1e-6
"""Of a deviation; below it a value is a constant, as is the class token before the first layer."""


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation per channel, each ``[C]``."""

    mean: Tensor
    std: Tensor


class Summary(Protocol):
    """What is kept of a layer's input until the layer's statistics are known."""

    def joined(self, other: Any) -> Summary:
        """Both as one, of a layer that is called twice in a forward pass."""

    def likelihood(self, moments: Moments, measure: Measure) -> Tensor:
        """The features of each sample, ``[B, F]``; lower is more unusual. See ``FeatureConfig``."""


@dataclass(frozen=True)
class Extremes:
    """Smallest and largest value per sample and channel, each ``[B, C]``."""

    low: Tensor
    high: Tensor

    def joined(self, other: Extremes) -> Extremes:
        """The extremes of both, of a layer that is called twice in a forward pass."""
        low, high = torch.minimum(self.low, other.low), torch.maximum(self.high, other.high)
        return Extremes(low, high)

    def likelihood(self, moments: Moments, measure: Measure) -> Tensor:
        """How likely the least likely value of each sample is, ``[B, 1]``."""
        z = self.largest(moments)
        if measure == "z-score":
            return -z.amax(1, keepdim=True)
        density = -z.square() / 2 - moments.std.log() - math.log(2 * math.pi) / 2
        return density.amin(1, keepdim=True)

    def largest(self, moments: Moments) -> Tensor:
        """Largest ``|z|`` per sample and channel, ``[B, C]``."""
        low, high = (self.low - moments.mean).abs(), (self.high - moments.mean).abs()
        return torch.maximum(low, high) / moments.std


@dataclass(frozen=True)
class Spread:
    """Mean and variance over the positions of a sample's channel, each ``[B, C]``.

    Attributes:
        mean: of the positions.
        variance: of the positions, around their own mean.
        positions: how many there are.
    """

    mean: Tensor
    variance: Tensor
    positions: int

    def joined(self, other: Spread) -> Spread:
        """The spread of both, of a layer that is called twice in a forward pass."""
        positions = self.positions + other.positions
        share, apart = other.positions / positions, other.mean - self.mean
        within = (1 - share) * self.variance + share * other.variance
        between = share * (1 - share) * apart.square()
        return Spread(self.mean + share * apart, within + between, positions)

    def likelihood(self, moments: Moments, measure: Measure) -> Tensor:
        """How near the values of each sample are to the layer's mean, ``[B, 1]``."""
        square = self.variance + (self.mean - moments.mean).square()
        return -_log((square / moments.std.square()).mean(1, keepdim=True))


@dataclass(frozen=True)
class Both:
    """Spread and extremes of a layer's input."""

    spread: Spread
    extremes: Extremes

    def joined(self, other: Both) -> Both:
        """Those of both, of a layer that is called twice in a forward pass."""
        return Both(self.spread.joined(other.spread), self.extremes.joined(other.extremes))

    def likelihood(self, moments: Moments, measure: Measure) -> Tensor:
        """How near all values are to the layer's mean, and the farthest one, ``[B, 2]``."""
        farthest = self.extremes.largest(moments).amax(1, keepdim=True)
        return torch.cat([self.spread.likelihood(moments, measure), -_log(farthest.square())], 1)


def _log(squares: Tensor) -> Tensor:
    return squares.clamp_min(LEAST_SQUARE).log()


class MomentSums:
    """Count, sum and sum of squares per channel, in float64, as they come in.

    Args:
        eps: added to the variance.
    """

    def __init__(self, eps: float) -> None:
        self.eps = eps
        self.count = 0
        self.sums: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def add(self, values: Tensor) -> None:
        """Take in values ``[B, P, C]``; a sample with values that are not finite is left out."""
        rows = values[values.isfinite().all(2).all(1)].double().flatten(0, 1)
        self.count += len(rows)
        self.sums = self.sums + rows.sum(0)
        self.squares = self.squares + rows.square().sum(0)

    def moments(self) -> Moments:
        """Mean and standard deviation of all values so far."""
        mean = torch.as_tensor(self.sums) / self.count
        variance = torch.as_tensor(self.squares) / self.count - mean.square()
        return Moments(mean.float(), (variance.clamp_min(0) + self.eps).sqrt().float())


def normalisation_layers(model: nn.Module) -> dict[str, nn.Module]:
    """All normalisation layers of a network by name.

    Raises:
        InputError: there are none, or all its BatchNorm statistics are those of a new network.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, NORMS)}
    if not layers:
        raise InputError(
            f"Expected a model with BatchNorm, LayerNorm or GroupNorm layers, got "
            f"{type(model).__name__} without any. FLARE reads these; another purifier may do."
        )
    known = [moments for moments in map(running_moments, layers.values()) if moments is not None]
    if known and all(bool((m.mean == 0).all() and (m.std.diff() == 0).all()) for m in known):
        raise InputError(
            f"Expected a model that was trained on the set, got {type(model).__name__} whose "
            "BatchNorm statistics are those of a new network. Train it, or load its weights."
        )
    return layers


def running_moments(layer: nn.Module) -> Moments | None:
    """The statistics that a BatchNorm layer keeps, ``[C]`` each; None where a layer keeps none."""
    mean, variance = getattr(layer, "running_mean", None), getattr(layer, "running_var", None)
    if not isinstance(mean, Tensor) or not isinstance(variance, Tensor):
        return None
    return Moments(mean.float(), (variance + eps_of(layer)).sqrt().float())


def eps_of(layer: nn.Module) -> float:
    """What a layer adds to the variance."""
    eps = getattr(layer, "eps", None)
    return 1e-5 if eps is None else float(eps)


def by_channel(layer: nn.Module, values: Tensor) -> Tensor:
    """The input of a layer as ``[B, P, C]``: samples, positions, channels.

    The channels are the last axis in LayerNorm and RMSNorm over one axis (not in the LayerNorm2d of
    timm and torchvision), and else the second.
    """
    if _channels_last(layer):
        return values.reshape(len(values), -1, values.shape[-1])
    return values.flatten(2).transpose(1, 2) if values.ndim > 2 else values[:, None]


def parts(
    name: str, layer: nn.Module, values: Tensor, measure: Measure
) -> Iterator[tuple[str, Tensor]]:
    """What of a layer's input is compared with statistics: names, and ``[B, P, C]`` for each.

    The input itself. For measures of every position, in layers without statistics of their own:
    what the layer makes of it before its scale and shift; and of sequences the first token once
    more by itself, the class token of a ViT.
    """
    if measure not in EVERY_POSITION or running_moments(layer) is not None:
        yield name, by_channel(layer, values)
        return
    tokens = by_channel(layer, _normalised(layer, values))
    yield name, tokens
    if _channels_last(layer) and values.ndim == 3 and values.shape[1] > 1:
        yield f"{name}[0]", tokens[:, :1]


def _channels_last(layer: nn.Module) -> bool:
    last = isinstance(layer, nn.LayerNorm | nn.RMSNorm) and len(layer.normalized_shape) == 1
    return last and not _over_images(layer)


def _over_images(layer: nn.Module) -> bool:
    """The LayerNorm of timm and torchvision that takes ``[B, C, H, W]``."""
    return type(layer).__name__ == "LayerNorm2d"


def _normalised(layer: nn.Module, values: Tensor) -> Tensor:
    """A layer's output before its scale and shift."""
    eps = eps_of(layer)
    if isinstance(layer, nn.GroupNorm):
        return F.group_norm(values, layer.num_groups, eps=eps)
    if isinstance(layer, nn.RMSNorm):
        return F.rms_norm(values, list(layer.normalized_shape), eps=eps)
    if isinstance(layer, nn.LayerNorm) and _over_images(layer):
        return F.layer_norm(values.movedim(1, -1), layer.normalized_shape, eps=eps).movedim(-1, 1)
    if isinstance(layer, nn.LayerNorm):
        return F.layer_norm(values, layer.normalized_shape, eps=eps)
    return F.instance_norm(values, eps=eps)


def summary(values: Tensor, measure: Measure) -> Summary:
    """What a measure needs of the positions of values ``[B, P, C]``."""
    if measure == "deviation":
        return _spread(values)
    if measure == "mean-and-largest":
        return Both(_spread(values), _extremes(values))
    return _extremes(values)


def columns(part: str, measure: Measure) -> tuple[str, ...]:
    """Names of the features that a measure gives of a part of a layer's input."""
    return (part, part + LARGEST) if measure == "mean-and-largest" else (part,)


def _spread(values: Tensor) -> Spread:
    variance, mean = torch.var_mean(values.float(), dim=1, correction=0)
    return Spread(mean, variance, values.shape[1])


def _extremes(values: Tensor) -> Extremes:
    low, high = values.aminmax(dim=1)
    return Extremes(low.float(), high.float())
