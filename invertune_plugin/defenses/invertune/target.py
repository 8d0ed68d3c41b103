"""Step 1: which class would a backdoor lead to?

Published (InverTune, step 1): a universal adversarial perturbation shifts the predictions of clean
images, and the class that gains most is the target. On small models every perturbation drains into
a natural sink class, backdoor or not. So the classes that gain most (in mean log-probability, which
also ranks those behind the sink) are only candidates here; each is then measured by the smallest
universal perturbation that reaches it, and a backdoor is claimed only where one class is much
cheaper than the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from invertune_plugin.data import to_unit
from invertune_plugin.errors import InputError, refuse_below_one, refuse_negative
from invertune_plugin.outcome import Outcome, Stage
from invertune_plugin.processes import ALONE, Processes


@dataclass(frozen=True)
class TargetConfig:
    """How to search for the target label.

    Attributes:
        variant: ``measured`` (candidates compared by the cost of reaching them) or ``published``
            (the class that gains most is the target).
        candidates: classes that are measured, those whose log-probability gains most.
        most_share: a class that more than this share of the images are read as anyway costs next to
            nothing, for the others, too, as these lie beside it; it cannot be judged and is left
            out, which the decision says.
        epsilon: bound of the shifting perturbation (l-infinity, in [0, 1]).
        shift_steps: Adam updates of it.
        cost_steps: Adam updates per measured class.
        rms_weight: weight of the perturbation's root mean square against cross-entropy.
        batch_size: images per update.
        ratio: the cheapest class is called the target where its cost is at most this share of the
            next one's, and doubtful up to ``doubtful_ratio``.
        doubtful_ratio: see ``ratio``.
    """

    variant: Literal["measured", "published"] = "measured"
    candidates: int = 4
    most_share: float = 0.5
    epsilon: float = 8 / 255
    shift_steps: int = 60
    cost_steps: int = 120
    rms_weight: float = 30.0
    batch_size: int = 32
    ratio: float = 0.6
    doubtful_ratio: float = 0.88

    def __post_init__(self) -> None:
        """Refuse to rank fewer than two classes."""
        if self.candidates < 2:
            raise InputError(f"Expected 2 or more candidates to compare, got {self.candidates}.")
        refuse_below_one("batch_size", self.batch_size)
        refuse_below_one("shift_steps", self.shift_steps)
        refuse_below_one("cost_steps", self.cost_steps)
        refuse_negative("epsilon", self.epsilon)


@dataclass(frozen=True)
class Candidate:
    """Evidence about one class.

    Attributes:
        label: class index.
        name: class name.
        shift: gain in predictions under the universal perturbation, P_adv - P_clean.
        cost: root mean square, in [0, 1], of the smallest universal perturbation found toward it.
        reached: share of images that this perturbation sends to the class.
    """

    label: int
    name: str
    shift: float
    cost: float = float("nan")
    reached: float = float("nan")


@dataclass(frozen=True)
class TargetResult:
    """What step 1 found.

    Attributes:
        candidates: most suspicious first.
        stage: the decision.
        ranking: class indices by what they gain under the universal perturbation; without one that
            cannot be judged (``most_share``).
    """

    candidates: list[Candidate]
    stage: Stage
    ranking: list[int]


def find_target(
    suspect: Any,
    images: Tensor,
    config: TargetConfig,
    seed: int = 0,
    processes: Processes = ALONE,
) -> TargetResult:
    """Rank the classes by how much they look like the target of a backdoor.

    Args:
        suspect: images in [0, 1] to logits; ``class_names`` names them. Frozen, in eval mode.
        images: clean images, ``uint8 [N, 3, H, W]``; labels are not needed.
        config: the search.
        seed: of starts and batches.
        processes: that search together.
    """
    shift, gain, clean = prediction_shift(suspect, images, config, seed, processes)
    if not gain.isfinite().all():
        reason = "The model gives values that are not finite for clean or perturbed images."
        return TargetResult([], Stage("target", Outcome.FAILED, reason, {}), [])
    by_shift = config.variant == "published"
    order = (shift if by_shift else gain).argsort(descending=True).tolist()
    if by_shift:
        found = [Candidate(y, suspect.class_names[y], float(shift[y])) for y in order]
        return TargetResult(found, _published_stage(found), order)
    found = []
    shares = clean.bincount(minlength=len(order)).cpu() / len(images)
    unjudged = [label for label in order if float(shares[label]) > config.most_share]
    order = [label for label in order if label not in unjudged]
    for label in order[: config.candidates]:
        delta = targeted_perturbation(suspect, images, label, config, seed, processes)
        moved = _log_probabilities(suspect, images[:512], delta, processes).argmax(1)
        reached = float((moved == label).float().mean())
        cost = float(delta.square().mean().sqrt())
        name = suspect.class_names[label]
        found.append(Candidate(label, name, float(shift[label]), cost, reached))
    found.sort(key=lambda candidate: candidate.cost)
    stage = _measured_stage(found, config)
    if unjudged and stage.outcome is not Outcome.OK:
        name, share = suspect.class_names[unjudged[0]], float(shares[unjudged[0]])
        told = f"{name!r}, which {share:.0%} of the images are read as, cannot be judged by them."
        stage = replace(stage, reason=f"{stage.reason} {told}")
    return TargetResult(found, stage, order)


def prediction_shift(
    suspect: Any, images: Tensor, config: TargetConfig, seed: int, processes: Processes = ALONE
) -> tuple[Tensor, Tensor, Tensor]:
    """What one untargeted universal perturbation does to the predictions.

    Returns:
        P_adv - P_clean per class, ``[K]``, the gain in mean log-probability, ``[K]``, and what the
        images were read as before, ``[N]``.
    """
    generator = torch.Generator().manual_seed(seed)
    start = torch.rand((1, *images.shape[1:]), generator=generator) * 2 - 1
    delta = (start * config.epsilon).to(images.device).requires_grad_()
    before = _log_probabilities(suspect, images, torch.zeros_like(delta), processes)
    clean = before.argmax(1)
    optimizer = torch.optim.Adam([delta], lr=config.epsilon / 5)
    for _ in range(config.shift_steps):
        batch = torch.randint(len(images), (2 * config.batch_size,), generator=generator)
        moved = (to_unit(images[batch]) + delta).clamp(0, 1)
        loss = -F.cross_entropy(processes.spread(suspect, moved), clean[batch])
        optimizer.zero_grad()
        loss.backward()
        processes.average([delta])
        optimizer.step()
        delta.data.clamp_(-config.epsilon, config.epsilon)
    after = _log_probabilities(suspect, images, delta.detach(), processes)
    count = len(suspect.class_names)
    gained = after.argmax(1).bincount(minlength=count) - clean.bincount(minlength=count)
    return gained.cpu().float() / len(images), (after - before).mean(0).cpu(), clean


def targeted_perturbation(
    suspect: Any,
    images: Tensor,
    label: int,
    config: TargetConfig,
    seed: int,
    processes: Processes = ALONE,
) -> Tensor:
    """The smallest universal perturbation ``[1, 3, H, W]`` found that sends images to a class."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn((1, *images.shape[1:]), generator=generator) * 0.01
    delta = start.to(images.device).requires_grad_()
    goal = torch.full((config.batch_size,), label, device=images.device)
    optimizer = torch.optim.Adam([delta], lr=0.03)
    for _ in range(config.cost_steps):
        batch = torch.randint(len(images), (config.batch_size,), generator=generator)
        moved = (to_unit(images[batch]) + delta).clamp(0, 1)
        rms = (delta.square().mean() + 1e-8).sqrt()
        reached = F.cross_entropy(processes.spread(suspect, moved), goal)
        loss = reached + config.rms_weight * rms
        optimizer.zero_grad()
        loss.backward()
        processes.average([delta])
        optimizer.step()
    return delta.detach()


@torch.no_grad()
def _log_probabilities(suspect: Any, images: Tensor, delta: Tensor, processes: Processes) -> Tensor:
    moved = ((to_unit(part) + delta).clamp(0, 1) for part in images.split(128))
    return torch.cat([processes.spread(suspect, part).log_softmax(1) for part in moved])


def _published_stage(found: list[Candidate]) -> Stage:
    best = found[0]
    reason = f"{best.name!r} gains most under a universal perturbation ({best.shift:+.1%})."
    return Stage("target", Outcome.OK, reason, {"shift": best.shift})


def stands_out(candidates: Sequence[Candidate], config: TargetConfig) -> bool:
    """Whether the first of candidates, cheapest first, is much cheaper than the second."""
    return len(candidates) > 1 and candidates[0].cost <= config.ratio * candidates[1].cost


def _measured_stage(found: list[Candidate], config: TargetConfig) -> Stage:
    if len(found) < 2:
        reason = "Fewer than two classes are left, so that no costs can be compared."
        return Stage("target", Outcome.REJECTED, reason, {})
    best, rest = found[0], found[1:]
    ratio = best.cost / rest[0].cost
    evidence = {"ratio": ratio, "cost": best.cost, "next_cost": rest[0].cost}
    told = (
        f"{best.name!r} costs {ratio:.2f} of what the next class, {rest[0].name!r}, costs to reach "
        "from everywhere"
    )
    if stands_out(found, config):
        reason = f"{told}: a shortcut, as a backdoor leaves it."
        return Stage("target", Outcome.OK, reason, evidence)
    if ratio <= config.doubtful_ratio:
        return Stage("target", Outcome.UNCERTAIN, f"{told}: not clearly a shortcut.", evidence)
    return Stage("target", Outcome.REJECTED, f"{told}: no class stands out.", evidence)
