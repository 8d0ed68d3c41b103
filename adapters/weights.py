"""Where weights come from: a local file, an open_clip tag, the Hugging Face hub, or nowhere."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import download_pretrained_from_hf

from invertune_plugin.adapters.model_configs import HUB_PREFIX, ModelSpec
from invertune_plugin.adapters.nearest import nearest
from invertune_plugin.checkpoints import SUFFIXES
from invertune_plugin.errors import InputError


@dataclass(frozen=True)
class Weights:
    """A weights file and what its publisher says about it.

    Attributes:
        source: the file, ``architecture/tag``, hub name, or ``"random"``.
        path: the local file; None for random weights.
        preprocess: the publisher's preprocess config.
        quick_gelu: True where the publisher says so.
        published: whether the weights came from a tag or the hub.
    """

    source: str
    path: Path | None = None
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    quick_gelu: bool = False
    published: bool = False


def find_weights(spec: ModelSpec | None, checkpoint: str | Path | None) -> Weights:
    """Find, and where needed download, the weights of a model.

    Args:
        spec: the architecture; None when the file itself is expected to tell.
        checkpoint: a local file, an open_clip tag of the architecture, or None for the hub's own
            weights of a hub model and random weights of any other.

    Raises:
        InputError: there is no such tag or file, or the download failed.
    """
    if checkpoint is None:
        if spec is not None and spec.name.startswith(HUB_PREFIX):
            return _from_hub(spec.name)
        return Weights("random")
    if spec is not None and spec.built_in and _is_tag(spec.name, str(checkpoint)):
        return _from_tag(spec.name, str(checkpoint))
    if _is_tag_like(checkpoint):
        raise _unknown(spec, str(checkpoint))
    return Weights(str(checkpoint), Path(checkpoint))


def split_name(checkpoint: str | Path | None) -> tuple[str, str | None] | None:
    """Read architecture and tag from one name: ``RN50/openai`` or ``hf-hub:org/name``."""
    if not isinstance(checkpoint, str):
        return None
    if checkpoint.startswith(HUB_PREFIX):
        return checkpoint, None
    architecture, _, tag = checkpoint.rpartition("/")
    return (architecture, tag) if _is_tag(architecture, tag) else None


def _is_tag(architecture: str, name: str) -> bool:
    return bool(open_clip.is_pretrained_cfg(architecture, name))


def _is_tag_like(checkpoint: str | Path) -> bool:
    if isinstance(checkpoint, Path) or Path(checkpoint).exists():
        return False
    return not (checkpoint.lower().endswith(SUFFIXES) or "/" in checkpoint or os.sep in checkpoint)


def _unknown(spec: ModelSpec | None, checkpoint: str) -> InputError:
    tags = open_clip.list_pretrained_tags_by_model(spec.name) if spec is not None else []
    name = spec.name if spec is not None else "a model"
    known = f"Near it: {nearest(checkpoint, tags)}." if tags else "Check the path."
    return InputError(
        f"Expected a checkpoint file or an open_clip tag of {name}, got {checkpoint!r}. {known}"
    )


def _from_tag(name: str, tag: str) -> Weights:
    published = open_clip.get_pretrained_cfg(name, tag)
    try:
        path = open_clip.download_pretrained(published)
    except (OSError, RuntimeError) as error:
        place = published.get("hf_hub") or published.get("url")
        raise _no_download(f"{name}/{tag}", str(place), error) from error
    return Weights(
        f"{name}/{tag}", Path(path), published, bool(published.get("quick_gelu")), published=True
    )


def _from_hub(name: str) -> Weights:
    try:
        path = download_pretrained_from_hf(name.removeprefix(HUB_PREFIX))
    except (OSError, RuntimeError) as error:
        raise _no_download(name, "the Hugging Face hub", error) from error
    return Weights(name, Path(path), published=True)


def _no_download(what: str, place: str, error: Exception) -> InputError:
    told = str(error).rstrip(".")
    return InputError(
        f"Expected to download {what} from {place}, got: {told}. Fetch the weights elsewhere and "
        "pass them as a local checkpoint file."
    )
