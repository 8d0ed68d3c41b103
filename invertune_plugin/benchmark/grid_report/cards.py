"""Cards of the methods in a grid: what each is, whose, what it needs, and its settings.

What an attack is stands in the first lines of its file in ``configs/victims``, what a defence is in
the docstring of its module.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterable
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from typing import Any

from invertune_plugin.adapters.backdoorbox.defenses.recipe import DEFENSES
from invertune_plugin.benchmark.bench.defenses import in_toolbox, purifier_in
from invertune_plugin.benchmark.experiment.recipe import recipe_path
from invertune_plugin.benchmark.experiment.victims import GROUP, shipped_victims
from invertune_plugin.benchmark.grid.claims import Claim
from invertune_plugin.benchmark.grid_report.contents import Contents
from invertune_plugin.defenses.baselines.registry import BASELINES
from invertune_plugin.defenses.purifiers import PURIFIERS

NEEDS = {
    "pairs": "clean image-caption pairs",
    "images": "clean images, without labels",
    "labels": "clean images with labels",
}
CLEAN_MODEL = "No attack: the clean model itself. Its ASR is the floor of any repair."
TOOLBOX_CARD = "{} of BackdoorBox itself, run through this package's adapter: docs/backdoorbox.md."
TRAINING_SET = "the images that the suspect was trained with"
TRAINING_PAIRS = "the pairs that the suspect was trained with, and the model that it was made of"
UNKNOWN = "This package does not describe it; it comes with the grid."


@dataclass(frozen=True)
class Card:
    """One method.

    Attributes:
        name: as in the grid.
        about: what it is, and whose; paragraphs.
        needs: what a defence needs of the defender; "" for an attack.
        settings: in this grid, as JSON, one text for each that occurs; defaults are not told.
        defaults: settings of a defence where nothing else is said, as JSON.
    """

    name: str
    about: tuple[str, ...]
    needs: str = ""
    settings: tuple[str, ...] = ()
    defaults: str = ""


def attack_cards(contents: Contents, names: Iterable[str]) -> list[Card]:
    """Cards of attacks."""
    victims = [c for c in contents.claims.values() if "defense" not in c.about.names]
    claims = [claim for claim in victims if "made_of" in claim.about.settings]
    return [_attack_card(name, claims) for name in names]


def defense_cards(contents: Contents, names: Iterable[str]) -> list[Card]:
    """Cards of defences."""
    claims = [claim for seeds in contents.cells.values() for claim in seeds.values()]
    return [_defense_card(name, claims) for name in names]


def shipped_about(name: str) -> str:
    """What a shipped attack is: the comment that its file begins with."""
    lines = recipe_path(name, GROUP).read_text(encoding="utf-8").splitlines()
    told = []
    for line in lines:
        if not line.startswith("#"):
            break
        told.append(line.lstrip("# "))
    return " ".join(told)


def _attack_card(name: str, claims: list[Claim]) -> Card:
    mine = [c for c in claims if c.about.names.get("attack") == name]
    shipped = all(c.about.settings.get("given", {}).get("shipped", True) for c in mine)
    about = UNKNOWN
    if name == "none":
        about = CLEAN_MODEL
    elif shipped and name in shipped_victims():
        about = shipped_about(name)
    return Card(name, (about,), settings=_told(c.about.settings["made_of"] for c in mine))


def _defense_card(name: str, claims: list[Claim]) -> Card:
    mine = [c for c in claims if c.about.names.get("defense") == name]
    settings = _told(c.about.settings.get("options") for c in mine)
    if (toolbox := in_toolbox(name)) is not None:
        reads = DEFENSES[toolbox].reads_training
        return Card(name, (TOOLBOX_CARD.format(toolbox),), TRAINING_SET if reads else "", settings)
    if (purifier := purifier_in(name)) is not None:
        kind = PURIFIERS[purifier]
        defaults = _defaults(kind.config)
        return Card(name, _about(kind.run), TRAINING_PAIRS, settings, defaults)
    if name not in BASELINES:
        return Card(name, (UNKNOWN,), settings=settings)
    baseline = BASELINES[name]
    needs = ", ".join(NEEDS[need] for need in baseline.needs) or "nothing"
    return Card(name, _about(baseline.run), needs, settings, _defaults(baseline.config))


def _defaults(config: type[Any]) -> str:
    """Fields of a config class that have defaults, with these."""
    known: dict[str, Any] = {}
    for field in fields(config):
        if field.default is not MISSING:
            known[field.name] = field.default
        elif field.default_factory is not MISSING:
            known[field.name] = field.default_factory()
    return _json({name: _plain(value) for name, value in known.items()})


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _about(run: Callable[..., Any]) -> tuple[str, ...]:
    """What a method is: the paragraphs of the docstring of its module."""
    about = inspect.getdoc(inspect.getmodule(run)) or UNKNOWN
    return tuple(" ".join(part.split()) for part in about.split("\n\n"))


def _told(values: Iterable[Any]) -> tuple[str, ...]:
    """Different settings as JSON, those that say nothing left out."""
    return tuple(dict.fromkeys(_json(value) for value in values if value))


def _json(value: Any) -> str:
    return "" if value == {} else json.dumps(value, indent=1, ensure_ascii=False)
