"""Defences that tell what is poisoned: of test images by their trigger, or of training images.

Upstream prints its rates, looks at images that the model gets right only, or flags the first 128.
Here all images count, and the rates are numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from invertune_plugin.adapters.backdoorbox.defenses.job import Defended, Job
from invertune_plugin.adapters.backdoorbox.defenses.plain_sets import PlainSet
from invertune_plugin.adapters.backdoorbox.evaluator import read
from invertune_plugin.errors import InputError
from invertune_plugin.metrics import Rate
from invertune_plugin.modes import same_threads

CLUSTER = 100
"""Fewest images of a cluster, fixed in FLARE."""

BATCH = 128
"""Images at a time, fixed in SCALE_UP and IBD_PSC."""


def scale_up(
    job: Job,
    *,
    scale_set: Sequence[int] = (3, 5, 7, 9, 11),
    threshold: float = 0.5,
    normalized: bool = False,
) -> Defended:
    """SCALE_UP on benign against triggered test images; its scores are taken of all of them.

    With ``normalized`` the scores are centred and scaled by those of the clean images, upstream's
    "data-limited scenario"; the threshold then counts standard deviations.
    """
    model = job.victim()
    valset = PlainSet(job.suspicion.clean) if normalized else None
    detector = job.core.SCALE_UP(model, list(scale_set), threshold, valset, job.seed)
    return _rated(job, detector, model)


def ibd_psc(
    job: Job, *, n: int = 5, xi: float = 0.6, T: float = 0.9, scale: float = 1.5
) -> Defended:
    """IBD_PSC on benign against triggered test images; its scores are taken of all of them.

    It fails where amplified BatchNorm layers never make the share ``xi`` of the clean images wrong.
    """
    model = job.victim()
    valset = PlainSet(job.suspicion.clean)
    detector = job.core.IBD_PSC(model, n, xi, T, scale, valset, job.seed)
    if detector.start_index is None:
        reason = (
            f"However many BatchNorm layers were amplified {scale} times, the model read no more "
            f"than {xi:.0%} of the clean images wrongly, so there is no layer to begin with."
        )
        return Defended(None, outcome="failed", reason=reason)
    return _rated(job, detector, model)


def flare(job: Job, *, xi: float = 0.02) -> Defended:
    """FLARE on the poisoned training set; which images are poisoned is only used to score it.

    It fails where its clusters of 100 images or more never split stably.
    """
    images, poisoned = PlainSet(job.poisoned_train()), job.suspicion.poisoned_indices
    if poisoned is None or len(images) < 2 * CLUSTER:
        raise InputError(
            f"Expected {2 * CLUSTER} training images or more, since FLARE's clusters have at least "
            f"{CLUSTER}, and poisoned_indices to score it; got {len(images)} images and "
            f"{'no' if poisoned is None else 'some'} indices."
        )
    truth = torch.zeros(len(images))
    truth[list(poisoned)] = 1
    detector = job.core.FLARE(job.victim(), xi=xi, seed=job.seed)
    try:
        with same_threads():
            detector.detect(images, truth.numpy())
    except (TypeError, ValueError) as error:
        if not hasattr(detector, "y_preds"):
            reason = f"No split of the training images was stable ({error})."
            return Defended(None, outcome="failed", reason=reason)
    flagged = torch.as_tensor(detector.y_preds).bool()
    return Defended(None, tpr=_share(flagged[truth == 1]), fpr=_share(flagged[truth == 0]))


def _rated(job: Job, detector: Any, model: nn.Module) -> Defended:
    """Rates and AUROC of a detector that scores images."""
    benign = _scores(detector, model, job.suspicion.test)
    poisoned = _scores(detector, model, job.poisoned_test())
    truth = [0] * len(benign) + [1] * len(poisoned)
    return Defended(
        None,
        tpr=_share(poisoned >= detector.T),
        fpr=_share(benign >= detector.T),
        auroc=float(roc_auc_score(truth, torch.cat([benign, poisoned]).numpy())),
    )


def _scores(detector: Any, model: nn.Module, dataset: Any) -> Tensor:
    """Scores of all images: upstream skips those read wrongly, so their reading is their label."""
    readings = read(model, dataset, BATCH).best[:, 0]
    scores: Tensor = detector._test(PlainSet(dataset, readings.tolist()))
    return scores.cpu()


def _share(flags: Tensor) -> Rate | None:
    return Rate(int(flags.sum()), len(flags)) if len(flags) else None
