"""Purifiers of labelled sets: what they find of each attack, and what training on the rest gives.

    python benchmarks/flare.py --data cifar10 --attack none --attack a2o-badnets --seed 0 --retrain

trains a network on each poisoned set (kept in the cache, goes on where it was stopped), runs
every purifier on it and writes ``benchmarks/results/flare.json``, each row as soon as it is done.
Rows that are there already are not made again, unless ``--again``. ``--images`` and ``--epochs``
size the training: a full CIFAR-10 run wants a GPU; ``--jobs`` trains several sets at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from flare_arena import measure
from flare_attacks import ATTACKS
from flare_rows import Setting, experiment, not_there, rows_of
from joblib import Parallel, delayed

from invertune_plugin.benchmark.classifiers import TOWERS, ClassifierTraining
from invertune_plugin.benchmark.detection import check_purifier
from invertune_plugin.defenses.purifiers import PURIFIERS
from invertune_plugin.devices import pick_device
from invertune_plugin.errors import InputError

RESULTS = Path(__file__).parent / "results" / "flare.json"


def main(
    data: Annotated[list[str], typer.Option(help="cifar10 or gtsrb; may be repeated.")],
    attack: Annotated[list[str], typer.Option(help=", ".join(ATTACKS))] = [],  # noqa: B006
    purifier: Annotated[list[str], typer.Option(help="Those of labelled sets.")] = [],  # noqa: B006
    seed: Annotated[list[int], typer.Option(help="May be repeated.")] = [0],  # noqa: B006
    tower: Annotated[str, typer.Option(help=", ".join(TOWERS))] = "resnet18",
    images: Annotated[int, typer.Option(help="Training images, drawn by the seed; 0 for all.")] = 0,
    epochs: Annotated[int, typer.Option(help="Of each training.")] = 30,
    bfloat16: Annotated[bool, typer.Option(help="Train in bfloat16.")] = False,
    retrain: Annotated[bool, typer.Option(help="Train again on what is left.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    jobs: Annotated[int, typer.Option(help="Sets at once, each in a process of its own.")] = 1,
    again: Annotated[bool, typer.Option(help="Make rows again that are there.")] = False,
    out: Annotated[Path, typer.Option(help="Result file.")] = RESULTS,
) -> None:
    """Measure purifiers, one row per data set, attack, purifier and seed."""
    if tower not in TOWERS:
        raise InputError(f"Expected a tower among {', '.join(TOWERS)}, got {tower!r}.")
    if jobs < 1:
        raise InputError(f"Expected at least one job, got {jobs}. Pass --jobs 1 or more.")
    names = purifier or [n for n, kind in PURIFIERS.items() if "captions" not in kind.needs]
    for by in names:
        check_purifier(by)
    training = ClassifierTraining(epochs=epochs, bfloat16=bfloat16)
    place = pick_device(device)
    settings = [
        Setting(source, tower, name, number, images, training)
        for number in seed
        for source in data
        for name in attack or ATTACKS
    ]
    here = set() if again else {experiment(row) for row in rows_of(out)}
    wanted = [
        (setting, missing)
        for setting in settings
        if (missing := not_there(setting, names, retrain, here))
    ]
    Parallel(n_jobs=jobs)(
        delayed(measure)(setting, missing, retrain, place, out) for setting, missing in wanted
    )


if __name__ == "__main__":
    typer.run(main)
