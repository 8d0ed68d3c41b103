"""Work in encoder passes: forward = 1, forward + backward = 3, per image.

``count_passes`` also remembers how the work was cut into batches, so that the same passes can be
replayed bare and the overhead of a method be told from the cost of its model.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Call:
    """A kind of encoder call.

    Attributes:
        size: images in the batch.
        backward: whether gradients went back through the encoder.
        trained: names of the weights that received gradients; empty where only the input did.
    """

    size: int
    backward: bool = False
    trained: frozenset[str] = frozenset()


@dataclass
class Work:
    """Encoder calls seen so far, by kind."""

    calls: Counter[Call] = field(default_factory=Counter)

    @property
    def passes(self) -> int:
        """Passes over single images: forward = 1, forward + backward = 3."""
        return sum(n * call.size * (3 if call.backward else 1) for call, n in self.calls.items())


@contextmanager
def count_passes(encoder: nn.Module) -> Iterator[Work]:
    """Count the calls of an encoder, by hooks, while the context lasts; copies of it count too.

    Args:
        encoder: the image tower; its first positional input has the batch first.
    """
    work = Work()
    counter = _Counter(work)
    handle = encoder.register_forward_hook(counter)
    try:
        yield work
    finally:
        handle.remove()
        counter.work = None


def without_counters(encoder: nn.Module) -> None:
    """Take the hooks of counts that have ended off a copy of an encoder."""
    for key, hook in list(encoder._forward_hooks.items()):
        if isinstance(hook, _Counter):
            del encoder._forward_hooks[key]


class _Counter:
    """The hook; copies of the encoder share it, so that it also ends in them."""

    def __init__(self, work: Work | None) -> None:
        self.work = work

    def __deepcopy__(self, memo: dict[int, Any]) -> _Counter:
        return self

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: object) -> None:
        work = self.work
        if work is None:
            return
        forward = Call(len(inputs[0]))
        work.calls[forward] += 1
        if isinstance(output, Tensor) and output.requires_grad:
            names = (name for name, p in module.named_parameters() if p.requires_grad)
            call = Call(forward.size, True, frozenset(names))

            def after_backward(_: Tensor) -> None:
                work.calls[forward] -= 1
                work.calls[call] += 1

            output.register_hook(after_backward)


def bare_seconds(encoder: nn.Module, work: Work, image_size: int, repeats: int = 20) -> float:
    """Seconds that the counted encoder calls take with nothing around them.

    Each kind of call is timed ``repeats`` times after one warm-up and its mean multiplied by its
    count. A copy of the encoder is used, in the layout of a repair.

    Args:
        encoder: the image tower.
        work: what ``count_passes`` saw.
        image_size: side of the input in pixels.
        repeats: timed calls per kind.
    """
    encoder = copy.deepcopy(encoder).eval()
    encoder.to(memory_format=torch.channels_last)
    device = next(encoder.parameters()).device
    total = 0.0
    for call, count in work.calls.items():
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_(name in call.trained)
        images = torch.rand(call.size, 3, image_size, image_size, device=device)
        images.requires_grad_(call.backward and not call.trained)
        elapsed = 0.0
        for turn in range((repeats if count else 0) + 1):
            start = time.perf_counter()
            with torch.set_grad_enabled(call.backward):
                output = encoder(images)
            if call.backward:
                output.sum().backward()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            elapsed += time.perf_counter() - start if turn else 0.0
        total += count * elapsed / repeats
    return total
