"""Find, invert and remove backdoors in CLIP.

The names below are loaded when they are first used, so that importing the package stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from invertune_plugin.adapters.backdoorbox.loader import load_toolbox
    from invertune_plugin.adapters.backdoorbox.registration import register
    from invertune_plugin.adapters.class_sets import class_names, templates
    from invertune_plugin.adapters.datasets import image_set, pair_set
    from invertune_plugin.adapters.open_clip import load_clip, save_clip, zero_shot_classifier
    from invertune_plugin.defenses.invertune import InverTune, InverTuneConfig
    from invertune_plugin.errors import InputError
    from invertune_plugin.metrics import attack_success_rate, clean_accuracy
    from invertune_plugin.outcome import Outcome
    from invertune_plugin.triggers import Blend, Patch, Sinusoid
    from invertune_plugin.zero_shot import ZeroShotClassifier

__version__ = "0.1.0"
__all__ = [
    "Blend",
    "InputError",
    "InverTune",
    "InverTuneConfig",
    "Outcome",
    "Patch",
    "Sinusoid",
    "ZeroShotClassifier",
    "attack_success_rate",
    "class_names",
    "clean_accuracy",
    "image_set",
    "load_clip",
    "load_toolbox",
    "pair_set",
    "register",
    "save_clip",
    "templates",
    "zero_shot_classifier",
]

_HOMES = {
    "adapters.backdoorbox.loader": ("load_toolbox",),
    "adapters.backdoorbox.registration": ("register",),
    "adapters.class_sets": ("class_names", "templates"),
    "adapters.datasets": ("image_set", "pair_set"),
    "adapters.open_clip": ("load_clip", "save_clip", "zero_shot_classifier"),
    "defenses.invertune": ("InverTune", "InverTuneConfig"),
    "errors": ("InputError",),
    "metrics": ("attack_success_rate", "clean_accuracy"),
    "outcome": ("Outcome",),
    "triggers": ("Blend", "Patch", "Sinusoid"),
    "zero_shot": ("ZeroShotClassifier",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME_OF[name]}"), name)
