"""Step 3a: which stages and units the trigger drives (InverTune, step 3).

Published: stages whose relative change exceeds mean + standard deviation, and in them the units of
the larger cluster of a 2-means on the change. Measured on small towers, that cluster holds so
little of the change that the trigger passes through the rest; so the default takes stages above
the mean, aligns all of their output and tunes the channels that carry nearly all of the change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from sklearn.cluster import KMeans
from torch import Tensor, nn

from invertune_plugin.hooks import activations, tower_stages, writers
from invertune_plugin.triggers import Trigger

Rule = Literal["measured", "published"]
ENERGY = 0.97


@dataclass(frozen=True)
class CriticalUnits:
    """What the trigger drives.

    Attributes:
        scores: relative activation change per stage, ``|mean a(x) - mean a(x~)| / |mean a(x)|``.
        aligned: per critical stage, the units of its output to align: bool ``[H, W, C]`` or
            ``[L, C]``.
        channels: per writer of a critical stage (``stage/writer``), the channels that may be tuned:
            bool ``[C]``.
    """

    scores: dict[str, float]
    aligned: dict[str, Tensor]
    channels: dict[str, Tensor]

    def joined(self, other: CriticalUnits) -> CriticalUnits:
        """The units of two rounds together; scores are those of the first."""
        return CriticalUnits(
            self.scores,
            _union(self.aligned, other.aligned),
            _union(self.channels, other.channels),
        )

    def tuned(self) -> dict[str, tuple[int, int]]:
        """Tuned and all channels per critical stage."""
        return {
            stage: (
                sum(
                    int(c.sum())
                    for name, c in self.channels.items()
                    if name.startswith(f"{stage}/")
                ),
                sum(c.numel() for name, c in self.channels.items() if name.startswith(f"{stage}/")),
            )
            for stage in self.aligned
        }


@torch.no_grad()
def critical_units(suspect: Any, images: Tensor, trigger: Trigger, rule: Rule) -> CriticalUnits:
    """Find the stages and units that an inverted trigger drives, among those that images reach.

    Args:
        suspect: a classifier with an image tower ``visual``; in eval mode.
        images: clean images ``[N, 3, H, W]`` in [0, 1].
        trigger: the inverted trigger.
        rule: ``measured`` or ``published``, as described for this module.
    """
    stages = tower_stages(suspect.visual)
    clean, driven = _means(suspect, stages, images, trigger)
    scores = {
        name: float((driven[name] - clean[name]).norm() / clean[name].norm().clamp_min(1e-12))
        for name in clean
    }
    critical = critical_stages(scores, rule)
    change = {name: (driven[name] - clean[name]).abs() for name in critical}
    aligned = {
        name: larger_cluster(c) if rule == "published" else torch.ones_like(c, dtype=torch.bool)
        for name, c in change.items()
    }
    parts = {
        f"{name}/{inner}": module
        for name in critical
        for inner, module in writers(stages[name]).items()
    }
    clean, driven = _means(suspect, parts, images, trigger)
    choose = larger_cluster if rule == "published" else most_energy
    channels = {
        name: choose((driven[name] - before).abs()).flatten(0, -2).any(0)
        for name, before in clean.items()
    }
    return CriticalUnits(scores, aligned, channels)


def critical_stages(scores: dict[str, float], rule: Rule) -> list[str]:
    """Stages whose score reaches mean (+ standard deviation, as published); one at least."""
    values = torch.tensor(list(scores.values()), dtype=torch.float64)
    spread = float(values.std(correction=0)) if rule == "published" else 0.0
    threshold = min(float(values.mean()) + spread, float(values.max()))
    return [name for name, score in scores.items() if score >= threshold]


def larger_cluster(change: Tensor) -> Tensor:
    """The units in the cluster of larger change, by 2-means; bool, same shape."""
    values = change.flatten()[:, None].cpu().numpy()
    clusters = KMeans(2, n_init=4, random_state=0).fit(values)
    larger = int(clusters.cluster_centers_.argmax())
    return torch.from_numpy(clusters.labels_ == larger).view(change.shape)


def most_energy(change: Tensor) -> Tensor:
    """The fewest units that carry 97 % of the squared change; bool, same shape."""
    energy = change.flatten().square()
    order = energy.argsort(descending=True)
    carried = energy[order].cumsum(0) / energy.sum().clamp_min(1e-12)
    chosen = torch.zeros_like(energy, dtype=torch.bool)
    chosen[order[: int((carried < ENERGY).sum()) + 1]] = True
    return chosen.view(change.shape) & (change > 0)


def _union(first: dict[str, Tensor], second: dict[str, Tensor]) -> dict[str, Tensor]:
    """Masks that hold the units of either, by name."""
    shared = {name: first[name] | second[name] for name in first.keys() & second.keys()}
    return {**first, **second, **shared}


def _means(
    suspect: Any, modules: dict[str, nn.Module], images: Tensor, trigger: Trigger
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Mean outputs over clean and over triggered images."""
    found: list[dict[str, Tensor]] = []
    for batch in (images, trigger(images)):
        with activations(modules, lambda output: output.mean(0)) as seen:
            suspect.encode_image(batch)
            found.append(seen)
    return found[0], found[1]
