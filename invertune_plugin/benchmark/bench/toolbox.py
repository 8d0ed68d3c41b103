"""BackdoorBox's defences as cells of a grid; their rows have the fields of our own repairs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn

from invertune_plugin.adapters.backdoorbox.defenses.job import Defended
from invertune_plugin.adapters.backdoorbox.defenses.plain_sets import PlainSet
from invertune_plugin.adapters.backdoorbox.defenses.recipe import DEFENSES, Suspicion, run_defense
from invertune_plugin.adapters.backdoorbox.loader import load_toolbox, loaded_toolbox
from invertune_plugin.adapters.backdoorbox.staged import staged, unstage
from invertune_plugin.attacks.backdoors import Backdoor
from invertune_plugin.attacks.label_rules import AllToOne
from invertune_plugin.attacks.triggered import TriggeredImages
from invertune_plugin.benchmark.bench.after import doubts_of, measured_after
from invertune_plugin.benchmark.bench.defenses import PREFIX, toolbox_defense
from invertune_plugin.benchmark.bench.metrics import Row
from invertune_plugin.benchmark.bench.opening import Opened, open_victim
from invertune_plugin.benchmark.bench.training import trained_on
from invertune_plugin.benchmark.experiment.victims import CLEAN
from invertune_plugin.benchmark.grid.cells import Parent, Result, Say
from invertune_plugin.benchmark.record import rate_fields
from invertune_plugin.benchmark.report.evidence_files import write_curves
from invertune_plugin.errors import InputError
from invertune_plugin.zero_shot import ZeroShotClassifier

OUTPUT = "output.txt"


class NamedClassifier(nn.Module):
    """A model that has no texts, with the names of its classes.

    Args:
        model: images ``[N, 3, H, W]`` in [0, 1] to logits ``[N, K]``.
        class_names: of the K classes.
    """

    def __init__(self, model: nn.Module, class_names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.class_names = class_names

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, K]``."""
        logits: Tensor = self.model(images)
        return logits


def compute_toolbox(
    settings: Mapping[str, Any], parents: tuple[Parent, ...], folder: Path, report: Say
) -> Result:
    """Run a defence of the toolbox on a victim, and measure what came of it."""
    (victim,) = parents
    core = load_toolbox()
    opened = open_victim(victim.settings, report)
    attacked = victim.settings["attack"] != CLEAN
    seed, name = victim.settings["seed"], settings["defense"].removeprefix(PREFIX)
    config = toolbox_defense(settings["options"])
    options, origin = dict(config.options), opened.suspect
    if DEFENSES[name].trains_anew:
        origin = opened.clean
        options["initial"] = staged(origin)
    report(f"{settings['defense']} ...")
    with TemporaryDirectory() as work:
        found = run_defense(
            core,
            name,
            suspicion_of(opened, seed, attacked, DEFENSES[name].reads_training),
            target=opened.suspect.class_index(opened.backdoor.target),
            seed=seed,
            training=config,
            work_dir=Path(work),
            options=options,
        )
        if (printed := Path(work) / OUTPUT).is_file():
            (folder / OUTPUT).write_bytes(printed.read_bytes())
    row: Row = {
        "outcome": found.outcome,
        "reason": found.reason,
        "seconds_repair": round(found.seconds, 2),
        **_rates(found, attacked),
    }
    model = None if found.model is None else classifier_of(found.model, origin)
    after, losses = measured_after(model, opened, victim, report)
    write_curves(folder, {"rebound": losses})
    row |= after
    doubts, clone = doubts_of(opened, victim), loaded_toolbox(core).clone
    if clone.dirty:
        doubts += ("The clone of BackdoorBox has changed files.",)
    if clone.commit is None:
        doubts += ("Which version of BackdoorBox this is could not be told.",)
    return Result(row, doubts)


def suspicion_of(opened: Opened, seed: int, attacked: bool, with_training: bool) -> Suspicion:
    """What the toolbox's defences are given of a victim.

    Args:
        opened: the victim.
        seed: of its attack.
        attacked: whether anything was planted.
        with_training: also give the images that the victim was trained with; making them again
            takes seconds.
    """
    test, backdoor = opened.tests[0], opened.backdoor
    triggered = TriggeredImages(
        test.images, Backdoor(backdoor.trigger, AllToOne(test.class_names.index(backdoor.target)))
    )
    train, poisoned = None, None
    if with_training:
        trained = trained_on(opened, seed, attacked)
        train, places = trained.labelled(opened.sources)
        poisoned = tuple(n for n, place in enumerate(places) if place in trained.targets)
    return Suspicion(
        model=staged(opened.suspect),
        clean=PlainSet(opened.sources.images("defence")),
        test=PlainSet(test.images),
        poisoned_train=None if train is None else PlainSet(train),
        poisoned_test=PlainSet(triggered),
        poisoned_indices=poisoned,
        class_names=tuple(opened.sources.class_names),
        image_size=opened.suspect.image_size,
    )


def classifier_of(model: nn.Module, origin: ZeroShotClassifier) -> nn.Module:
    """A model as the grid measures it: a CLIP again, where its stages are still those of one.

    Pruning's mask and what stands in front of a model have no place in a CLIP.

    Args:
        model: what a defence left.
        origin: whose image tower the defence started from; its texts belong to the model.
    """
    with suppress(InputError):
        return unstage(model, origin)
    return NamedClassifier(model, origin.class_names)


def _rates(found: Defended, attacked: bool) -> Row:
    """Rates of a detector; on a clean model only its false alarms are defined."""
    row: Row = rate_fields("fpr", found.fpr)
    if attacked:
        row |= rate_fields("tpr", found.tpr)
        row |= {} if found.auroc is None else {"auroc": round(found.auroc, 5)}
    return row
