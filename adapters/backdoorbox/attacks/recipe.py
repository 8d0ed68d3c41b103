"""Any attack of the toolbox on any model, by name."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import torch
from torch import nn

from invertune_plugin.adapters.backdoorbox.attacks import clean_label, generators, image_attacks
from invertune_plugin.adapters.backdoorbox.attacks.job import Attacked, Job
from invertune_plugin.adapters.backdoorbox.evaluator import device_of_model
from invertune_plugin.adapters.backdoorbox.folders import ToolboxData, check_dataset
from invertune_plugin.adapters.backdoorbox.isolation import isolated
from invertune_plugin.adapters.backdoorbox.loader import loaded_toolbox
from invertune_plugin.adapters.backdoorbox.training import ToolboxTraining
from invertune_plugin.config import named
from invertune_plugin.errors import InputError
from invertune_plugin.modes import evaluating

__all__ = ["ATTACKS", "CLEAN_LABEL", "UNUSABLE", "Attacked", "run_attack"]

OUTPUT = "output.txt"
"""File in the work folder that gets what the toolbox prints."""

ATTACKS: Mapping[str, Callable[..., Attacked]] = MappingProxyType(
    {
        "BadNets": image_attacks.badnets,
        "Blended": image_attacks.blended,
        "WaNet": image_attacks.wanet,
        "BATT": image_attacks.batt,
        "AdaptivePatch": image_attacks.adaptive_patch,
        "PhysicalBA": image_attacks.physical,
        "Refool": image_attacks.refool,
        "LabelConsistent": clean_label.label_consistent,
        "SleeperAgent": clean_label.sleeper_agent,
        "TUAP": clean_label.tuap,
        "IAD": generators.iad,
        "LIRA": generators.lira,
        "ISSBA": generators.issba,
        "Blind": generators.blind,
    }
)
"""Class of the toolbox -> recipe; its keyword arguments are the options of ``run_attack``."""

UNUSABLE: Mapping[str, str] = MappingProxyType(
    {
        "BAAT": "BAAT needs the code and weights of StyleGAN encoders, HairCLIP or ArtFlow, which "
        "the toolbox does not contain.",
    }
)
"""Class of the toolbox -> why it has no recipe."""

CLEAN_LABEL = frozenset({"LabelConsistent", "SleeperAgent", "TUAP"})
"""Attacks whose rate is a share of the target class, not of all images."""

_EVERY_WEIGHT = frozenset({"Blind", "LIRA", "SleeperAgent"})


def run_attack(
    core: ModuleType,
    name: str,
    data: ToolboxData,
    model: nn.Module,
    *,
    target: int,
    rate: float,
    seed: int,
    training: ToolboxTraining,
    work_dir: Path,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Attacked:
    """Attack a copy of a model.

    Model, data sets and global random state come back unchanged, and what is written or printed
    goes to ``work_dir``.

    Args:
        core: what ``load_toolbox`` returned, for the device that ``training`` names.
        name: class of the toolbox, one of ``ATTACKS``.
        data: clean images.
        model: images in [0, 1] to logits; a CLIP as a ``StagedClassifier``.
        target: class index that the trigger leads to.
        rate: poisoned share of the training images; of those of the target class in
            ``CLEAN_LABEL``. LIRA and Blind poison every image in every step.
        seed: of everything random.
        training: of the victim.
        work_dir: folder to write to; made where absent.
        options: keyword arguments of the recipe, and ``rate`` to replace the one above.

    Raises:
        InputError: no such attack or option, data or model that the attack cannot take, or too few
            images to poison one.
    """
    chosen = dict(options)
    rate = chosen.pop("rate", rate)
    recipe = attack_recipe(name, chosen)
    _check_device(core, training)
    _check_data(data, target)
    work_dir = Path(work_dir).resolve()
    work_dir.mkdir(parents=True, exist_ok=True)
    home = device_of_model(model)
    start = time.perf_counter()
    with isolated(seed, work_dir / OUTPUT):
        victim = copy.deepcopy(model).cpu()
        if name in _EVERY_WEIGHT:
            _check_weights(victim, name, data.image_size)
        job = Job(core, name, data, victim, target, rate, seed, training, work_dir)
        _check_rate(job)
        attacked = recipe(job, **chosen)
    attacked.model.zero_grad(set_to_none=True)
    return replace(
        attacked,
        model=attacked.model.to(home).eval(),
        seconds=time.perf_counter() - start,
    )


def attack_recipe(name: str, options: Iterable[str] = ()) -> Callable[..., Attacked]:
    """How an attack is run.

    Raises:
        InputError: there is no such attack, it cannot be run, or one of the options is unknown.
    """
    if name in UNUSABLE:
        raise InputError(f"Expected an attack that can be run, got {name}. {UNUSABLE[name]}")
    recipe = named("attack", name, ATTACKS)
    known = ["rate", *inspect.signature(recipe).parameters]
    known.remove("job")
    for option in options:
        if option not in known:
            raise InputError(f"Expected an option of {name} ({', '.join(known)}), got {option!r}.")
    return recipe


def _check_device(core: ModuleType, training: ToolboxTraining) -> None:
    device = loaded_toolbox(core).device
    if (device.type == "cuda") != (training.device == "GPU"):
        raise InputError(
            f"Expected a training on the device that the toolbox is loaded for ({device}), got "
            f"{training.device}. Call load_toolbox(device='cuda') for a training on the GPU."
        )


def _check_data(data: ToolboxData, target: int) -> None:
    for dataset in (data.train, data.test):
        check_dataset(dataset)
        if len(dataset.classes) != len(data.class_names):
            raise InputError(
                f"Expected data sets of the {len(data.class_names)} classes named, got one of "
                f"{len(dataset.classes)} in {dataset.root}. Export images of all classes."
            )
        shape = list(dataset[0][0].shape)
        if shape != [3, data.image_size, data.image_size]:
            raise InputError(
                f"Expected images [3, {data.image_size}, {data.image_size}], got {shape} in "
                f"{dataset.root}. Open it with toolbox_folder(root, image_size)."
            )
    if not 0 <= target < len(data.class_names):
        raise InputError(f"Expected a target from 0 to {len(data.class_names) - 1}, got {target}.")


def _check_rate(job: Job) -> None:
    of_target = job.name in CLEAN_LABEL
    images = job.victims() if of_target else len(job.data.train)
    whole = job.rate == 1 and not of_target
    if not 0 < job.rate <= 1 or whole or job.rate * images < 1:
        raise InputError(
            f"Expected a rate between 0 and 1 that poisons at least one of the {images} training "
            f"images{' of the target class' if of_target else ''}, got {job.rate}."
        )


def _check_weights(model: nn.Module, name: str, image_size: int) -> None:
    """Refuse a model with weights that its forward does not use; some attacks need all gradients.

    Raises:
        InputError: there are such weights, or frozen ones.
    """
    weights = dict(model.named_parameters())
    frozen = [key for key, weight in weights.items() if not weight.requires_grad]
    if not frozen:
        with evaluating(model):
            output = model(torch.rand(2, 3, image_size, image_size)).sum()
        grads = torch.autograd.grad(output, list(weights.values()), allow_unused=True)
        frozen = [key for key, grad in zip(weights, grads, strict=True) if grad is None]
    if frozen:
        raise InputError(
            f"Expected a model that trains and uses all its weights for {name}, got "
            f"{type(model).__name__}, where {', '.join(frozen[:3])} and the like get no gradient. "
            "Pass a CLIP as staged(classifier)."
        )
