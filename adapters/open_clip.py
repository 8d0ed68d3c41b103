"""CLIP models of open_clip: load any suspect checkpoint, save one that describes itself."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, merge_preprocess_dict
from torch import nn

from invertune_plugin.adapters.empty_models import empty_model
from invertune_plugin.adapters.key_layouts import fitting_weights
from invertune_plugin.adapters.model_configs import (
    ModelSpec,
    Tokenizer,
    build_model,
    build_tokenizer,
    find_spec,
    read_spec,
)
from invertune_plugin.adapters.quick_gelu import uses_quick_gelu
from invertune_plugin.adapters.weights import find_weights, split_name
from invertune_plugin.checkpoints import file_sha256, read_card, read_state_dict, write_checkpoint
from invertune_plugin.errors import InputError
from invertune_plugin.zero_shot import ZeroShotClassifier

_FACTS = ("model_config", "quick_gelu", "preprocess_cfg")


@dataclass(frozen=True)
class LoadedClip:
    """A CLIP model with all that is needed to use it and to save it again.

    Attributes:
        model: fp32, in eval mode, on the CPU.
        tokenizer: texts to token ids ``[N, L]``.
        mean: channel means of the normalisation.
        std: channel standard deviations of it.
        image_size: side of the square input in pixels.
        architecture: name of the architecture.
        source: where the weights came from; ``"random"`` for none.
        source_sha256: hash of the weights file; None for random weights.
        quick_gelu: whether the model uses QuickGELU.
        model_config: open_clip's model config, with ``quick_gelu``.
    """

    model: nn.Module
    tokenizer: Tokenizer
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: int
    architecture: str
    source: str
    source_sha256: str | None
    quick_gelu: bool
    model_config: dict[str, Any]


def load_clip(
    architecture: str | Path | None = None,
    checkpoint: str | Path | None = None,
    *,
    quick_gelu: bool | None = None,
) -> LoadedClip:
    """Load a CLIP model; checkpoints are untrusted, and no code from them ever runs.

    Args:
        architecture: an open_clip name (``"RN50"``), ``hf-hub:org/name``, the path of a JSON model
            config, or None for a checkpoint that names its own: one written by ``save_clip``,
            ``"RN50/openai"``, or ``"hf-hub:org/name"``.
        checkpoint: a local file, an open_clip tag (``"openai"``), or None for random weights (for
            a hub model: the hub's weights).
        quick_gelu: force the activation; None takes the best evidence, see ``uses_quick_gelu``.

    Raises:
        InputError: architecture or checkpoint are unknown, cannot be had or do not fit together.
    """
    if architecture is None and (named := split_name(checkpoint)) is not None:
        architecture, checkpoint = named
    spec = find_spec(architecture) if architecture is not None else None
    weights = find_weights(spec, checkpoint)
    card = read_card(weights.path) if weights.path is not None else {}
    if spec is None:
        spec = _spec_of_card(card, weights.source)
    state_dict = read_state_dict(weights.path) if weights.path is not None else {}
    if quick_gelu is None:
        quick_gelu = uses_quick_gelu(spec, weights, card, state_dict)
    spec = dataclasses.replace(spec, config={**spec.config, "quick_gelu": quick_gelu})
    if weights.path is not None:
        empty = empty_model(spec, state_dict, weights.source)
        state_dict = fitting_weights(empty, state_dict, spec.name, weights.source)
    model = build_model(spec)
    if weights.path is not None:
        model.load_state_dict(state_dict, strict=True)
    preprocess = merge_preprocess_dict(PreprocessCfg(), spec.preprocess)
    for known in (weights.preprocess, card.get("preprocess_cfg")):
        if isinstance(known, Mapping):
            preprocess = merge_preprocess_dict(preprocess, dict(known))
    preprocess["size"] = _square_size(model, spec.name)
    if (preprocess["interpolation"], preprocess["resize_mode"]) != ("bicubic", "shortest"):
        warnings.warn(
            f"{spec.name} was trained on images resized by {preprocess['interpolation']!r} and "
            f"{preprocess['resize_mode']!r}. Here the short side is resized (bicubic) and the "
            "centre cropped, so that CA may be below the published one.",
            stacklevel=2,
        )
    mean = _three(preprocess["mean"], "mean", weights.source)
    std = _three(preprocess["std"], "std", weights.source)
    open_clip.set_model_preprocess_cfg(model, {**preprocess, "mean": mean, "std": std})
    return LoadedClip(
        model=model.eval(),
        tokenizer=build_tokenizer(spec),
        mean=mean,
        std=std,
        image_size=preprocess["size"],
        architecture=spec.name,
        source=weights.source,
        source_sha256=file_sha256(weights.path) if weights.path is not None else None,
        quick_gelu=quick_gelu,
        model_config=spec.config,
    )


def clip_card(loaded: LoadedClip) -> dict[str, Any]:
    """What a checkpoint must say so that ``load_clip(None, path)`` can rebuild the model."""
    return {
        "architecture": loaded.architecture,
        "model_config": loaded.model_config,
        "quick_gelu": loaded.quick_gelu,
        "preprocess_cfg": {
            **open_clip.get_model_preprocess_cfg(loaded.model),
            "mean": list(loaded.mean),
            "std": list(loaded.std),
            "size": loaded.image_size,
        },
    }


def save_clip(
    path: str | Path,
    model: LoadedClip | nn.Module,
    card: Mapping[str, Any],
    overwrite: bool = False,
) -> None:
    """Write a checkpoint that ``load_clip(None, path)`` rebuilds without a named architecture.

    Args:
        path: a name that ends in ``.safetensors``.
        model: a loaded model, or a bare one whose ``card`` includes ``clip_card`` of its origin.
        card: what else is worth saying about the weights; JSON values only.
        overwrite: replace an existing file.

    Raises:
        InputError: a bare model comes without its facts, or the file cannot be written.
    """
    if isinstance(model, LoadedClip):
        origin = {"source": model.source, "source_sha256": model.source_sha256}
        write_checkpoint(
            path, model.model.state_dict(), {**origin, **card, **clip_card(model)}, overwrite
        )
        return
    missing = [fact for fact in _FACTS if fact not in card]
    if missing:
        raise InputError(
            f"Expected a card with {', '.join(_FACTS)} for a bare model, got one without "
            f"{', '.join(missing)}. Add clip_card(loaded) of the model it came from."
        )
    write_checkpoint(path, model.state_dict(), card, overwrite)


def zero_shot_classifier(
    loaded: LoadedClip,
    class_names: Sequence[str],
    templates: Sequence[str],
    device: str | torch.device = "cpu",
    cache_dir: Path | None = None,
) -> ZeroShotClassifier:
    """Make a zero-shot classifier of a loaded model; the model itself moves to ``device``.

    Args:
        loaded: the model, shared with the classifier and not copied.
        class_names: the K classes.
        templates: format strings with one ``{}``.
        device: where it runs.
        cache_dir: where class weights are kept between runs; None keeps nothing.
    """
    return ZeroShotClassifier(
        loaded.model.to(device),
        loaded.tokenizer,
        class_names=class_names,
        templates=templates,
        mean=loaded.mean,
        std=loaded.std,
        image_size=loaded.image_size,
        cache_dir=cache_dir,
    )


def _spec_of_card(card: Mapping[str, Any], source: str) -> ModelSpec:
    if not isinstance(card.get("model_config"), Mapping):
        raise InputError(
            f"Expected an architecture, got none, and {source} does not name its own. Pass an "
            "open_clip model name such as RN50, or the path of a .json model config."
        )
    name = card.get("architecture")
    return read_spec(
        card["model_config"], name if isinstance(name, str) else "a saved CLIP", source
    )


def _square_size(model: nn.Module, name: str) -> int:
    size: Any = getattr(model.visual, "image_size", None)
    sides = (size, size) if isinstance(size, int) else tuple(size or (0, 1))
    if sides[0] != sides[1]:
        raise InputError(
            f"Expected a model with square input, got {name} with {size}. "
            "Choose an architecture with one image_size."
        )
    return int(sides[0])


def _three(values: Any, what: str, source: str) -> tuple[float, float, float]:
    try:
        red, green, blue = (float(value) for value in values)
    except (TypeError, ValueError):
        red = green = blue = float("nan")
    finite = all(abs(value) < float("inf") for value in (red, green, blue))
    if not finite or (what == "std" and min(red, green, blue) <= 0):
        raise InputError(
            f"Expected three {'positive ' if what == 'std' else ''}numbers as {what} for {source}, "
            f"got {values!r}. Correct the preprocess_cfg."
        )
    return red, green, blue
