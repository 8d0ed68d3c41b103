"""Which GELU a checkpoint was trained with; the weights alone do not tell."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import open_clip

from invertune_plugin.adapters.key_layouts import OPENAI_KEYS
from invertune_plugin.adapters.model_configs import ModelSpec
from invertune_plugin.adapters.weights import Weights


def uses_quick_gelu(
    spec: ModelSpec, weights: Weights, card: Mapping[str, Any], keys: Iterable[str]
) -> bool:
    """Decide between QuickGELU and GELU; the best evidence wins.

    In this order: the checkpoint's card, an explicit entry of the model config, what the publisher
    says, the keys that only OpenAI's own files have, and last what published weights of the same
    architecture use. A guess of the last kind warns.

    Args:
        spec: the architecture.
        weights: where the weights came from.
        card: the checkpoint's card, maybe empty.
        keys: names in the state dict.
    """
    if isinstance(card.get("quick_gelu"), bool):
        return bool(card["quick_gelu"])
    if "quick_gelu" in spec.config:
        return bool(spec.config["quick_gelu"])
    if weights.published or weights.path is None or not spec.built_in:
        return weights.quick_gelu or not OPENAI_KEYS.isdisjoint(keys)
    if not OPENAI_KEYS.isdisjoint(keys):
        return True
    return _as_published(spec.name, weights.source)


def _as_published(name: str, source: str) -> bool:
    tags = open_clip.list_pretrained_tags_by_model(name)
    used = {bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu")) for tag in tags}
    if True not in used:
        return False
    guess = used == {True}
    kind = "QuickGELU" if guess else "GELU"
    why = f"{'all' if guess else 'some'} published {name} weights {'do' if guess else 'do not'}"
    warnings.warn(
        f"{source} does not say which activation it was trained with; taking {kind}, as {why}. "
        f"Pass quick_gelu={not guess} if that is wrong: accuracy falls without any other sign.",
        UserWarning,
        stacklevel=4,
    )
    return guess
