"""The state of a training between its epochs, in a file that it goes on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from invertune_plugin.files import replacing


def save_state(path: Path | None, done: int, **parts: Any) -> None:
    """Keep the steps done and the state of the parts of a training; nothing without a path."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: part.state_dict() for name, part in parts.items()}
    with replacing(path) as temporary:
        torch.save({"done": done, **state}, temporary)


def load_state(path: Path | None, **parts: Any) -> int:
    """Give the parts the state that was kept; the steps done then, 0 where none was kept."""
    if path is None or not path.exists():
        return 0
    state = torch.load(path, weights_only=True, map_location="cpu")
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return int(state["done"])
