"""Eval mode, frozen weights, a fast layout and the number of threads for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Eval mode and no gradients for the weights inside."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with evaluating(model):
            yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def channels_last(model: nn.Module) -> Iterator[None]:
    """Filters in the layout in which convolutions are a fifth faster on a CPU, inside.

    Elsewhere they are contiguous, because much code takes them for that (``weight.view(-1)``).
    """
    model.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        model.to(memory_format=torch.contiguous_format)


@contextmanager
def same_threads() -> Iterator[None]:
    """As many threads of torch after it as before: numba, which UMAP runs on, sets them to all.

    With more threads than were asked for, what runs after it may take ten times as long where
    processes share the cores.
    """
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
