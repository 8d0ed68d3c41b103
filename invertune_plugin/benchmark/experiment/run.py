"""Run a recipe: clean model, victim, repair of both, honest numbers before and after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from invertune_plugin.attacks.backdoors import Backdoor
from invertune_plugin.benchmark.experiment.measuring import Measured, measure_all
from invertune_plugin.benchmark.experiment.models import Progress
from invertune_plugin.benchmark.experiment.rebound import fine_tuned
from invertune_plugin.benchmark.experiment.recipe import Recipe
from invertune_plugin.benchmark.experiment.sources import TestSet
from invertune_plugin.benchmark.experiment.victims import build_victim, poisoned_rate
from invertune_plugin.benchmark.judgement import HIGHER, LOWER, BeforeAfter, judged
from invertune_plugin.benchmark.record import rate_fields
from invertune_plugin.defenses.invertune import Repair, repair_classifier
from invertune_plugin.metrics import Rate
from invertune_plugin.passes import bare_seconds
from invertune_plugin.processes import ALONE, Processes
from invertune_plugin.zero_shot import ZeroShotClassifier

Say = Callable[[str], None]


@dataclass
class Experiment:
    """All that came out of one recipe and seed.

    Attributes:
        recipe: what was run.
        seed: of attack and defence.
        backdoors: the attacker's triggers and targets, the recipe's own first; of several the one
            that works best is the attack success.
        poisoned_rate: share of the attacker's pairs that carry a trigger.
        tests: evaluation sets, the main one first.
        models: classifiers by role: ``clean``, ``victim``, ``repaired`` and, where benign
            fine-tuning was asked for, ``rebound`` and ``rebound-without-target`` (of the repaired
            model) and ``victim-rebound``.
        repair: InverTune on the victim.
        clean_repair: InverTune on the clean model, the check for false alarms.
        measured: by role and test set.
    """

    recipe: Recipe
    seed: int
    backdoors: tuple[Backdoor[str], ...]
    poisoned_rate: float
    tests: list[TestSet]
    models: dict[str, ZeroShotClassifier]
    repair: Repair
    clean_repair: Repair
    measured: dict[tuple[str, str], Measured] = field(default_factory=dict)

    @property
    def backdoor(self) -> Backdoor[str]:
        """The recipe's own trigger and target."""
        return self.backdoors[0]

    def compared(self) -> list[BeforeAfter]:
        """CA and ASR on each test set."""
        return [
            BeforeAfter(
                f"{metric} on {test.name}",
                clean=self._of(metric, "clean", test),
                before=self._of(metric, "victim", test),
                after=self._of(metric, "repaired", test),
                rebound=self._of(metric, "rebound", test),
                better=HIGHER if metric == "CA" else LOWER,
            )
            for test in self.tests
            for metric in ("CA", "ASR")
        ]

    def _of(self, metric: str, role: str, test: TestSet) -> Rate | None:
        found = self.rate(role, test)
        return None if found is None else found.ca if metric == "CA" else found.asr

    def rows(self) -> list[dict[str, Any]]:
        """Flat result rows: the repaired victim per test set, the bare victim, the clean model."""
        done = self._repair_fields(self.repair, self.models["victim"])
        done["outcome"] = judged(self.repair, self.compared()).outcome.value
        rows = [self._row(test, "invertune", "repaired", "rebound") | done for test in self.tests]
        rows += [self._row(test, "none", "victim", "victim-rebound") for test in self.tests]
        rows.append(self._clean_row())
        return rows

    def rate(self, role: str, test: TestSet) -> Measured | None:
        """What was measured of a model; None where it does not exist or was not measured."""
        return self.measured.get((role, test.name))

    def _row(self, test: TestSet, defense: str, role: str, rebound: str) -> dict[str, Any]:
        clean, before = self.measured["clean", test.name], self.measured["victim", test.name]
        after = self.rate(role, test)
        row = self._named(test.name, self.backdoor.trigger.fingerprint(), defense)
        row |= rate_fields("ca_clean", clean.ca) | rate_fields("asr_clean", clean.asr)
        row |= rate_fields("ca_before", before.ca) | rate_fields("asr_before", before.asr)
        if after is not None:
            row |= rate_fields("ca_after", after.ca) | rate_fields("asr_after", after.asr)
        for name, stressed in (("", rebound), ("_without_target", f"{rebound}-without-target")):
            if (again := self.rate(stressed, test)) is not None:
                row |= rate_fields(f"asr_rebound{name}", again.asr)
                row |= rate_fields(f"ca_rebound{name}", again.ca)
        return row

    def _clean_row(self) -> dict[str, Any]:
        main = self.tests[0]
        row = self._named(main.name, "none", "invertune")
        row |= rate_fields("ca_before", self.measured["clean", main.name].ca)
        row |= self._repair_fields(self.clean_repair, self.models["clean"])
        row["false_alarm"] = self.clean_repair.found_label is not None
        return row

    def _named(self, data: str, attack: str, defense: str) -> dict[str, Any]:
        recipe = self.recipe
        return {
            "recipe": recipe.name,
            "attack": attack,
            "tower": recipe.model,
            "data": data,
            "defense": defense,
            "seed": self.seed,
            "clean_seed": recipe.seed_of_clean(self.seed),
            "poisoned_rate": round(self.poisoned_rate, 5) if attack != "none" else 0.0,
            "target": recipe.attack.target if attack != "none" else None,
        }

    def _repair_fields(self, repair: Repair, model: ZeroShotClassifier) -> dict[str, Any]:
        label = repair.found_label
        fields: dict[str, Any] = {
            "variant": self.recipe.defence.target.variant,
            "outcome": repair.outcome.value,
            "found_target": None if label is None else model.class_names[label],
            "reason": repair.stages[-1].reason,
        }
        if repair.target is not None:
            fields["cost_ratio"] = repair.target.stage.evidence.get("ratio")
        if repair.inversions:
            fields["inverted_asr"] = round(repair.inversions[-1].asr, 5)
            fields["inverted_area"] = round(repair.inversions[-1].area, 5)
            fields["area_ratio"] = repair.stages[1].evidence.get("area_ratio")
        bare = {
            name: bare_seconds(model.visual, work, model.image_size, repeats=5)
            for name, work in repair.work.items()
        }
        for stage in repair.stages:
            fields[f"seconds_{stage.name}"] = round(stage.seconds, 3)
            fields[f"bare_seconds_{stage.name}"] = round(bare[stage.name], 3)
            fields[f"passes_{stage.name}"] = stage.passes
        fields["seconds"] = round(sum(stage.seconds for stage in repair.stages), 3)
        fields["bare_seconds"] = round(sum(bare.values()), 3)
        fields["passes"] = sum(stage.passes for stage in repair.stages)
        return fields


def run_recipe(
    recipe: Recipe,
    seed: int,
    progress: Progress,
    say: Say,
    processes: Processes = ALONE,
) -> Experiment:
    """Run a recipe for one seed.

    Args:
        recipe: what to run.
        seed: of attack, defence and, where the recipe does not fix it, the clean model.
        progress: makes a progress report for a training.
        say: takes sentences about what goes on.
        processes: that train and repair together; the main one measures.
    """
    built = build_victim(recipe, seed, progress, processes)
    sources, backdoors = built.sources, built.victim.backdoors
    models = {
        "clean": built.classifier(built.clean, processes),
        "victim": built.classifier(built.victim.loaded, processes),
    }
    images = sources.images("defence")
    say("Repair of the victim")
    repair = repair_classifier(models["victim"], images, recipe.defence, seed, say, processes)
    say("The same on the clean model, to see whether it raises a false alarm")
    clean_repair = repair_classifier(models["clean"], images, recipe.defence, seed, say, processes)
    if repair.classifier is not None:
        models["repaired"] = repair.classifier
    if recipe.rebound_steps:
        for role, source in (("rebound", "repaired"), ("victim-rebound", "victim")):
            if source in models:
                for name, without in ((role, False), (f"{role}-without-target", True)):
                    report = progress(f"benign fine-tuning, {name}")
                    models[name] = fine_tuned(
                        models[source],
                        recipe,
                        sources,
                        seed,
                        without_target=without,
                        report=report,
                        processes=processes,
                    )
    pairs = sources.pairs("attack")
    rate = poisoned_rate(recipe.attack, backdoors, pairs, sources.templates, seed)
    tests = sources.tests()
    found = Experiment(recipe, seed, backdoors, rate, tests, models, repair, clean_repair)
    for test in found.tests if processes.is_main else ():
        for role, model in models.items():
            found.measured[role, test.name] = measure_all(model, test, backdoors)
    return found
