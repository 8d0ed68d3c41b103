"""Model configs small enough to build and run in milliseconds."""

from __future__ import annotations

from typing import Any


def rn_config() -> dict[str, Any]:
    """A ModifiedResNet CLIP for 32-pixel images."""
    return {
        "embed_dim": 16,
        "vision_cfg": {"layers": [1, 1, 1, 1], "width": 8, "head_width": 64, "image_size": 32},
        "text_cfg": _text_config(),
    }


def vit_config() -> dict[str, Any]:
    """A vision transformer CLIP for 32-pixel images."""
    vision = {"layers": 1, "width": 16, "head_width": 8, "patch_size": 8, "image_size": 32}
    return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": _text_config()}


def _text_config() -> dict[str, Any]:
    return {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
