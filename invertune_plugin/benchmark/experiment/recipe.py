"""A recipe: data, clean model, attack and defence of one experiment, as one YAML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from invertune_plugin.attacks.attack import AttackConfig
from invertune_plugin.config import nearest, parse, read_yaml
from invertune_plugin.defenses.invertune import InverTuneConfig
from invertune_plugin.errors import InputError
from invertune_plugin.training import TrainingConfig

MODEL_CONFIG = ".json"


@dataclass(frozen=True)
class DataConfig:
    """Where the images come from, and how they are shared out.

    Attributes:
        source: ``shapes`` (drawn) or ``real`` (Tiny-ImageNet and Flickr8k in ``INVERTUNE_DATA``).
        clean: scenes, or share of the training images, that train the clean model.
        attack: scenes, or share, of the attacker.
        defence: scenes, or share, of the defender.
        rebound: scenes, or share, of the benign fine-tuning after a repair.
        test: scenes, or most images per test set.
    """

    source: str = "shapes"
    clean: float = 30000
    attack: float = 6000
    defence: float = 1000
    rebound: float = 6000
    test: int = 2000


@dataclass(frozen=True)
class Recipe:
    """One experiment.

    Attributes:
        name: of the recipe.
        model: name of a model config of this package, an open_clip architecture, or a model config
            of one's own (``.json``), which may lie beside the recipe.
        data: images.
        clean: training of the clean model.
        attack: how the victim is made.
        defence: settings of InverTune.
        rebound_steps: benign contrastive steps after the repair, at a fifth of the victim's peak
            learning rate; 0 for none.
        clean_seed: one clean model for all seeds; None trains one per seed.
    """

    name: str
    model: str
    data: DataConfig
    clean: TrainingConfig
    attack: AttackConfig
    defence: InverTuneConfig = field(default_factory=InverTuneConfig)
    rebound_steps: int = 0
    clean_seed: int | None = None

    def seed_of_clean(self, seed: int) -> int:
        """The seed of the clean model where attack and defence have ``seed``."""
        return seed if self.clean_seed is None else self.clean_seed


def shipped_recipes(group: str = "") -> list[str]:
    """Names of the recipes that come with the package, in ``configs/`` or a folder there."""
    folder = files("invertune_plugin.configs").joinpath(group)
    return sorted(
        Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml")
    )


def is_yaml(name: str | Path) -> bool:
    """Whether a name is that of a file, and not of something that comes with the package."""
    return Path(name).suffix in {".yaml", ".yml"}


def model_config(name: str) -> str:
    """Path of a model config that comes with the package, or the name itself."""
    shipped = Path(str(files("invertune_plugin.configs").joinpath(f"{name}.json")))
    return str(shipped) if shipped.is_file() else name


def load_recipe(name: str | Path) -> Recipe:
    """Read a recipe by the name of a shipped one or by path.

    Raises:
        InputError: there is no such recipe, or it holds a mistake.
    """
    return parse(Recipe, recipe_settings(name))


def recipe_settings(name: str | Path) -> dict[str, Any]:
    """A recipe as it stands in its file; where its model is a file, with the full path of that.

    Raises:
        InputError: there is no such recipe, or it is no YAML mapping.
    """
    path = recipe_path(name)
    raw = read_yaml(path)
    model = Path(str(raw.get("model")))
    if model.suffix == MODEL_CONFIG:
        found = model if model.exists() else path.parent / model
        raw["model"] = str(found.resolve())
    return raw


def recipe_path(name: str | Path, group: str = "", kind: str = "recipe") -> Path:
    """Path of a recipe that comes with the package, or the path that is given.

    Args:
        name: of a shipped recipe, or a path that ends in ``.yaml``.
        group: folder in ``configs/``.
        kind: what to call it in a message.

    Raises:
        InputError: no such recipe is shipped.
    """
    if is_yaml(name):
        return Path(name)
    shipped = shipped_recipes(group)
    if str(name) not in shipped:
        raise InputError(
            f"Expected a {kind} that comes with the package or the path of a .yaml file, got "
            f"{str(name)!r}. {nearest(str(name), shipped)}"
        )
    return Path(str(files("invertune_plugin.configs").joinpath(group).joinpath(f"{name}.yaml")))
