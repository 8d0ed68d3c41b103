"""A tracker by its spec: ``tensorboard:FOLDER``, ``mlflow:PLACE`` or ``wandb:PROJECT``."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from invertune_plugin.adapters.tracking.guarded import Guarded
from invertune_plugin.adapters.tracking.mlflow import MlflowTracker
from invertune_plugin.adapters.tracking.tensorboard import TensorBoardTracker
from invertune_plugin.adapters.tracking.tracker import Config, Tracker, Untracked
from invertune_plugin.adapters.tracking.wandb import WandbTracker
from invertune_plugin.config import nearest
from invertune_plugin.errors import InputError

KINDS: Mapping[str, Callable[[str, str, Config], Tracker]] = MappingProxyType(
    {"tensorboard": TensorBoardTracker, "mlflow": MlflowTracker, "wandb": WandbTracker}
)


@contextmanager
def opened(
    spec: str | None, name: str, config: Config, tell: Callable[[str], None] = warnings.warn
) -> Iterator[Tracker]:
    """Track what happens inside as one run; it is marked as failed where an error leaves it.

    A tracker that fails once the run has begun does not stop it: see ``Guarded``.

    Args:
        spec: kind and place; None tracks nothing.
        name: of the run.
        config: settings of the run; what JSON does not know is written as text.
        tell: takes the sentence about a tracker that failed.

    Raises:
        InputError: the spec names no tracker, or its package is not installed.
    """
    if spec is None:
        yield Untracked()
        return
    kind, _, place = spec.partition(":")
    if kind not in KINDS or not place:
        raise InputError(
            "Expected a tracker such as tensorboard:FOLDER, mlflow:FOLDER or wandb:PROJECT, got "
            f"{spec!r}. {nearest(kind, list(KINDS))}"
        )
    made = KINDS[kind](place, name, json.loads(json.dumps(config, default=str)))
    tracker = Guarded(made, tell)
    succeeded = False
    try:
        yield tracker
        succeeded = True
    finally:
        tracker.finish(succeeded)
