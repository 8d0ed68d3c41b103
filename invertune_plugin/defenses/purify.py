"""One contract for all purifiers of a training set: a model and its data in, what to remove out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from invertune_plugin.data import Items, texts_of
from invertune_plugin.errors import InputError
from invertune_plugin.metrics import Rate
from invertune_plugin.outcome import Outcome, Stage
from invertune_plugin.passes import count_passes
from invertune_plugin.randomness import seeded

Need = Literal["labels", "captions"]
Report = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Purified:
    """What a purifier found in a set of N items.

    Attributes:
        scores: ``[N]`` float64; higher is more suspicious.
        poisoned: indices of the items to remove, sorted.
        stages: one or more, in order.
    """

    scores: np.ndarray
    poisoned: tuple[int, ...]
    stages: tuple[Stage, ...]

    @property
    def outcome(self) -> Outcome:
        """``ok``: poisoned items were found; ``rejected``: none were; ``failed``: see the stage."""
        return self.stages[-1].outcome

    @property
    def kept(self) -> list[int]:
        """Indices of the items that stay, sorted."""
        removed = set(self.poisoned)
        return [index for index in range(len(self.scores)) if index not in removed]

    def rates(self, poisoned: Sequence[int]) -> dict[str, Rate]:
        """``tpr`` and ``fpr``: shares of the poisoned and of the clean items that were found.

        Args:
            poisoned: indices of the items that are poisoned in truth.
        """
        truth, found = set(poisoned), set(self.poisoned)
        hits = len(found & truth)
        clean = len(self.scores) - len(truth)
        return {"tpr": Rate(hits, len(truth)), "fpr": Rate(len(found) - hits, clean)}

    def auroc(self, poisoned: Sequence[int]) -> float | None:
        """Area under the ROC curve of the scores; None where all items or none are poisoned."""
        truth = np.isin(np.arange(len(self.scores)), list(poisoned))
        if truth.all() or not truth.any():
            return None
        return float(roc_auc_score(truth, self.scores))


@dataclass(frozen=True, eq=False)
class Found:
    """What one search found.

    Attributes:
        scores: ``[N]``; higher is more suspicious.
        poisoned: indices to remove.
        reason: what was found, in a sentence.
        evidence: numbers about it; JSON values only.
        outcome: where omitted ``ok`` with poisoned items and ``rejected`` without.
    """

    scores: np.ndarray
    poisoned: Sequence[int]
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)
    outcome: Outcome | None = None


def timed_search(
    name: str, model: nn.Module, seed: int, report: Report | None, search: Callable[[Report], Found]
) -> Purified:
    """Search in one stage that is timed and whose forward passes are counted.

    The global random state comes back unchanged.

    Args:
        name: of the stage.
        model: whose image tower (or which itself) is counted.
        seed: of the global random state inside.
        report: called with a sentence when the stage begins, goes on or ends.
        search: what to do.

    Raises:
        InputError: the model's weights are of another precision than single.
    """
    weight = next(model.parameters(), None)
    if weight is not None and weight.dtype is not torch.float32:
        raise InputError(
            f"Expected a model in float32, as the images are, got one in {weight.dtype}. Call its "
            "float() first."
        )
    say = report or (lambda _: None)
    say(f"{name} ...")
    start = time.perf_counter()
    with seeded(seed), count_passes(encoder_of(model)) as work:
        found = search(say)
    outcome = found.outcome or (Outcome.OK if len(found.poisoned) else Outcome.REJECTED)
    seconds = time.perf_counter() - start
    stage = Stage(name, outcome, found.reason, found.evidence, seconds, work.passes)
    say(f"{name}: {outcome.value}. {stage.reason}")
    scores = np.asarray(found.scores, dtype=np.float64)
    return Purified(scores, tuple(sorted(int(i) for i in found.poisoned)), (stage,))


def encoder_of(model: nn.Module) -> nn.Module:
    """The image tower of a CLIP; any other network itself."""
    tower = getattr(model, "visual", None)
    return tower if isinstance(tower, nn.Module) else model


def told_progress(name: str, say: Report, times: int = 4) -> Callable[[int, int], None]:
    """A report of (items done, items in all) that says a sentence at every quarter."""
    told = 0

    def progress(done: int, total: int) -> None:
        nonlocal told
        if done * times // total > told:
            told = done * times // total
            say(f"{name}: {done} of {total} images read")

    return progress


def refuse_failed(found: Purified) -> Purified:
    """What a search found, where it worked.

    Raises:
        InputError: the search failed: what was not looked at is not clean.
    """
    if found.outcome is Outcome.FAILED:
        raise InputError(
            f"Expected a search that works on this model and set, got: {found.stages[-1].reason} "
            "detect() gives its evidence."
        )
    return found


def refuse_non_finite(name: str, values: np.ndarray) -> None:
    """Refuse what a model makes of a set, ``[N, D]``, where it is no number.

    Raises:
        InputError: a value is infinite or no number.
    """
    odd = np.flatnonzero(~np.isfinite(values).all(1))
    if len(odd):
        raise InputError(
            f"Expected finite activations for {name}, got others for {len(odd)} of {len(values)} "
            f"images, first for number {odd[0]}. Look at these images and at the model's weights."
        )


def check_items(name: str, dataset: Items[Any], needs: Sequence[Need]) -> None:
    """Refuse a set that a purifier cannot work with, before it begins.

    Raises:
        InputError: there are no items, or labels or captions are missing.
    """
    if not len(dataset):
        raise InputError(f"Expected images for {name}, got an empty data set. Add images.")
    texts: Sequence[Any] = texts_of(dataset) if needs else ()
    for need, right, told in (
        ("labels", _is_label, "Label all images, or leave the others out with with_labels."),
        ("captions", _is_captions, "Use a purifier that needs images alone."),
    ):
        if need not in needs:
            continue
        for index, text in enumerate(texts):
            if not right(text):
                raise InputError(
                    f"Expected {need} for {name}, got {text!r:.60} at item {index}. {told}"
                )


def _is_label(text: object) -> bool:
    return isinstance(text, int) and text >= 0


def _is_captions(text: object) -> bool:
    return isinstance(text, tuple) and len(text) > 0
