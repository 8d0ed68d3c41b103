"""Which CLIP an architecture name means, and how open_clip builds it."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import download_pretrained_from_hf
from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, HFTokenizer, SimpleTokenizer
from torch import Tensor, nn

from invertune_plugin.adapters.nearest import nearest
from invertune_plugin.errors import InputError

HUB_PREFIX = "hf-hub:"
Tokenizer = Callable[[list[str]], Tensor]
_PARTS = ("embed_dim", "vision_cfg", "text_cfg")


@dataclass(frozen=True)
class ModelSpec:
    """An architecture, before it has weights.

    Attributes:
        name: what people call it.
        config: open_clip's model config.
        preprocess: the parts of open_clip's preprocess config that are known for it.
        built_in: whether ``name`` is one of open_clip's own names.
    """

    name: str
    config: dict[str, Any]
    preprocess: dict[str, Any]
    built_in: bool = False


def find_spec(architecture: str | Path) -> ModelSpec:
    """Look an architecture up.

    Args:
        architecture: an open_clip name, ``hf-hub:org/name``, or the path of a JSON model config in
            open_clip's schema, with an optional ``preprocess_cfg`` beside it.

    Raises:
        InputError: the name is unknown, the download failed, or the JSON is no model config.
    """
    name = str(architecture)
    if name.startswith(HUB_PREFIX):
        return read_spec(_hub_config(name), name, name)
    if name.lower().endswith(".json"):
        return read_spec(_json_object(Path(name)), Path(name).stem, name)
    name = name.replace("/", "-")
    config = open_clip.get_model_config(name)
    if config is None:
        raise InputError(
            f"Expected an open_clip model name, {HUB_PREFIX}org/name or the path of a .json model "
            f"config, got {str(architecture)!r}. Near it: {nearest(name, open_clip.list_models())}."
        )
    return ModelSpec(name, config, _agreed_preprocess(name), built_in=True)


def read_spec(content: Mapping[str, Any], name: str, source: str) -> ModelSpec:
    """Take a spec from a JSON object: a bare model config, or one under ``model_cfg``.

    Raises:
        InputError: a part of the config is missing.
    """
    config = content.get("model_cfg", content)
    if not isinstance(config, Mapping) or any(part not in config for part in _PARTS):
        raise InputError(
            f"Expected a model config with {', '.join(_PARTS)} in {source}, got "
            f"{', '.join(map(str, content)) or 'nothing'}. See open_clip's model_configs folder."
        )
    config = copy.deepcopy(dict(config))
    preprocess = config.pop("preprocess_cfg", None) or content.get("preprocess_cfg") or {}
    if not isinstance(preprocess, Mapping):
        raise InputError(
            f"Expected an object as preprocess_cfg in {source}, got {preprocess!r}. "
            "Give it mean and std, or remove it."
        )
    return ModelSpec(name, config, dict(preprocess))


def build_model(spec: ModelSpec) -> nn.Module:
    """Make the model with random weights, the way open_clip's factory does; fetches no weights.

    Raises:
        InputError: open_clip cannot build the config.
    """
    config = copy.deepcopy(spec.config)
    try:
        custom_text = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
        if "timm_model_name" in config["vision_cfg"]:
            config["vision_cfg"]["timm_model_pretrained"] = False
        if "hf_model_name" in config["text_cfg"]:
            config["text_cfg"]["hf_model_pretrained"] = False
        if not custom_text:
            kind = open_clip.CLIP
        else:
            kind = open_clip.CoCa if "multimodal_cfg" in config else open_clip.CustomTextCLIP
        model: nn.Module = kind(**config)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"Expected a model config that open_clip can build, got {spec.name}: "
            f"{str(error).rstrip('.')}. "
            "Compare it with open_clip's model_configs folder."
        ) from error
    return model.float()


def build_tokenizer(spec: ModelSpec) -> Tokenizer:
    """Make the tokenizer that belongs to a model; never one that brings its own code.

    Raises:
        InputError: it comes from the Hugging Face hub and cannot be had.
    """
    text = spec.config["text_cfg"]
    length = text.get("context_length", DEFAULT_CONTEXT_LENGTH)
    hub_name = text.get("hf_tokenizer_name")
    tokenizer: Tokenizer
    try:
        options = dict(text.get("tokenizer_kwargs") or {})
        if hub_name:
            options["trust_remote_code"] = False
            mode = text.get("tokenizer_mode")
            tokenizer = HFTokenizer(hub_name, context_length=length, tokenizer_mode=mode, **options)
        else:
            tokenizer = SimpleTokenizer(context_length=length, **options)
    except Exception as error:
        raise InputError(
            f"Expected the tokenizer {hub_name or 'of open_clip'} for {spec.name}, got: {error}. "
            "Install transformers, and fetch the tokenizer once with a network connection."
        ) from error
    return tokenizer


def _agreed_preprocess(name: str) -> dict[str, Any]:
    """What all published weights of an open_clip architecture agree on."""
    tags = open_clip.list_pretrained_tags_by_model(name)
    published = [open_clip.get_pretrained_cfg(name, tag) for tag in tags]
    keys = ("mean", "std", "interpolation", "resize_mode")
    return {
        key: published[0][key]
        for key in keys
        if published and all(key in cfg and cfg[key] == published[0].get(key) for cfg in published)
    }


def _hub_config(name: str) -> dict[str, Any]:
    repository = name.removeprefix(HUB_PREFIX)
    try:
        path = download_pretrained_from_hf(repository, filename="open_clip_config.json")
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"Expected open_clip_config.json of {repository!r} from the Hugging Face hub, got: "
            f"{str(error).rstrip('.')}. Fetch the model elsewhere, then pass its config as a .json "
            "file and its weights as a local checkpoint file."
        ) from error
    return _json_object(Path(path))


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"Expected a JSON model config, got {path}: {error}. Check the path and the file."
        ) from error
    if not isinstance(content, dict):
        raise InputError(
            f"Expected a JSON object as model config, got a {type(content).__name__} in {path}. "
            "See open_clip's model_configs folder."
        )
    return content
