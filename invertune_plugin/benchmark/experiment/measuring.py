"""Clean accuracy and attack success of a model on a test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from invertune_plugin.attacks.backdoors import Backdoor
from invertune_plugin.benchmark.experiment.sources import TestSet
from invertune_plugin.metrics import Rate, attack_success_rate, clean_accuracy
from invertune_plugin.zero_shot import ZeroShotClassifier


@dataclass(frozen=True)
class Measured:
    """Clean accuracy and attack success of one model on one test set."""

    ca: Rate
    asr: Rate


def measure_all(
    model: ZeroShotClassifier, test: TestSet, backdoors: Sequence[Backdoor[str]]
) -> Measured:
    """The same with several triggers: the attack success is that of the one that works best."""
    found = [measure(model, test, backdoor) for backdoor in backdoors]
    return Measured(found[0].ca, best([each.asr for each in found]))


def best(rates: Sequence[Rate]) -> Rate:
    """The highest of rates."""
    return max(rates, key=lambda rate: rate.value)


def measure(model: ZeroShotClassifier, test: TestSet, backdoor: Backdoor[str]) -> Measured:
    """CA over the classes of a test set, and ASR over these classes and the target word."""
    names = list(test.class_names)
    classifier = model if names == model.class_names else model.with_classes(names)
    ca = clean_accuracy(classifier, test.images)
    if backdoor.target not in names:
        names.append(backdoor.target)
        classifier = model.with_classes(names)
    target = names.index(backdoor.target)
    return Measured(ca, attack_success_rate(classifier, test.images, backdoor.trigger, target))
