"""Which items of a data set are poisoned: a seeded choice, disjoint between backdoors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from invertune_plugin.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class Candidates(Generic[T]):
    """The items that one backdoor may poison.

    Attributes:
        fits: whether an item may be poisoned, from its label or captions.
        wanted: what these items are, for messages: "pairs whose captions name 'cat'".
    """

    fits: Callable[[T], bool]
    wanted: str


def choose(
    texts: Sequence[T],
    candidates: Sequence[Candidates[T]],
    rate: float,
    seed: int,
    what: str,
    of_fitting: bool = False,
) -> dict[int, int]:
    """Choose the items to poison, in equal shares for the backdoors.

    Args:
        texts: label or captions per item.
        candidates: what each backdoor may poison; an item that several may goes to the one that
            still lacks most.
        rate: poisoned share, in (0, 1), or (0, 1] with ``of_fitting``.
        seed: of the order in which items are tried.
        what: what the items are, for messages.
        of_fitting: the rate is a share of the items that fit a backdoor, not of all.

    Returns:
        Number of the backdoor per chosen index, sorted by index.

    Raises:
        InputError: there are no backdoors, the rate is no share or leaves a backdoor without an
            item, or too few items fit.
    """
    if not candidates:
        raise InputError("Expected one backdoor or more, got none. Name a trigger and a target.")
    if not (0 < rate < 1 or (of_fitting and rate == 1)):
        most = " (1 for all)" if of_fitting else ""
        raise InputError(f"Expected a poisoned rate between 0 and 1{most}, got {rate}.")
    whole = sum(_fits(text, candidates) for text in texts) if of_fitting else len(texts)
    count = round(rate * whole)
    if of_fitting and whole == 0:
        raise InputError(
            f"Expected {' or '.join(each.wanted for each in candidates)}, got none of "
            f"{len(texts)}. Choose another target."
        )
    if count < len(candidates):
        least = "one" if len(candidates) == 1 else str(len(candidates))
        raise InputError(
            f"Expected a rate that poisons at least {least} of {whole} {what}, got {rate}, "
            f"which poisons {count or 'none'}. "
            f"Use {len(candidates) / max(whole, 1):.2g} or more."
        )
    share, rest = divmod(count, len(candidates))
    wanted = [share + (n < rest) for n in range(len(candidates))]
    missing = list(wanted)
    chosen: dict[int, int] = {}
    generator = torch.Generator().manual_seed(seed)
    for index in torch.randperm(len(texts), generator=generator).tolist():
        if not any(missing):
            break
        text = texts[index]
        open_for = [n for n in range(len(candidates)) if missing[n] and candidates[n].fits(text)]
        if open_for:
            chosen[index] = max(open_for, key=missing.__getitem__)
            missing[chosen[index]] -= 1
    for group, total, short in zip(candidates, wanted, missing, strict=True):
        if short:
            raise InputError(
                f"Expected {total} {group.wanted}, got {total - short}. "
                "Lower the rate or choose another target."
            )
    return dict(sorted(chosen.items()))


def _fits(text: T, candidates: Sequence[Candidates[T]]) -> bool:
    return any(each.fits(text) for each in candidates)
