"""Defences that repair the model: tuning it, pruning it, or going half way to a tuned copy.

Every recipe gives back a model with the architecture and the state-dict keys of the given one.
Options are called as in the toolbox, and their defaults are those of its examples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from invertune_plugin.adapters.backdoorbox.curves import curve_twin, model_at
from invertune_plugin.adapters.backdoorbox.defense import InverTuneDefense
from invertune_plugin.adapters.backdoorbox.defenses.job import Defended, Job
from invertune_plugin.adapters.backdoorbox.defenses.limits import map_layers
from invertune_plugin.config import parse
from invertune_plugin.defenses.invertune import InverTuneConfig
from invertune_plugin.errors import InputError

ATTENDED = 3
"""Upstream's examples distil the last three of the ResNet's four stages."""


def nothing(job: Job) -> Defended:
    """The given model itself."""
    return Defended(job.suspicion.model)


def inver_tune(job: Job, *, config: InverTuneConfig | Mapping[str, Any] | None = None) -> Defended:
    """InverTune; the given model itself comes back where it found nothing to repair."""
    suspicion = job.suspicion
    defense = InverTuneDefense(
        train_dataset=suspicion.clean,
        model=suspicion.model,
        schedule=job.schedule("InverTune", len(suspicion.clean)),
        seed=job.seed,
        config=parse(InverTuneConfig, config) if isinstance(config, Mapping) else config,
        class_names=suspicion.class_names,
        image_size=suspicion.image_size,
    )
    found = defense.repair()
    return Defended(
        defense.get_model(),
        outcome=found.outcome.value,
        found_target=defense.target_,
        reason=found.stages[-1].reason,
    )


def fine_tuning(job: Job, *, layer: Sequence[str] = ()) -> Defended:
    """FineTuning; all children train unless some are named, and the batch fits the few images.

    Upstream drops the last batch, and with it everything where there is only one.
    """
    return Defended(job.as_given(_fine_tuned(job, "FineTuning", layer)))


def pruning(job: Job, *, layer: str | None = None, prune_rate: float = 0.2) -> Defended:
    """Pruning of the last child that puts out maps; the mask becomes a hook on that child.

    Upstream's wrapper would rename the weights. As there, the mask is not in the state dict: prune
    again after loading one.
    """
    model = job.victim()
    chosen = layer or map_layers(model, job.suspicion.image_size)[-1]
    _check_maps(model, [chosen], job.suspicion.image_size)
    defense = job.core.Pruning(
        train_dataset=job.suspicion.clean,
        model=model,
        layer=chosen,
        prune_rate=prune_rate,
        seed=job.seed,
    )
    defense.repair(job.schedule("Pruning", len(job.suspicion.clean)))
    masked: Any = model.get_submodule(chosen)
    base: nn.Module = masked.base
    base.register_buffer("pruning_mask", masked.mask, persistent=False)
    base.register_forward_hook(_prune)
    setattr(model, chosen, base)
    return Defended(job.as_given(model))


def nad(
    job: Job,
    *,
    target_layers: Sequence[str] = (),
    beta: Sequence[float] = (),
    power: float = 2.0,
) -> Defended:
    """NAD on the last three children that put out maps; tokens count as the pixels of a map.

    The teacher trains as long as the student, on the same images.
    """
    model, clean = job.victim(), job.suspicion.clean
    maps = map_layers(model, job.suspicion.image_size)
    layers = list(target_layers or maps[-ATTENDED:])
    _check_maps(model, layers, job.suspicion.image_size)
    defense = job.core.NAD(
        model=model,
        loss=nn.CrossEntropyLoss(),
        power=power,
        beta=list(beta or [500.0] * len(layers)),
        target_layers=layers,
        seed=job.seed,
    )
    tuning = {"tune_lr": job.training.lr, "tune_epochs": job.training.epochs}
    defense.repair(clean, 1.0, job.schedule("NAD", len(clean), **tuning))
    return Defended(job.as_given(defense.get_model()))


def cut_mix(job: Job, *, beta: float = 1.0, cutmix_prob: float = 1.0) -> Defended:
    """CutMix; needs no adapter but a batch that fits."""
    clean = job.suspicion.clean
    defense = job.core.CutMix(
        model=job.victim(),
        loss=nn.CrossEntropyLoss(),
        beta=beta,
        cutmix_prob=cutmix_prob,
        seed=job.seed,
    )
    defense.repair(clean, job.schedule("CutMix", len(clean)))
    return Defended(job.as_given(defense.get_model()))


def mcr(
    job: Job, *, num_bends: int = 3, curve_type: str = "Bezier", coeffs_t: float = 0.5
) -> Defended:
    """MCR between the suspect and a fine-tuned copy, along a curve twin that any model has.

    The plain model at ``coeffs_t`` comes back, half way by default, with the BatchNorm statistics
    that upstream's ``test`` estimates there on the clean images.
    """
    start, clean = job.victim(), job.suspicion.clean
    fixed = [True, *[False] * (num_bends - 2), True]
    defense = job.core.MCR(
        start,
        _fine_tuned(job, "MCR-end"),
        curve_twin(start, fixed, job.core.models.curves.CurveModule),
        num_bends,
        curve_type,
        nn.CrossEntropyLoss(),
        seed=job.seed,
    )
    terms = {"benign_training": True, "l2_regularizer": True}
    defense.repair(clean, 1.0, job.schedule("MCR", len(clean), **terms))
    defense.test(clean, job.schedule("MCR-point", len(clean), metric="BA"), coeffs_t)
    return Defended(job.as_given(model_at(defense.get_model(), coeffs_t, start)))


def _fine_tuned(job: Job, name: str, layer: Sequence[str] = ()) -> nn.Module:
    model, clean = job.victim(), job.suspicion.clean
    children = [child for child, _ in model.named_children()]
    if unknown := sorted(set(layer) - set(children)):
        raise InputError(
            f"Expected layers among {', '.join(children)}, got {', '.join(unknown)}. "
            "Only children of the model itself can be named."
        )
    defense = job.core.FineTuning(
        train_dataset=clean,
        model=model,
        layer=list(layer) or ["full layers"],
        loss=nn.CrossEntropyLoss(),
        seed=job.seed,
    )
    defense.repair(job.schedule(name, len(clean)))
    tuned: nn.Module = defense.get_model()
    return tuned


def _check_maps(model: nn.Module, layers: Sequence[str], image_size: int) -> None:
    maps = map_layers(model, image_size)
    if unknown := sorted(set(layers) - set(maps)):
        raise InputError(
            f"Expected children that put out [N, C, H, W], which are {', '.join(maps)}, got "
            f"{', '.join(unknown)}. Choose among these."
        )


def _prune(module: nn.Module, _: Any, output: Tensor) -> Tensor:
    return output * module.get_buffer("pruning_mask")
