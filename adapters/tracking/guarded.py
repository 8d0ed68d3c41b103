"""A tracker that cannot stop the run that it tracks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from invertune_plugin.adapters.tracking.tracker import Tracker


class Guarded:
    """A tracker whose first error is told; the run then goes on untracked, and is marked as failed.

    Args:
        tracker: that does the work.
        tell: takes a sentence for people.
    """

    def __init__(self, tracker: Tracker, tell: Callable[[str], None]) -> None:
        self._tracker = tracker
        self._tell = tell
        self._works = True

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log numbers at a step."""
        if self._works:
            self._try(lambda: self._tracker.scalars(values, step))

    def image(self, name: str, image: Tensor) -> None:
        """Log an image ``[3, H, W]`` in [0, 1]."""
        if self._works:
            self._try(lambda: self._tracker.image(name, image))

    def finish(self, succeeded: bool) -> None:
        """End the run, as failed where not all of it was logged."""
        self._try(lambda: self._tracker.finish(succeeded and self._works))

    def _try(self, log: Callable[[], None]) -> None:
        try:
            log()
        except Exception as error:
            if self._works:
                self._tell(
                    f"Expected {type(self._tracker).__name__} to log this run, got "
                    f"{type(error).__name__}: {error}. The run goes on untracked; look after the "
                    "tracker."
                )
            self._works = False
