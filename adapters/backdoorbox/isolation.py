"""A place where the toolbox can do as it likes with what the whole process shares."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import torch

from invertune_plugin.randomness import seeded

_VARIABLES = ("PYTHONHASHSEED", "CUBLAS_WORKSPACE_CONFIG", "CUDA_VISIBLE_DEVICES")


@contextmanager
def isolated(seed: int, output: Path | None = None) -> Iterator[None]:
    """Seed Python, numpy and torch inside; what the toolbox sets globally is as it was afterwards.

    Args:
        seed: of all global generators.
        output: file that gets what is printed inside, behind what it holds; None prints as ever.
    """
    kernels = torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic
    variables = {name: os.environ.get(name) for name in _VARIABLES}
    with ExitStack() as stack:
        if output is not None:
            file = stack.enter_context(output.open("a", encoding="utf-8"))
            stack.enter_context(redirect_stdout(file))
            stack.enter_context(redirect_stderr(file))
        stack.enter_context(seeded(seed))
        try:
            yield
        finally:
            torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = kernels
            for name, value in variables.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value
