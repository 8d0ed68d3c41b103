"""The contract of every defence, in the shape of BackdoorBox's ``Base``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from invertune_plugin.metrics import Rate
from invertune_plugin.randomness import seeded

Schedule = Mapping[str, Any]


class Defense(ABC):
    """A defence that repairs a model.

    The constructor only stores its arguments. What is learned ends in ``_``.

    Args:
        seed: of everything random in the defence.
        deterministic: ask torch for deterministic algorithms while the defence runs.
        schedule: settings for ``repair`` and ``test`` that are called without one.
    """

    def __init__(
        self, *, seed: int = 0, deterministic: bool = False, schedule: Schedule | None = None
    ) -> None:
        self.seed = seed
        self.deterministic = deterministic
        self.schedule = schedule

    @abstractmethod
    def repair(self, schedule: Schedule | None = None) -> Any:
        """Repair the model and return what was found."""

    @abstractmethod
    def test(self, schedule: Schedule | None = None) -> dict[str, Rate]:
        """Measure the model as it stands."""

    @abstractmethod
    def get_model(self) -> Any:
        """The repaired model, or the given one while nothing has been repaired."""

    @contextmanager
    def seeded(self) -> Iterator[None]:
        """Seed Python, numpy and torch inside; the caller's random state comes back unchanged."""
        with seeded(self.seed, self.deterministic):
            yield
