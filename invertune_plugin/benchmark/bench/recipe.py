"""A grid of attacks x defences on CLIP, as one YAML file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from invertune_plugin.benchmark.bench.defenses import check_defense
from invertune_plugin.benchmark.bench.settings import settings_of_victim
from invertune_plugin.benchmark.experiment.recipe import is_yaml, recipe_path
from invertune_plugin.benchmark.experiment.sources import Metric
from invertune_plugin.benchmark.experiment.victims import CLEAN
from invertune_plugin.config import parse, read_yaml
from invertune_plugin.errors import InputError
from invertune_plugin.randomness import check_seed

GROUP = "bench"


@dataclass(frozen=True)
class BenchRecipe:
    """One grid.

    Attributes:
        name: of the grid.
        recipes: that give data, clean model and the training of the attacks.
        attacks: names or YAML files of victims; ``none`` is the clean model itself.
        defenses: options by name of the defence.
        seeds: of attack and defence.
        rebound: benign steps after each repair; 0 for none.
        metrics: what is measured of each model.
    """

    name: str
    recipes: tuple[str, ...]
    attacks: tuple[str, ...]
    defenses: Mapping[str, Mapping[str, Any]]
    seeds: tuple[int, ...] = (0,)
    rebound: int = 0
    metrics: tuple[Metric, ...] = ("classification",)

    def __post_init__(self) -> None:
        """Refuse a grid without cells, seeds that are none, and mistakes in any part."""
        for what in ("recipes", "attacks", "defenses", "seeds", "metrics"):
            if not getattr(self, what):
                raise InputError(f"Expected one or more entries in {what}, got none. Add some.")
        if len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"Expected different seeds, got {list(self.seeds)}. Correct them.")
        for seed in self.seeds:
            check_seed(seed)
        _refuse_same_names("recipes", self.recipes)
        _refuse_same_names("attacks", self.attacks)
        if self.rebound < 0:
            raise InputError(f"Expected rebound of 0 or more benign steps, got {self.rebound}.")
        for name, options in self.defenses.items():
            check_defense(name, options)
        for base in self.recipes:
            for attack in self.attacks:
                settings_of_victim(attack, base, self.seeds[0])


def _refuse_same_names(what: str, entries: Sequence[str]) -> None:
    """Tables call a file by its stem: two of one name, or one called like the clean model, mix."""
    stems = [Path(entry).stem for entry in entries]
    mixed = [e for e, stem in zip(entries, stems, strict=True) if stems.count(stem) > 1]
    mixed += [entry for entry in entries if Path(entry).stem == CLEAN != entry]
    if mixed:
        raise InputError(
            f"Expected {what} of different names, none but the clean model called {CLEAN!r}, got "
            f"{', '.join(dict.fromkeys(mixed))}. Rename files."
        )


def load_bench(name: str | Path) -> BenchRecipe:
    """Read a grid by the name of a shipped one or by path.

    Files that it names are looked up from the current folder, and where they are not there, beside
    the grid.

    Raises:
        InputError: there is no such grid, or it holds a mistake.
    """
    path = recipe_path(name, GROUP, "bench")
    settings = read_yaml(path)
    for key in ("recipes", "attacks"):
        if isinstance(settings.get(key), list):
            settings[key] = [_beside(path, entry) for entry in settings[key]]
    return parse(BenchRecipe, settings)


def _beside(grid: Path, entry: Any) -> Any:
    """A file that a grid names, where it is beside the grid and not in the current folder."""
    if not is_yaml(str(entry)) or Path(entry).exists():
        return entry
    beside = grid.parent / entry
    return str(beside) if beside.exists() else entry
