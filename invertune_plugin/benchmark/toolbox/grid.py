"""Every attack on every model, and every defence against it; each row is kept as soon as it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from invertune_plugin.adapters.backdoorbox.attacks.job import Attacked
from invertune_plugin.adapters.backdoorbox.attacks.recipe import run_attack
from invertune_plugin.adapters.backdoorbox.defenses.recipe import (
    DEFENSES,
    Defended,
    Suspicion,
    run_defense,
)
from invertune_plugin.adapters.backdoorbox.evaluator import evaluate
from invertune_plugin.benchmark.experiment.models import Progress
from invertune_plugin.benchmark.record import rate_fields
from invertune_plugin.benchmark.toolbox.models import Arena, build_arena, build_model
from invertune_plugin.benchmark.toolbox.recipe import ToolboxRecipe
from invertune_plugin.metrics import Rate

Key = tuple[str, str, str, int]
Row = dict[str, Any]
Say = Callable[[str], None]


def key_of(row: Row) -> Key:
    """What a row is about: model, attack, defence, seed."""
    return row["tower"], row["attack"], row["defense"], row["seed"]


def run_grid(
    core: ModuleType,
    recipe: ToolboxRecipe,
    seed: int,
    folder: Path,
    done: Collection[Key],
    progress: Progress,
    say: Say,
) -> Iterator[Row]:
    """Run what is not done yet of one seed.

    Args:
        core: the toolbox.
        recipe: the comparison.
        seed: of everything.
        folder: for images, logs and checkpoints.
        done: cells that have a row already.
        progress: makes a progress report for a training.
        say: takes sentences about what goes on.

    Yields:
        One flat row per cell. A cell that fails has ``outcome`` ``failed`` and its ``reason``, one
        that cannot work ``impossible``; the first has numbers after the defence where it gave a
        model, the other none.
    """
    arena = build_arena(recipe, seed, folder / "data")
    for tower, spec in recipe.models.items():
        start: nn.Module | None = None
        for attack in recipe.attacks:
            missing = [d for d in recipe.defenses if (tower, attack, d, seed) not in done]
            if not missing:
                continue
            if start is None:
                start = build_model(core, spec, recipe, seed, progress)
            say(f"{attack} on {tower}, seed {seed}")
            work = folder / "work" / f"{tower}-{attack}-{seed}"
            group = _Group(core, recipe, arena, tower, attack, seed, work)
            yield from group.rows(start, missing, say)


class _Group:
    """The defences against one attack on one model."""

    def __init__(
        self,
        core: ModuleType,
        recipe: ToolboxRecipe,
        arena: Arena,
        tower: str,
        attack: str,
        seed: int,
        work: Path,
    ) -> None:
        self.core = core
        self.recipe = recipe
        self.arena = arena
        self.tower = tower
        self.attack = attack
        self.seed = seed
        self.work = work

        self.options = dict(recipe.attacks[attack])
        self.rate = float(self.options.pop("rate", recipe.rate))

    def rows(self, start: nn.Module, defenses: list[str], say: Say) -> Iterator[Row]:
        spec = self.recipe.models[self.tower]
        try:
            attacked = run_attack(
                self.core,
                self.attack,
                self.arena.attack,
                start,
                target=self.arena.target,
                rate=self.rate,
                seed=self.seed,
                training=spec.training,
                work_dir=self.work,
                options=self.options,
            )
            clean = self._measure(start, attacked)
            before = self._measure(attacked.model, attacked)
        except Exception as error:
            reason = f"the attack failed: {type(error).__name__}: {error}"
            for name in defenses:
                yield self._named(name) | {"outcome": "failed", "reason": reason}
            return
        known = self._rates("clean", clean) | self._rates("before", before)
        known["seconds_attack"] = round(attacked.seconds, 2)
        for name in defenses:
            say(f"  {name}")
            yield self._named(name) | known | self._defended(name, start, attacked, before)

    def _defended(
        self, name: str, start: nn.Module, attacked: Attacked, before: dict[str, Rate]
    ) -> Row:
        suspicion = Suspicion(
            model=attacked.model,
            clean=self.arena.clean,
            test=self.arena.attack.test,
            poisoned_train=attacked.train,
            poisoned_test=attacked.test,
            poisoned_indices=attacked.poisoned_indices,
            class_names=self.arena.attack.class_names,
            image_size=self.arena.attack.image_size,
        )
        options = dict(self.recipe.defenses[name])
        training = self.recipe.repair
        if DEFENSES[name].trains_anew:
            training = self.recipe.models[self.tower].training
            options.setdefault("initial", start)
        begun = time.perf_counter()
        try:
            found = run_defense(
                self.core,
                name,
                suspicion,
                target=self.arena.target,
                seed=self.seed,
                training=training,
                work_dir=self.work / name,
                options=options,
            )
            if found.outcome == "impossible":
                return {"outcome": found.outcome, "reason": found.reason}
            after = before if found.model is attacked.model else self._after(found, attacked)
        except Exception as error:
            spent = round(time.perf_counter() - begun, 2)
            reason = f"{type(error).__name__}: {error}"
            return {"outcome": "failed", "reason": reason, "seconds": spent}
        return self._found(found) | self._rates("after", after)

    def _after(self, found: Defended, attacked: Attacked) -> dict[str, Rate]:
        return {} if found.model is None else self._measure(found.model, attacked)

    def _measure(self, model: nn.Module, attacked: Attacked) -> dict[str, Rate]:
        return evaluate(
            model,
            self.arena.attack.test,
            attacked.test,
            self.arena.target,
            sources=attacked.sources,
        )

    def _named(self, defense: str) -> Row:
        return {
            "recipe": self.recipe.name,
            "attack": self.attack,
            "tower": self.tower,
            "data": self.recipe.scenes,
            "defense": defense,
            "seed": self.seed,
            "poisoned_rate": self.rate,
            "target": self.recipe.target,
        }

    def _found(self, found: Defended) -> Row:
        names = self.arena.attack.class_names
        label = found.found_target
        row: Row = {"outcome": found.outcome, "seconds": round(found.seconds, 2)}
        row |= {"reason": found.reason} if found.reason else {}
        row |= {} if label is None else {"found_target": names[label]}
        row |= rate_fields("tpr", found.tpr) | rate_fields("fpr", found.fpr)
        return row | ({} if found.auroc is None else {"auroc": round(found.auroc, 5)})

    @staticmethod
    def _rates(when: str, rates: dict[str, Rate]) -> Row:
        row: Row = {}
        for name in ("ca", "asr"):
            row |= rate_fields(f"{name}_{when}", rates.get(name))
        return row
