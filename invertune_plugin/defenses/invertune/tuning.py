"""Step 3b: tune only what the trigger drives, until it no longer matters (InverTune, step 3)."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from invertune_plugin.data import to_unit
from invertune_plugin.defenses.invertune.inversion import InversionResult, success
from invertune_plugin.defenses.invertune.units import CriticalUnits, Rule, critical_units
from invertune_plugin.errors import InputError, refuse_below_one, refuse_negative
from invertune_plugin.hooks import activations, tower_stages, writers, written_parameters
from invertune_plugin.metrics import top_class
from invertune_plugin.outcome import Outcome, Stage, diverged
from invertune_plugin.processes import ALONE, Processes
from invertune_plugin.triggers import Trigger


@dataclass(frozen=True)
class TuningConfig:
    """How to repair.

    Attributes:
        units: ``measured`` or ``published`` choice of stages and units.
        rounds: times that a trigger is inverted and tuned away; the paper has 1. See ``rounds``.
        steps: AdamW updates per round.
        learning_rate: at the start; falls to zero along a cosine.
        batch_size: clean images per update.
        preserve_weight: the paper's beta: keeps the similarities of clean images to all texts.
        most_asr: an inverted trigger that still succeeds more often has not been removed.
        least_agreement: share of clean images that must be read as before, each weighted by the
            suspect's confidence: weak models change unsure readings without losing accuracy.
    """

    units: Rule = "measured"
    rounds: int = 2
    steps: int = 100
    learning_rate: float = 1e-3
    batch_size: int = 64
    preserve_weight: float = 1.0
    most_asr: float = 0.1
    least_agreement: float = 0.6

    def __post_init__(self) -> None:
        """Refuse to repair in no round, or in no step."""
        if self.rounds < 1 or self.steps < 1:
            raise InputError(
                f"Expected one or more rounds of tuning, and steps, got {self.rounds} and "
                f"{self.steps}."
            )
        refuse_below_one("batch_size", self.batch_size)
        refuse_negative("learning_rate", self.learning_rate)


@dataclass(frozen=True)
class TuningResult:
    """The repaired model and what was tuned.

    Attributes:
        classifier: a repaired copy; the suspect is unchanged.
        units: critical stages and units.
        losses: loss after each update.
        stage: outcome and evidence.
        again: triggers inverted on the repaired model, one per further round.
    """

    classifier: Any
    units: CriticalUnits
    losses: list[float]
    stage: Stage
    again: list[InversionResult] = field(default_factory=list)


def tune(
    suspect: Any,
    images: Tensor,
    held_back: Tensor,
    triggers: Sequence[Trigger],
    label: int,
    config: TuningConfig,
    seed: int = 0,
    start: Any = None,
    processes: Processes = ALONE,
) -> TuningResult:
    """Repair a copy of the suspect in one round.

    Activations of triggered images in the critical stages are pulled to the suspect's activations
    of the same clean images, while the similarities of clean images to all class texts stay.
    Gradients reach only the driven channels of these stages; BatchNorm stays in eval mode.

    Args:
        suspect: the classifier with the backdoor; frozen, in eval mode.
        images: clean images, ``uint8 [N, 3, H, W]``.
        held_back: clean images to judge the repair by, ``uint8 [M, 3, H, W]``.
        triggers: inverted triggers, each put on an equal share of every batch; the last one tells
            the critical units.
        label: the class they lead to.
        config: the tuning.
        seed: of the batches.
        start: the model to go on from, where an earlier round has repaired one; the suspect still
            says what clean images should look like.
        processes: that tune together.

    Raises:
        InputError: the processes cannot share a batch.
    """
    processes.refuse_uneven(config.batch_size)
    generator = torch.Generator().manual_seed(seed)
    first = torch.randperm(len(images), generator=generator)[: 4 * config.batch_size]
    start = suspect if start is None else start
    units = critical_units(start, to_unit(images[first]), triggers[-1], config.units)
    repaired = copy.deepcopy(start)
    freed, masks = _free(repaired, units)
    optimizer = torch.optim.AdamW(freed, lr=config.learning_rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
    before, after = (
        {name: tower_stages(model.visual)[name] for name in units.aligned}
        for model in (suspect, repaired)
    )
    losses = []
    for _ in range(config.steps):
        chosen = torch.randint(len(images), (config.batch_size,), generator=generator)
        batch = to_unit(images[chosen])
        clean, driven = processes.share(batch), processes.share(_triggered(batch, triggers))
        with torch.no_grad(), activations(before) as kept:
            kept_logits = suspect(clean)
        with activations(after) as seen:
            logits = repaired(torch.cat([clean, driven]))[: len(clean)]
        align = alignment(seen, kept, units, processes)
        preserve = divergence(processes.gather(logits), processes.gather(kept_logits))
        loss = align + config.preserve_weight * preserve
        optimizer.zero_grad()
        loss.backward()
        processes.average(freed)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    for mask in masks:
        mask.remove()
    for parameter in repaired.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None
    if not math.isfinite(losses[-1]):
        stage = Stage("tuning", Outcome.FAILED, diverged(losses[-1]))
    else:
        stage = _judge(suspect, repaired, held_back, triggers, label, config, processes)
    return TuningResult(repaired, units, losses, stage)


def _triggered(batch: Tensor, triggers: Sequence[Trigger]) -> Tensor:
    """An equal share of a batch with each trigger."""
    shares = batch.tensor_split(len(triggers))
    return torch.cat([trigger(share) for trigger, share in zip(triggers, shares, strict=True)])


def alignment(
    seen: dict[str, Tensor],
    kept: dict[str, Tensor],
    units: CriticalUnits,
    processes: Processes = ALONE,
) -> Tensor:
    """Squared distance on the aligned units, relative to their clean size; mean over the stages.

    Args:
        seen: stage outputs of clean and, behind them, triggered images: ``[2N, ..., C]``.
        kept: stage outputs of the clean images in the suspect, ``[N, ..., C]``.
        units: what to align.
        processes: that each see a part of the images.
    """
    parts = []
    for name, mask in units.aligned.items():
        aligned = mask.to(kept[name])
        clean = kept[name] * aligned
        driven = seen[name][len(clean) :] * aligned
        parts.append(torch.stack([(driven - clean).square().sum(), clean.square().sum()]))
    distance, size = processes.total(torch.stack(parts)).unbind(1)
    return (distance / size.clamp_min(1e-8)).mean()


def divergence(logits: Tensor, kept: Tensor) -> Tensor:
    """Kullback-Leibler divergence of zero-shot predictions from the suspect's, mean over images."""
    return F.kl_div(
        logits.log_softmax(1), kept.log_softmax(1), log_target=True, reduction="batchmean"
    )


@torch.no_grad()
def agreement(suspect: Any, repaired: Any, images: Tensor, processes: Processes = ALONE) -> float:
    """Share of ``uint8`` images read as before, weighted by the suspect's confidence."""
    kept = total = 0.0
    for part in (to_unit(part) for part in images.split(128)):
        confidence, before = processes.spread(suspect, part).softmax(1).max(1)
        after = top_class(processes.spread(repaired, part))
        kept += float(confidence[after == before].sum())
        total += float(confidence.sum())
    return kept / max(total, 1e-12)


def _free(repaired: Any, units: CriticalUnits) -> tuple[list[nn.Parameter], list[RemovableHandle]]:
    """Let gradients reach the driven channels of the critical stages, and nothing else."""
    freed, masks = [], []
    stages = tower_stages(repaired.visual)
    for name in units.aligned:
        for inner, writer in writers(stages[name]).items():
            chosen = units.channels.get(f"{name}/{inner}")
            if chosen is None:
                continue
            for parameter in written_parameters(writer):
                keep = chosen.to(parameter).view(-1, *[1] * (parameter.ndim - 1))
                parameter.requires_grad_(True)
                masks.append(parameter.register_hook(keep.mul))
                freed.append(parameter)
    return freed, masks


@torch.no_grad()
def _judge(
    suspect: Any,
    repaired: Any,
    images: Tensor,
    triggers: Sequence[Trigger],
    label: int,
    config: TuningConfig,
    processes: Processes,
) -> Stage:
    """The trigger that was found decides; what those of later rounds still do is told.

    A mask that is inverted on a repaired model drives clean models as well, so that it says little
    of the backdoor.
    """
    found = [success(repaired, images, trigger, label, processes) for trigger in triggers]
    asr = found[0]
    agreed = agreement(suspect, repaired, images, processes)
    if math.isnan(asr):
        reason = "All clean images that judge are read as the target; none is left to send there."
        return Stage("tuning", Outcome.FAILED, reason, {"agreement": agreed})
    evidence = {"inverted_asr": asr, "agreement": agreed}
    if found[1:]:
        evidence["later_asr"] = max(found[1:])
    told = (
        f"The inverted trigger now succeeds on {asr:.1%}, and clean images are read as before "
        f"with {agreed:.1%} of the confidence"
    )
    if asr > config.most_asr:
        reason = f"{told}; at most {config.most_asr:.0%} success was expected."
        return Stage("tuning", Outcome.FAILED, reason, evidence)
    if agreed < config.least_agreement:
        reason = f"{told}; at least {config.least_agreement:.0%} was expected."
        return Stage("tuning", Outcome.FAILED, reason, evidence)
    return Stage("tuning", Outcome.OK, f"{told}.", evidence)
