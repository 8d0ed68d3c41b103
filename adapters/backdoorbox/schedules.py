"""The toolbox's schedule dicts: which keys each call needs, and which device one asks for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from invertune_plugin.defenses.base import Schedule
from invertune_plugin.errors import InputError

LOADER = ("batch_size", "num_workers")
PLACE = ("save_dir", "experiment_name")
SGD = (*LOADER, "lr", "momentum", "weight_decay", "epochs")
DECAY = ("schedule", "gamma")
LOGGED = ("log_iteration_interval", "save_epoch_interval")
TUNING = (*SGD, *LOGGED, *PLACE)
ADAM = (*LOADER, "lr", "betas", "eps", "weight_decay", "amsgrad", "epochs", *DECAY)
ATTACK = ("benign_training", *SGD, *DECAY, *LOGGED, "test_epoch_interval", *PLACE)
MEASURED = ("metric", *LOADER, *PLACE)

PLAIN_ATTACKS = (
    "AdaptivePatch",
    "BAAT",
    "BATT",
    "BadNets",
    "Blended",
    "LabelConsistent",
    "PhysicalBA",
    "Refool",
    "TUAP",
    "WaNet",
)
"""Attacks that train by the toolbox's base class; only these select GPUs in the first dialect."""


def _within(name: str, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{name}.{key}" for key in keys)


_SLEEPER_PHASE = (*SGD, "gamma", "milestones")
_ABL_PHASE = (*SGD, *DECAY, "log_iteration_interval", "test_epoch_interval")
_PER_NETWORK = ("lr", "betas", "milestones", "lambda")

REQUIRED: Mapping[str, tuple[str, ...]] = {
    **{f"{attack}.train": ATTACK for attack in PLAIN_ATTACKS},
    **{f"{attack}.test": (*LOADER, *PLACE) for attack in PLAIN_ATTACKS},
    "LabelConsistent": LOADER,
    "Blind.train": (*TUNING, *DECAY, "test_epoch_interval"),
    "Blind.test": (*LOADER, *PLACE),
    "IAD.train": (
        *SGD,
        "milestones",
        "lambda",
        *(f"{key}_G" for key in _PER_NETWORK),
        *(f"{key}_M" for key in _PER_NETWORK),
        "save_epoch_interval",
        "test_epoch_interval",
        *PLACE,
    ),
    "LIRA.train": (
        *LOADER,
        "lr",
        "momentum",
        "epochs",
        "lr_atk",
        "train_epoch",
        "cls_test_epoch",
        "test_epoch_interval",
        "tune_test_epochs",
        "tune_test_lr",
        "tune_momentum",
        "tune_weight_decay",
        "tune_test_epoch_interval",
        "schedulerC_milestones",
        "schedulerC_lambda",
        *PLACE,
    ),
    "LIRA.test": (*LOADER, *PLACE),
    "ISSBA.train": (*SGD, *DECAY, "save_epoch_interval", "test_epoch_interval", *PLACE),
    "ISSBA.test": (*LOADER, *PLACE),
    "SleeperAgent.train": (
        "benign_training",
        *SGD,
        *DECAY,
        "craft_iters",
        "retrain_iter_interval",
        *_within("pretrain_schedule", _SLEEPER_PHASE),
        *_within("retrain_schedule", _SLEEPER_PHASE),
        *PLACE,
    ),
    "FineTuning.repair": TUNING,
    "Pruning.repair": LOADER,
    "NAD.repair": (*TUNING, *DECAY, "tune_lr", "tune_epochs"),
    "CutMix.repair": (*TUNING, *DECAY),
    "ABL.train": (
        *_within("pre_isolation_schedule", _ABL_PHASE),
        *_within("split_schedule", LOADER),
        *_within("clean_schedule", _ABL_PHASE),
        *_within("unlearning_schedule", _ABL_PHASE),
        *_within("test_schedule", LOADER),
        *PLACE,
    ),
    "ABL.test": LOADER,
    "MCR.repair": ("benign_training", *TUNING, *DECAY, "l2_regularizer"),
    "MCR.test": MEASURED,
    "ShrinkPad.predict": LOADER,
    "AutoEncoderDefense.train_autoencoder": (*ADAM, *LOGGED, "test_epoch_interval", *PLACE),
    "AutoEncoderDefense.predict": LOADER,
    "REFINE.train_unet": (*ADAM, *LOGGED, "test_epoch_interval", *PLACE),
    "REFINE.test": ("metric", *PLACE),
    "utils.test": MEASURED,
}
"""Call of the toolbox -> keys it cannot do without; ``outer.inner`` is a key of a nested schedule.

FineTuning, NAD, CutMix, Pruning, ShrinkPad and AutoEncoderDefense measure by ``utils.test``.
"""


def require(schedule: Schedule | None, keys: Sequence[str], whose: str) -> None:
    """Check that a schedule has all keys that a call needs.

    Args:
        schedule: the caller's; it is not changed.
        keys: needed keys; ``outer.inner`` is a key of a nested schedule.
        whose: class or call, for the message.

    Raises:
        InputError: keys are missing; all of them are named.
    """
    missing = [key for key in keys if not _has(schedule or {}, key)]
    if missing:
        raise InputError(
            f"Expected a schedule for {whose} with {', '.join(keys)}; got one without "
            f"{', '.join(missing)}. Add {'it' if len(missing) == 1 else 'them'}."
        )


def check_schedule(schedule: Schedule | None, whose: str) -> None:
    """Check a schedule for one call of the toolbox, before the work begins.

    Args:
        schedule: the caller's; it is not changed.
        whose: a key of ``REQUIRED``, for instance ``"BadNets.train"``.

    Raises:
        InputError: there is no such call, keys are missing, ``benign_training`` is no bool,
            ASR_NoTarget comes without ``y_target``, or a GPU is asked for and absent.
    """
    if whose not in REQUIRED:
        raise InputError(f"Expected one of {', '.join(sorted(REQUIRED))}, got {whose!r}.")
    given = schedule or {}
    keys = REQUIRED[whose]
    if given.get("metric") == "ASR_NoTarget" and "metric" in keys:
        keys = (*keys, "y_target")
    if _wants_gpu(given) and whose.split(".", maxsplit=1)[0] not in (*PLAIN_ATTACKS, "utils"):
        keys = (*keys, "GPU_num")
    require(given, keys, whose)
    if "benign_training" in keys and not isinstance(given["benign_training"], bool):
        raise InputError(
            f"Expected benign_training to be True or False for {whose}, got "
            f"{given['benign_training']!r}. The toolbox accepts nothing that only counts as true."
        )
    device_of(given)


def device_of(schedule: Schedule | None) -> torch.device:
    """The device that a schedule asks for, in either dialect of the toolbox.

    Attacks and ``utils.test`` name GPUs by ``CUDA_SELECTED_DEVICES``, a part of the environment's
    ``CUDA_VISIBLE_DEVICES``; defences by ``CUDA_VISIBLE_DEVICES`` in the schedule, and count them
    by ``GPU_num``. Both count as the driver does. Of several GPUs the first one named is taken.
    The environment is read, never written.

    Raises:
        InputError: ``device`` is neither ``GPU`` nor ``CPU``, or a GPU is asked for and absent.
    """
    given = schedule or {}
    if not _wants_gpu(given):
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if count == 0:
        raise InputError(
            "Expected a GPU, as the schedule says device='GPU', but torch sees none here. "
            "Take device out of the schedule, or install a CUDA build of torch and its driver."
        )
    environment = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = _ids(environment) if environment else [str(i) for i in range(count)]
    named = given.get("CUDA_SELECTED_DEVICES", given.get("CUDA_VISIBLE_DEVICES"))
    chosen = visible if named is None else _ids(named)
    absent = [gpu for gpu in chosen if gpu not in visible[:count]]
    wanted = given.get("GPU_num", 1)
    if not chosen or (absent and named is not None):
        raise InputError(
            f"Expected GPUs among {', '.join(visible[:count])}, got {named!r} in the schedule. "
            "Name GPUs that the environment's CUDA_VISIBLE_DEVICES leaves visible."
        )
    if not isinstance(wanted, int) or not 1 <= wanted <= count:
        raise InputError(
            f"Expected GPU_num between 1 and {count}, the GPUs that torch sees, got {wanted!r}."
        )
    return torch.device("cuda", visible.index(chosen[0]))


def _wants_gpu(schedule: Schedule) -> bool:
    device = str(schedule.get("device") or "CPU").upper()
    if device not in ("CPU", "GPU"):
        raise InputError(
            f"Expected device 'GPU' or 'CPU' in the schedule, got {schedule['device']!r}. "
            "Name the GPU itself by CUDA_SELECTED_DEVICES."
        )
    return device == "GPU"


def _ids(names: Any) -> list[str]:
    return [name.strip() for name in str(names).split(",") if name.strip()]


def _has(schedule: Mapping[str, Any], key: str) -> bool:
    if key in schedule:
        return True
    outer, _, inner = key.partition(".")
    nested = schedule.get(outer)
    return bool(inner) and isinstance(nested, Mapping) and inner in nested
