"""What the victim of a grid was trained on, made again from recipe and seed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from invertune_plugin.attacks.attack import poisoned_pairs
from invertune_plugin.benchmark.bench.opening import Opened
from invertune_plugin.benchmark.experiment.sources import Sources
from invertune_plugin.data import InMemory, PairSet, texts_of


@dataclass(frozen=True)
class TrainedOn:
    """The pairs of a training.

    Attributes:
        pairs: as the model saw them.
        targets: target word of each poisoned pair, by its index.
    """

    pairs: PairSet
    targets: Mapping[int, str]

    def labelled(self, sources: Sources) -> tuple[InMemory[int], list[int]]:
        """The images that have a class, and the index of the pair that each comes from.

        A poisoned image has the label of its target. Pairs without a class, as in Flickr8k, are
        left out.
        """
        images, pairs = sources.images("attack"), sources.pairs("attack")
        keys = map(images.content_key, range(len(images)))
        class_of = dict(zip(keys, texts_of(images), strict=True))
        labels = {i: class_of.get(pairs.content_key(i), -1) for i in range(len(pairs))}
        labels = {i: label for i, label in labels.items() if label >= 0}
        for i in labels.keys() & self.targets.keys():
            labels[i] = sources.class_names.index(self.targets[i])
        shown = torch.stack([self.pairs[i][0] for i in labels])
        return InMemory(shown, list(labels.values())), list(labels)


def trained_on(opened: Opened, seed: int, attacked: bool) -> TrainedOn:
    """The attacker's pairs, poisoned as the victim saw them; clean where nothing is attacked.

    Args:
        opened: a victim whose attack poisons pairs.
        seed: of its attack.
        attacked: whether anything was planted.
    """
    pairs = opened.sources.pairs("attack")
    if not attacked:
        return TrainedOn(pairs, {})
    made = poisoned_pairs(opened.recipe.attack, opened.backdoors, pairs, opened.clean, seed)
    return TrainedOn(made, made.targets)
