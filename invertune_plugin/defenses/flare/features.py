"""Abnormal features: how unusual the most unusual activation of a sample is, layer by layer.

FLARE (Hou et al. 2025, arXiv 2411.19479; steps 2 and 3 as released): the input of every
normalisation layer is compared with that layer's statistics, and each layer gives one number per
sample. In a channel the least likely activation is its smallest or its largest one, so a layer's
input is first reduced to these two; all layers are read in one forward pass over the set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from invertune_plugin.data import Items, Subset, batches, to_unit
from invertune_plugin.defenses.flare.feature_table import FeatureTable
from invertune_plugin.defenses.flare.norms import (
    Measure,
    Moments,
    MomentSums,
    Summary,
    eps_of,
    normalisation_layers,
    parts,
    running_moments,
    summary,
)
from invertune_plugin.errors import InputError
from invertune_plugin.files import refuse_existing
from invertune_plugin.hooks import head_inputs
from invertune_plugin.modes import frozen

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class FeatureConfig:
    """How to read a set.

    Attributes:
        measure: ``log-density``, as released: the least ``log N(x; mean, std)`` over channels and
            positions, which the channels of large variance decide; ``z-score``: minus the largest
            ``|x - mean| / std``, for which all channels count alike; ``deviation``: minus the
            log of the mean of ``((x - mean) / std)^2``, which a trigger over the whole image moves
            though no value of it is far off; or ``mean-and-largest``: this and minus the log of
            the largest, two features a layer, each of which counts as a layer later on. For these
            two, in layers that keep no statistics, x is what the layer makes of its input, and the
            first token of a sequence is measured once more by itself.
        statistics_images: layers that keep no statistics (LayerNorm, GroupNorm) get theirs from so
            many images of the set, drawn at random.
        batch_size: images at a time.
        spill: new ``.npy`` file that keeps the features on disk as float16, within its range; None
            keeps them in memory. What the last layer takes in, or the embeddings of a CLIP, go to
            ``STEM-last`` beside it, where they are read.
    """

    measure: Measure = "log-density"
    statistics_images: int = 4096
    batch_size: int = 128
    spill: Path | None = None

    def __post_init__(self) -> None:
        """Refuse sizes below one."""
        if self.batch_size < 1 or self.statistics_images < 1:
            raise InputError(
                "Expected batch_size and statistics_images of 1 or more, got "
                f"{self.batch_size} and {self.statistics_images}. Raise them."
            )

    def spilled(self) -> tuple[Path, ...]:
        """The files on disk: the features, and what the last layer takes in; none in memory."""
        spill = self.spill
        return () if spill is None else (spill, spill.with_stem(f"{spill.stem}-last"))


@dataclass(frozen=True)
class Features:
    """What a model says of a set.

    Attributes:
        values: ``[N, L]``, float32 (on disk float16); lower is more unusual.
        layers: names of the L features: those of the normalisation layers, in the order in which
            they are called; ``LAYER[0]`` is the first token by itself.
        predictions: class that the model reads, ``[N]``.
        passes: forward passes over single images.
        last: what the last linear layer takes in, ``[N, D]``, where it was asked for.
        embeddings: of a CLIP, in the place of ``last``: of its images, of unit length.
    """

    values: np.ndarray
    layers: tuple[str, ...]
    predictions: np.ndarray
    passes: int
    last: np.ndarray | None = None
    embeddings: np.ndarray | None = None


def abnormal_features(
    model: nn.Module,
    dataset: Items[Any],
    config: FeatureConfig | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    *,
    with_last: bool = False,
) -> Features:
    """Read every normalisation layer on every image, in exactly one forward pass over the set.

    Layers with running statistics (BatchNorm) are compared with these. Of the others, a summary
    of the first images is kept until mean and variance per channel are known (float64), and then
    turned into features; so ``statistics_images`` x 8 bytes x channels of all these layers are held
    for a while, twice as much with ``mean-and-largest``, and with the two measures that see the
    first token by itself that once more.

    Args:
        model: images ``[N, 3, H, W]`` in [0, 1] to logits ``[N, K]``; it comes back as it was.
        dataset: images of one size, with any text.
        config: settings.
        seed: of the draw of the images for the statistics.
        progress: called with (images done, images in all).
        with_last: also keep what the last linear layer takes in, if there is one, of a CLIP the
            image embeddings.

    Raises:
        InputError: the set is empty, the model has no normalisation layer, one that gets something
            else than a sample for each image, was never trained or gives no logits, or the file for
            the features is there already.
    """
    settings = config or FeatureConfig()
    layers = normalisation_layers(model)
    if not len(dataset):
        raise InputError("Expected images to purify, got an empty data set. Add images.")
    running = {name: running_moments(layer) for name, layer in layers.items()}
    moments = {name: found for name, found in running.items() if found is not None}
    sums: dict[str, MomentSums] = {}
    waits = len(moments) < len(layers)
    order = _order(len(dataset), settings.statistics_images if waits else 0, seed)
    for path in settings.spilled():
        refuse_existing(path)
    table = FeatureTable(len(dataset), settings.measure, settings.spilled())
    device = next(model.parameters()).device
    done = 0
    at_end = head_inputs(model, wanted=with_last)
    reading = _reading(model, layers, moments, sums, settings.measure)
    whole = _complete_or_absent(settings.spilled())
    with whole, torch.no_grad(), frozen(model), reading as seen, at_end as taken_in:
        for images, _ in _of_two_sizes(Subset(dataset, order), settings.batch_size):
            logits = model(to_unit(images).to(device))
            table.put(order[done : done + len(images)], _read(logits), seen, moments)
            seen.clear()
            if taken_in:
                table.put_last(order[done : done + len(images)], taken_in.pop())
            done += len(images)
            if sums and done >= min(settings.statistics_images, len(dataset)):
                moments |= {name: sums[name].moments() for name in table.waiting}
                sums.clear()
                table.settle(moments)
            if progress is not None:
                progress(done, len(dataset))
    at_head = {"embeddings" if hasattr(model, "encode_image") else "last": table.last}
    return Features(table.values, table.layers, table.predictions, done, **at_head)


@contextmanager
def _reading(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    moments: Mapping[str, Moments],
    sums: dict[str, MomentSums],
    measure: Measure,
) -> Iterator[dict[str, Summary]]:
    """Record a summary of each layer's input; clear the mapping after each forward pass.

    Values of layers whose moments are not known yet are added to the sums.

    Raises:
        InputError: what comes into a layer is not one sample for each image.
    """
    seen: dict[str, Summary] = {}
    images = 0

    def count(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        nonlocal images
        images = len(inputs[0])

    def reader(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def read(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            if len(inputs[0]) != images:
                raise InputError(
                    f"Expected the layer {name} to get one sample for each of {images} images, "
                    f"got {list(inputs[0].shape)}. Build the model with the batch as the first "
                    "axis (batch_first=True), or use a purifier that reads no layers."
                )
            for part, values in parts(name, layer, inputs[0].detach(), measure):
                if part not in moments:
                    sums.setdefault(part, MomentSums(eps_of(layer))).add(values)
                found = summary(values, measure)
                seen[part] = found.joined(seen[part]) if part in seen else found

        return read

    handles = [model.register_forward_pre_hook(count)]
    handles += [layer.register_forward_pre_hook(reader(name)) for name, layer in layers.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _complete_or_absent(paths: Sequence[Path]) -> Iterator[None]:
    """Remove half-written files where the reading ends early."""
    try:
        yield
    except BaseException:
        for path in paths:
            path.unlink(missing_ok=True)
        raise


def _of_two_sizes(dataset: Items[Any], size: int) -> Iterator[tuple[Tensor, list[Any]]]:
    """Batches, not all of one size: where a layer's first axis is another one, it shows in some."""
    first = len(dataset) - (len(dataset) % size == 0)
    for part in (range(first), range(first, len(dataset))):
        yield from batches(Subset(dataset, part), size)


def _order(count: int, first: int, seed: int) -> list[int]:
    """All indices; so many drawn at random come first, each part sorted."""
    if not 0 < first < count:
        return list(range(count))
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.zeros(count, dtype=torch.bool)
    drawn[torch.randperm(count, generator=generator)[:first]] = True
    return [*drawn.nonzero()[:, 0].tolist(), *(~drawn).nonzero()[:, 0].tolist()]


def _read(logits: object) -> Tensor:
    if isinstance(logits, Tensor) and logits.ndim == 2:
        return logits.argmax(1)
    came = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    raise InputError(
        f"Expected a classifier that gives logits [images, classes], got {came}. Wrap the model so "
        "that it returns logits only; a CLIP as a ZeroShotClassifier."
    )
