"""How worker processes that start afresh (spawn, forkserver) come by the toolbox.

Such a process knows nothing of its parent's finder, but gets its ``sys.path``. Two entries are
added to it: a folder of ours with a module ``core``, and the description of the loaded toolbox in a
form that every path lookup passes over.
"""

from __future__ import annotations

import base64
import json
import sys
from pathlib import Path

import torch

from invertune_plugin.adapters.backdoorbox.finder import Toolbox
from invertune_plugin.adapters.backdoorbox.locate import Clone

FOLDER = Path(__file__).parent.resolve() / "worker"
_PREFIX = "invertune-toolbox-"


def open_door(toolbox: Toolbox) -> None:
    """Let workers that are started from now on find the toolbox."""
    close_door()
    clone = toolbox.clone
    told = [str(clone.path), clone.commit, clone.dirty, str(toolbox.device), [*toolbox.disabled]]
    packed = base64.urlsafe_b64encode(json.dumps(told).encode()).decode()
    before = [i for i, entry in enumerate(sys.path) if Path(entry).resolve() == clone.path]
    place = before[0] if before else len(sys.path)
    sys.path[place:place] = [str(FOLDER), _PREFIX + packed]


def close_door() -> None:
    """Take back the entries."""
    sys.path[:] = [e for e in sys.path if e != str(FOLDER) and not e.startswith(_PREFIX)]


def toolbox_behind_door() -> Toolbox | None:
    """What the parent process had loaded, if anything."""
    for entry in sys.path:
        if entry.startswith(_PREFIX):
            packed = base64.urlsafe_b64decode(entry.removeprefix(_PREFIX))
            path, commit, dirty, device, disabled = json.loads(packed)
            clone = Clone(Path(path), commit, dirty)
            return Toolbox(clone, torch.device(device), frozenset(disabled), quiet=True)
    return None
