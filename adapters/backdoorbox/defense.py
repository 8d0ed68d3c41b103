"""InverTune in the toolbox's dialect."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from invertune_plugin.adapters.backdoorbox.classifiers import as_suspect
from invertune_plugin.adapters.backdoorbox.evaluator import (
    device_of_model,
    evaluate,
    on_device,
    read,
)
from invertune_plugin.adapters.backdoorbox.given import device_asked_for, given_network
from invertune_plugin.adapters.backdoorbox.image_sets import image_set_of
from invertune_plugin.adapters.backdoorbox.workdir import WorkDir, open_work_dir
from invertune_plugin.class_order import class_names_of
from invertune_plugin.defenses.base import Defense, Schedule
from invertune_plugin.defenses.invertune import InverTune, InverTuneConfig, Repair
from invertune_plugin.defenses.invertune.pipeline import Report
from invertune_plugin.errors import InputError
from invertune_plugin.files import replacing
from invertune_plugin.metrics import Rate
from invertune_plugin.modes import evaluating
from invertune_plugin.zero_shot import ZeroShotClassifier

CHECKPOINT = "ckpt_epoch_1.pth"
METRICS = {"BA": "ca", "ASR": "asr_all", "ASR_NoTarget": "asr"}


class InverTuneDefense(Defense):
    """Repairs a classifier with a backdoor, called like the toolbox's own defences.

    All data sets give images in [0, 1] (or bytes): what normalises belongs into the model. The
    caller's model, data sets, schedules and global random state are never changed.

    Args:
        train_dataset: a few clean images: any data set of the toolbox, or an ``ImageSet``. Labels
            are not needed.
        test_dataset: labelled clean images for ``test``, or None.
        model: the suspect: a ``ZeroShotClassifier``, or any ``nn.Module`` from images to logits.
        loss: accepted as everywhere in the toolbox; InverTune has its own.
        schedule: for calls without one.
        seed: of everything random.
        deterministic: ask torch for deterministic algorithms while it runs.
        config: settings of InverTune.
        class_names: name per class; where omitted the data set's own, or numbers.
        image_size: side of the model's input; that of the first image where omitted.
        mean: channel means that the model wants its input normalised by; None for none.
        std: channel standard deviations of it.
        report: called with a sentence when a stage of a repair begins or ends.

    Attributes:
        report_: the ``Repair``: stages, candidates, inverted triggers, tuned units.
        target_: index of the target label found, or None.
        trigger_: the inverted trigger that the repair used, or None.
    """

    def __init__(
        self,
        train_dataset: Any,
        test_dataset: Any = None,
        model: Any = None,
        loss: Any = None,
        schedule: Schedule | None = None,
        seed: int = 0,
        deterministic: bool = False,
        config: InverTuneConfig | None = None,
        class_names: Sequence[str] | None = None,
        image_size: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        report: Report | None = None,
    ) -> None:
        super().__init__(seed=seed, deterministic=deterministic, schedule=schedule)
        self.train_dataset = train_dataset
        self.test_dataset = test_dataset
        self.model = model
        self.loss = loss
        self.config = config
        self.class_names = class_names
        self.image_size = image_size
        self.mean = mean
        self.std = std
        self.report = report

    def repair(self, schedule: Schedule | None = None) -> Repair:
        """Find, invert and remove a backdoor; ``get_model`` gives the repaired copy afterwards.

        Args:
            schedule: ``device`` and the GPU keys of either dialect (None: where the model is);
                ``save_dir`` and ``experiment_name`` for a folder with ``log.txt`` and, where
                something was repaired, the weights as a state dict in ``ckpt_epoch_1.pth`` (the
                toolbox numbers checkpoints by epochs; a repair counts as one). All are optional,
                and others are ignored.

        Raises:
            InputError: too few clean images, images outside [0, 1], no classifier, or a GPU is
                asked for and absent.
        """
        settings = self._settings(schedule)
        device = device_asked_for(settings, given_network(self.model))
        with self.seeded(), evaluating(given_network(self.model)):
            suspect = self._suspect(on_device(given_network(self.model), device))
            images = image_set_of(self.train_dataset, suspect.image_size)
            work = open_work_dir(settings, "InverTune.repair")
            steps = InverTune(
                images,
                model=suspect,
                seed=self.seed,
                deterministic=self.deterministic,
                config=self.config,
                report=self._said(work),
            )
            self.report_ = steps.repair()
        self.target_ = steps.target_
        self.trigger_ = steps.trigger_
        self._repaired = self._as_given(self.report_.classifier)
        if work is not None and self._repaired is not None:
            _save(self._repaired, work)
        return self.report_

    def test(
        self,
        schedule: Schedule | None = None,
        poisoned_test_dataset: Any = None,
        y_target: int | None = None,
    ) -> dict[str, Rate]:
        """Measure the model as it stands.

        Args:
            schedule: ``metric`` (``BA``, ``ASR``, ``ASR_NoTarget``; all of them where omitted),
                ``y_target``, ``poisoned_test_dataset``, ``batch_size`` (256), ``num_workers`` (0),
                and what ``repair`` understands. All are optional.
            poisoned_test_dataset: the attack's poisoned version of ``test_dataset``.
            y_target: the attack's target class.

        Returns:
            ``ca`` (BA), ``asr`` (ASR_NoTarget) and ``asr_all`` (ASR); see ``evaluate``. Only
            ``ca`` without a poisoned set, and only the one that ``metric`` asks for.

        Raises:
            InputError: no test data set, an unknown metric, or an ASR without a poisoned set and
                its target.
        """
        settings = self._settings(schedule)
        metric = settings.get("metric")
        poisoned = poisoned_test_dataset
        poisoned = settings.get("poisoned_test_dataset") if poisoned is None else poisoned
        _check_test(self.test_dataset, poisoned, metric)
        device = device_asked_for(settings, given_network(self.model))
        model = self.get_model()
        with self.seeded(), evaluating(model):
            rates = evaluate(
                model if self.mean is None and self.std is None else self._suspect(model),
                self.test_dataset,
                None if metric == "BA" else poisoned,
                settings.get("y_target") if y_target is None else y_target,
                batch_size=settings.get("batch_size", 256),
                num_workers=settings.get("num_workers", 0),
                device=device,
                work=open_work_dir(settings, "InverTune.test"),
            )
        return rates if metric is None else {METRICS[metric]: rates[METRICS[metric]]}

    def get_model(self) -> Any:
        """The repaired copy, of the caller's type, or the given model where none was repaired."""
        repaired = getattr(self, "_repaired", None)
        return self.model if repaired is None else repaired

    def _said(self, work: WorkDir | None) -> Report | None:
        """What takes the sentences of a repair: the caller's function, the log, both or neither."""
        hearers = [hear for hear in (self.report, work and work.log) if hear]

        def say(said: str) -> None:
            for hear in hearers:
                hear(said)

        return say if hearers else None

    def _settings(self, schedule: Schedule | None) -> Schedule:
        return (self.schedule or {}) if schedule is None else schedule

    def _suspect(self, model: nn.Module) -> Any:
        """The model as the steps of InverTune see it."""
        if isinstance(model, ZeroShotClassifier):
            return model
        images = image_set_of(self.train_dataset, self.image_size)
        if len(images) == 0:
            raise InputError("Expected clean images as train_dataset, got an empty data set.")
        first = images[0][0]
        names = self.class_names or class_names_of(self.train_dataset)
        names = names or [f"class {i}" for i in range(read(model, [(first, 0)]).classes)]
        return as_suspect(model, names, self.image_size or first.shape[-1], self.mean, self.std)

    def _as_given(self, classifier: Any) -> nn.Module | None:
        """What came out, of the type, on the device and in the modes of what came in."""
        if classifier is None:
            return None
        given = given_network(self.model)
        model: nn.Module = classifier if isinstance(given, ZeroShotClassifier) else classifier.model
        if device_of_model(model) != device_of_model(given):
            model = copy.deepcopy(model).to(device_of_model(given))
        for parameter, before in zip(model.parameters(), given.parameters(), strict=True):
            parameter.requires_grad_(before.requires_grad)
        for module, was in zip(model.modules(), given.modules(), strict=True):
            module.training = was.training
        return model


def _check_test(test_dataset: Any, poisoned: Any, metric: Any) -> None:
    if test_dataset is None:
        raise InputError("Expected a test data set, got none. Give one as test_dataset.")
    if metric is not None and metric not in METRICS:
        raise InputError(
            f"Expected a metric among {', '.join(METRICS)}, got {metric!r}. "
            "Leave it out to measure all."
        )
    if metric not in (None, "BA") and poisoned is None:
        raise InputError(
            f"Expected a poisoned test set for the metric {metric}, got none. Give the attack's as "
            "poisoned_test_dataset, with its y_target."
        )


def _save(model: nn.Module, work: WorkDir) -> None:
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    with replacing(work.path / CHECKPOINT) as temporary:
        torch.save(state, temporary)
