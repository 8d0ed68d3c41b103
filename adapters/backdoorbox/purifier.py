"""FLARE in the toolbox's dialect, beside the toolbox's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import Subset
from torchvision.transforms import Normalize

from invertune_plugin.adapters.backdoorbox.augmentation import without_augmentation
from invertune_plugin.adapters.backdoorbox.evaluator import on_device
from invertune_plugin.adapters.backdoorbox.given import device_asked_for, given_network
from invertune_plugin.adapters.backdoorbox.image_sets import image_set_of
from invertune_plugin.adapters.backdoorbox.workdir import open_work_dir
from invertune_plugin.defenses.base import Purifier, Schedule
from invertune_plugin.defenses.flare import FlareConfig, flare
from invertune_plugin.defenses.flare.clusters import ClusterConfig
from invertune_plugin.defenses.purify import Purified, refuse_failed
from invertune_plugin.errors import InputError
from invertune_plugin.metrics import Rate


class FLAREPurifier(Purifier):
    """Finds the poisoned images of the training set of a model, called like the toolbox's FLARE.

    It has a name of its own because the toolbox's class is another one: that drops no layers, needs
    the truth and returns nothing. Data sets give images in [0, 1] or bytes. The caller's model,
    data sets, schedules and global random state are never changed.

    Args:
        model: trained on the set: a classifier with normalisation layers, images to logits.
        xi: least stability of a cluster (0.02 where omitted), instead of a ``config``.
        seed: of everything random.
        deterministic: ask torch for deterministic algorithms while it runs.
        schedule: ``device`` and the GPU keys of either dialect (where omitted: where the model is);
            ``save_dir`` and ``experiment_name`` for a folder with ``log.txt``.
        config: settings.
        mean: channel means that the model wants its input normalised by; None for none.
        std: channel standard deviations of it.

    Attributes:
        found_: the ``Purified`` of the last set: scores, indices, outcome with its evidence.
        rates_: ``tpr`` and ``fpr`` where the truth was given, else nothing.
    """

    def __init__(
        self,
        model: Any,
        xi: float | None = None,
        seed: int = 0,
        deterministic: bool = False,
        schedule: Schedule | None = None,
        config: FlareConfig | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__(seed=seed, deterministic=deterministic)
        self.model = model
        self.xi = xi
        self.schedule = schedule
        self.config = config
        self.mean = mean
        self.std = std

    def detect(self, dataset: Any, y_true: Sequence[int] | None = None) -> Purified:
        """Find the poisoned images of a training set.

        Args:
            dataset: any data set of the toolbox, or an ``ImageSet``. Random steps of its transform
                are left out, with a warning.
            y_true: 1 for poisoned and 0 for clean images, one each; only for ``rates_``.

        Raises:
            InputError: the truth is of another length, and as ``flare``.
        """
        truth = None if y_true is None else np.asarray(y_true).astype(bool)
        if truth is not None and truth.shape != (len(dataset),):
            raise InputError(
                f"Expected y_true with 0 or 1 for each of {len(dataset)} images, got the shape "
                f"{truth.shape}. Leave it out where the truth is unknown."
            )
        settings, given = self.schedule or {}, given_network(self.model)
        device = device_asked_for(settings, given)
        with self.seeded():
            images = image_set_of(without_augmentation(dataset))
            work = open_work_dir(settings, "FLAREPurifier.detect")
            model = self._normalising(on_device(given, device))
            self.found_ = flare(
                model, images, self._config(), self.seed, work.log if work else None
            )
        self.rates_: dict[str, Rate] = {}
        if truth is not None:
            self.rates_ = self.found_.rates(np.flatnonzero(truth).tolist())
            for name, rate in self.rates_.items():
                if work is not None:
                    work.log(f"{name.upper()}: {rate}")
        return self.found_

    def filter(self, dataset: Any) -> tuple[Subset[Any], list[int]]:
        """The images that are not poisoned, augmented as before, and the indices of the others.

        Raises:
            InputError: the search failed, for instance as the model has not learnt the labels.
        """
        found = refuse_failed(self.detect(dataset))
        return Subset(dataset, found.kept), list(found.poisoned)

    def _normalising(self, model: nn.Module) -> nn.Module:
        if (self.mean is None) != (self.std is None):
            raise InputError("Expected mean and std together, got one of them. Give both or none.")
        if self.mean is None or self.std is None:
            return model
        wrapped = nn.Sequential(Normalize(list(self.mean), list(self.std)), model)
        wrapped.training = model.training
        return wrapped

    def _config(self) -> FlareConfig:
        if self.xi is None:
            return self.config or FlareConfig()
        if self.config is not None:
            raise InputError(
                "Expected xi or a config, got both. Set xi within the config's clusters."
            )
        return FlareConfig(clusters=ClusterConfig(xi=self.xi))
