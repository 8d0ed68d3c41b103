"""What goes onto the report page of a user's repair and of a whole experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from invertune_plugin.benchmark.experiment.run import Experiment
from invertune_plugin.benchmark.experiment.suspect import Attack, Suspect
from invertune_plugin.benchmark.judgement import BeforeAfter
from invertune_plugin.benchmark.report.page import ReportPage
from invertune_plugin.benchmark.report.pixels import Examples, read_examples
from invertune_plugin.data import ImageSet, texts_of
from invertune_plugin.defenses.invertune import Repair
from invertune_plugin.zero_shot import ZeroShotClassifier

EXAMPLES = 8


def repair_page(
    suspect: Suspect,
    images: ImageSet,
    test: ImageSet | None,
    attack: Attack | None,
    repair: Repair,
    measured: Sequence[BeforeAfter],
    record: Mapping[str, Any],
) -> ReportPage:
    """The page of ``invertune repair``."""
    loaded, classifier = suspect.loaded, suspect.classifier
    return ReportPage(
        title=f"Repair of {loaded.architecture}",
        repair=repair,
        before_after=measured,
        true_trigger=attack.trigger if attack else None,
        true_target=classifier.class_names[attack.label] if attack else None,
        image_size=(classifier.image_size, classifier.image_size),
        examples=_examples(classifier, repair, images if test is None else test, attack),
        examples_from="Images of the defender" if test is None else "Test images",
        facts={
            "checkpoint": loaded.source,
            "sha256 of the checkpoint": loaded.source_sha256 or "none: from a hub",
            "architecture": loaded.architecture,
            "clean images": f"{len(images):,}",
            "classes": f"{len(classifier.class_names):,}",
            "seed": str(record["rows"][0]["seed"]),
            **{f"version of {name}": number for name, number in record["versions"].items()},
        },
        record=record,
    )


def experiment_page(found: Experiment, record: Mapping[str, Any]) -> ReportPage:
    """The page of ``invertune run``."""
    recipe = found.recipe
    victim, main = found.models["victim"], found.tests[0]
    attack = Attack(found.backdoor.trigger, victim.class_index(found.backdoor.target))
    return ReportPage(
        title=f"InverTune on the recipe “{recipe.name}”, seed {found.seed}",
        repair=found.repair,
        before_after=found.compared(),
        true_trigger=attack.trigger,
        true_target=recipe.attack.target,
        image_size=(victim.image_size, victim.image_size),
        examples=_examples(victim, found.repair, main.images, attack),
        clean_repair=found.clean_repair,
        facts={
            "model": recipe.model,
            "poisoned rate": f"{record['rows'][0]['poisoned_rate']:.2%}",
            "trigger": str(attack.trigger.parameters()),
            "classes": f"{len(victim.class_names):,}",
            "processor": f"{record['machine']['cpu']}, {record['machine']['cores']} cores",
            **{f"version of {name}": number for name, number in record["versions"].items()},
        },
        record=record,
    )


def _examples(
    suspect: ZeroShotClassifier, repair: Repair, images: ImageSet, attack: Attack | None
) -> Examples | None:
    """Some images of other classes with the attacker's trigger, else with the inverted one."""
    if attack is not None:
        trigger, label = attack.trigger, attack.label
    elif repair.inversions:
        trigger, label = repair.inversions[-1].trigger, repair.inversions[-1].label
    else:
        return None
    others = [i for i, own in enumerate(texts_of(images)) if own != label][:EXAMPLES]
    if not others:
        return None
    pixels = torch.stack([images[i][0] for i in others])
    return read_examples(
        suspect,
        repair.classifier,
        pixels,
        trigger,
        attackers=attack is not None,
        target=suspect.class_names[label],
    )
