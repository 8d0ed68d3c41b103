"""A comparison inside BackdoorBox, models x attacks x defences, as one YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from invertune_plugin.adapters.backdoorbox.attacks.recipe import attack_recipe
from invertune_plugin.adapters.backdoorbox.defenses.recipe import check_options
from invertune_plugin.adapters.backdoorbox.training import ToolboxTraining
from invertune_plugin.benchmark.experiment.recipe import recipe_path
from invertune_plugin.config import parse, read_yaml
from invertune_plugin.errors import InputError

Options = Mapping[str, Any]

GROUP = "toolbox"
"""Folder in ``configs/`` that holds the shipped comparisons."""


@dataclass(frozen=True)
class Amounts:
    """Images of each part; no image serves two of them.

    Attributes:
        train: of the attacker.
        clean: of the defender.
        test: of the evaluation.
    """

    train: int = 2000
    clean: int = 500
    test: int = 1000


@dataclass(frozen=True)
class ModelSpec:
    """A clean model that attacks start from, and how they train it.

    Attributes:
        recipe: recipe whose clean CLIP is taken, as a staged zero-shot classifier.
        resnet: instead of it, the toolbox's ResNet with so many layers.
        benign: training of the ResNet before any attack.
        benign_images: for it; none of them serves attacker, defender or evaluation.
        clean_seed: one clean ResNet for all seeds; None trains one per seed. A CLIP's recipe has
            its own.
        bfloat16: whether the ResNet's convolutions compute in bfloat16 once it is attacked.
        training: training with poisoned data.
    """

    recipe: str | None = None
    resnet: int | None = None
    benign: ToolboxTraining = field(default_factory=ToolboxTraining)
    benign_images: int = 8000
    clean_seed: int | None = None
    bfloat16: bool = False
    training: ToolboxTraining = field(default_factory=ToolboxTraining)

    def __post_init__(self) -> None:
        """Refuse a model that is both or neither."""
        if (self.recipe is None) == (self.resnet is None):
            raise InputError(
                f"Expected either recipe or resnet for a model, got {self.recipe} and "
                f"{self.resnet}. Set one of them."
            )


@dataclass(frozen=True)
class ToolboxRecipe:
    """One comparison.

    Attributes:
        name: of the recipe.
        models: by name.
        attacks: options by name of the attack; ``rate`` among them replaces that of the recipe.
        defenses: options by name of the defence.
        target: class that the attacks lead to.
        rate: poisoned share of the training images, of those of the target class for clean-label
            attacks.
        data: amounts of images.
        scenes: recipe whose data source and classes are used.
        repair: training of the defences that train.
    """

    name: str
    models: Mapping[str, ModelSpec]
    attacks: Mapping[str, Options]
    defenses: Mapping[str, Options]
    target: str
    rate: float = 0.1
    data: Amounts = field(default_factory=Amounts)
    scenes: str = "demo"
    repair: ToolboxTraining = field(default_factory=ToolboxTraining)

    def __post_init__(self) -> None:
        """Refuse attacks, defences and options of them that are unknown."""
        for name, options in self.attacks.items():
            attack_recipe(name, options)
        for name, options in self.defenses.items():
            check_options(name, options)


def load_toolbox_recipe(name: str | Path) -> ToolboxRecipe:
    """Read a comparison by the name of a shipped one or by path.

    Raises:
        InputError: there is no such recipe, or it holds a mistake.
    """
    return parse(ToolboxRecipe, read_yaml(recipe_path(name, GROUP, "comparison")))
