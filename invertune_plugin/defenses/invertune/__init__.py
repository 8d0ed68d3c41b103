"""InverTune: find the target label, invert the trigger, tune the units it drives (NDSS 2026)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from invertune_plugin.config import named, parse
from invertune_plugin.data import ImageSet
from invertune_plugin.defenses.base import Defense, Schedule
from invertune_plugin.defenses.invertune.pipeline import (
    InverTuneConfig,
    Repair,
    Report,
    repair_classifier,
)
from invertune_plugin.errors import InputError
from invertune_plugin.metrics import Rate, attack_success_rate, clean_accuracy
from invertune_plugin.processes import ALONE, Processes
from invertune_plugin.triggers import Trigger

__all__ = ["InverTune", "InverTuneConfig", "Repair", "repair_classifier"]


class InverTune(Defense):
    """Repairs a CLIP with a backdoor; needs neither target, trigger nor poisoned data.

    Args:
        train_dataset: a few clean images; labels are not needed.
        test_dataset: labelled clean images for ``test``.
        model: the suspect, a ``ZeroShotClassifier``, or any classifier behind
            ``adapters.backdoorbox.classifiers.as_suspect``; it is not changed.
        schedule: see ``test``; ``repair`` needs none.
        seed: of all steps.
        deterministic: ask torch for deterministic algorithms.
        config: settings of the three steps, as a dataclass or as in YAML.
        report: called with a sentence when a stage begins or ends.
        processes: that repair together.

    Attributes:
        report_: the ``Repair``: stages, candidates, inverted triggers, tuned units.
        target_: index of the target label found, or None.
        trigger_: the inverted trigger that the repair used, or None.

    Raises:
        InputError: model, images or settings are none of these.
    """

    def __init__(
        self,
        train_dataset: ImageSet | None,
        test_dataset: ImageSet | None = None,
        model: Any = None,
        *,
        schedule: Schedule | None = None,
        seed: int = 0,
        deterministic: bool = False,
        config: InverTuneConfig | Mapping[str, Any] | None = None,
        report: Report | None = None,
        processes: Processes = ALONE,
    ) -> None:
        _refuse_other_models(model)
        if not isinstance(config, InverTuneConfig | Mapping | None):
            raise InputError(
                f"Expected an InverTuneConfig or a mapping of settings as config, got {config!r}. "
                "Read a YAML file with read_yaml of invertune_plugin.config."
            )
        for dataset in (train_dataset, test_dataset):
            _refuse_other_data(dataset)
        super().__init__(seed=seed, deterministic=deterministic, schedule=schedule)
        self.train_dataset = train_dataset
        self.test_dataset = test_dataset
        self.model = model
        self.config = parse(InverTuneConfig, config) if isinstance(config, Mapping) else config
        self.report = report
        self.processes = processes

    def repair(self, schedule: Schedule | None = None) -> Repair:
        """Run the three steps; ``get_model`` gives the repaired copy afterwards.

        Raises:
            InputError: no clean images were given, or too few.
        """
        if self.train_dataset is None:
            raise InputError(
                "Expected clean images, got none. Give InverTune some as train_dataset."
            )
        config = self.config or InverTuneConfig()
        with self.seeded():
            found = repair_classifier(
                self.model, self.train_dataset, config, self.seed, self.report, self.processes
            )
        self.report_ = found
        self.target_ = found.found_label
        self.trigger_ = found.inversions[-1].trigger if found.tuning else None
        return found

    def test(self, schedule: Schedule | None = None) -> dict[str, Rate]:
        """Clean accuracy and, with the attacker's ``trigger`` and ``target``, the ASR.

        Args:
            schedule: ``trigger`` (a ``Trigger``), ``target`` (name or index of a class) and
                ``batch_size`` (256).

        Raises:
            InputError: no test data set was given, or the schedule cannot be used.
        """
        if self.test_dataset is None:
            raise InputError(
                "Expected a test data set, got none. Give InverTune one as test_dataset."
            )
        settings = dict(schedule or self.schedule or {})
        size, trigger = settings.get("batch_size", 256), settings.get("trigger")
        if size < 1:
            raise InputError(f"Expected a batch_size of 1 or more, got {size}.")
        if trigger is not None and not isinstance(trigger, Trigger):
            raise InputError(
                f"Expected a Trigger as the schedule's trigger, got {trigger!r}. Make one, such as "
                "Patch(size=16), or read a file with load_trigger."
            )
        rates = {"ca": clean_accuracy(self.get_model(), self.test_dataset, size)}
        if (trigger is None) != (settings.get("target") is None):
            raise InputError(
                "Expected trigger and target together in the schedule, got one of them. "
                "Give both for the ASR, or none."
            )
        if trigger is not None:
            target = self._label(settings["target"])
            rates["asr"] = attack_success_rate(
                self.get_model(), self.test_dataset, trigger, target, size
            )
        return rates

    def _label(self, target: str | int) -> int:
        names = list(self.model.class_names)
        if isinstance(target, str):
            named("class as target", target, dict.fromkeys(names))
            return names.index(target)
        count = len(names)
        if not isinstance(target, int) or not 0 <= target < count:
            raise InputError(
                f"Expected the name of a class or its index from 0 to {count - 1} as target, got "
                f"{target!r}."
            )
        return target

    def get_model(self) -> Any:
        """The repaired copy, or the suspect where nothing was repaired."""
        found = getattr(self, "report_", None)
        return self.model if found is None or found.classifier is None else found.classifier


def _refuse_other_models(model: Any) -> None:
    if hasattr(model, "class_names") and hasattr(model, "visual"):
        return
    if isinstance(model, str | Path):
        todo = "Load it with load_clip, and wrap it with zero_shot_classifier."
    elif hasattr(model, "tokenizer"):
        todo = "Wrap it: zero_shot_classifier(loaded, class_names, templates)."
    else:
        todo = (
            "Wrap a CLIP with zero_shot_classifier, any other classifier with as_suspect of "
            "invertune_plugin.adapters.backdoorbox.classifiers."
        )
    raise InputError(
        f"Expected a ZeroShotClassifier as the suspect, got {type(model).__name__}. {todo}"
    )


def _refuse_other_data(dataset: Any) -> None:
    if dataset is not None and not hasattr(dataset, "content_key"):
        raise InputError(
            f"Expected an image set, got {type(dataset).__name__}. Open a path with image_set, and "
            "give a data set of torchvision or BackdoorBox to image_set_of of "
            "invertune_plugin.adapters.backdoorbox.image_sets."
        )
