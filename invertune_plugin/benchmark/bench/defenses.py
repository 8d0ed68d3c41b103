"""Defences of a grid by name: repairs, purifiers of the training set, those of BackdoorBox."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from invertune_plugin.adapters.backdoorbox.defenses.recipe import DEFENSES, check_options
from invertune_plugin.adapters.backdoorbox.training import ToolboxTraining
from invertune_plugin.config import nearest, parse
from invertune_plugin.defenses.baselines import BASELINES
from invertune_plugin.defenses.purifiers import PURIFIERS
from invertune_plugin.errors import InputError

PREFIX = "toolbox:"
OURS = ("none", "InverTune")
TOOLBOX = tuple(PREFIX + name for name in DEFENSES if name not in OURS)
"""The toolbox's own defences; its table has ours, too, which stand in the grid anyway."""

PURIFY = "purify:"
PURIFYING = tuple(PURIFY + name for name in PURIFIERS if name != "none")
"""To keep all pairs is the defence ``none``."""


@dataclass(frozen=True)
class ToolboxDefense(ToolboxTraining):
    """A defence of BackdoorBox: its training, with the defaults of our comparisons, and options.

    Read by ``toolbox_defense``, which knows when the rate falls.

    Attributes:
        options: settings of the defence itself; they are called as in the toolbox.
    """

    epochs: int = 10
    lr: float = 0.001
    options: Mapping[str, Any] = field(default_factory=dict)


FALLS_AT = 0.7
"""Share of the epochs after which the rate falls, where no milestones are set."""


def toolbox_defense(settings: Mapping[str, Any], where: str = "") -> ToolboxDefense:
    """The settings of a defence of BackdoorBox in a grid.

    Args:
        settings: fields of ``ToolboxDefense`` by name.
        where: they stand, for errors.

    Raises:
        InputError: a setting is unknown or wrong.
    """
    config = parse(ToolboxDefense, settings, where)
    if "milestones" in settings:
        return config
    return replace(config, milestones=(round(FALLS_AT * config.epochs),))


def in_toolbox(name: str) -> str | None:
    """What the toolbox calls a defence of a grid; None where it is none of the toolbox."""
    return name.removeprefix(PREFIX) if name in TOOLBOX else None


def purifier_in(name: str) -> str | None:
    """The purifier that a defence of a grid is; None where it is none."""
    return name.removeprefix(PURIFY) if name in PURIFYING else None


def check_defense(name: str, settings: Mapping[str, Any]) -> None:
    """Refuse what is no defence, and settings that it does not have.

    Raises:
        InputError: the name is unknown, or a setting unknown or wrong.
    """
    where = f"defenses.{name}"
    if (toolbox := in_toolbox(name)) is not None:
        check_options(toolbox, toolbox_defense(settings, where).options)
    elif (purifier := purifier_in(name)) is not None:
        parse(PURIFIERS[purifier].config, settings, where)
    elif name in BASELINES:
        parse(BASELINES[name].config, settings, where)
    else:
        known = [*BASELINES, *PURIFYING, *TOOLBOX]
        raise InputError(f"Expected a known defence, got {name!r}. {nearest(name, known)}")
