"""The command ``invertune``; every command loads what it needs, and no more."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from invertune_plugin import __version__
from invertune_plugin.console import console
from invertune_plugin.errors import InputError
from invertune_plugin.launch import launched, rank


class Stoppable(TyperGroup):
    """Commands that Ctrl-C ends with a sentence; Typer itself ends them without one."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; exit code 130 where it was stopped."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            told = "invertune: stopped. The same command goes on where it can."
            console.print(told, markup=False, soft_wrap=True)
            raise typer.Exit(130) from None


app = typer.Typer(
    name="invertune",
    cls=Stoppable,
    help="Find, invert and remove backdoors in CLIP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
toolbox = typer.Typer(help="BackdoorBox, from a clone of it.", no_args_is_help=True)
app.add_typer(toolbox, name="toolbox")

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Architecture: an open_clip name (RN50, ViT-B-32), hf-hub:org/name, or a JSON model "
        "config. Not needed for checkpoints that invertune wrote.",
    ),
]
CLASSES = "imagenet, cifar10, gtsrb, or a text file with one class per line."
TEMPLATES = "openai, simple, single, or one format string such as 'a {}.'."
Classes = Annotated[str, typer.Option(help=CLASSES)]
Templates = Annotated[str, typer.Option(help=TEMPLATES)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
QuickGelu = Annotated[
    bool | None,
    typer.Option("--quick-gelu/--no-quick-gelu", help="Force the activation of the model."),
]
MOST_SEED = 2**32 - 1
Seed = Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Of everything random.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace existing outputs.")]
Track = Annotated[
    str | None,
    typer.Option(help="Log to tensorboard:FOLDER, mlflow:FOLDER or wandb:PROJECT too."),
]
TOGETHER = ("repair", "run", "attack")
TriggerFile = Annotated[
    Path | None,
    typer.Option(
        help="The attacker's trigger, where it is known: YAML {kind: patch, ...}, or a file "
        "NAME.trigger.safetensors."
    ),
]


@app.callback(invoke_without_command=True)
def _version(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit
    if launched() > 1 and context.invoked_subcommand not in TOGETHER:
        raise InputError(
            f"Expected one process for invertune {context.invoked_subcommand}, got {launched()}. "
            f"Several work together at {', '.join(TOGETHER)}; invertune bench has --jobs."
        )


@app.command()
def repair(
    checkpoint: Annotated[
        str, typer.Argument(help="A file, an open_clip tag, or hf-hub:org/name.")
    ],
    images: Annotated[str, typer.Option(help="Clean images: a folder, .parquet or caption .csv.")],
    classes: Classes,
    out: Annotated[Path, typer.Option(help="Folder for the results.")],
    model: Model = None,
    templates: Templates = "simple",
    test: Annotated[
        str | None, typer.Option(help="Labelled images, not among --images, to measure CA on.")
    ] = None,
    trigger: TriggerFile = None,
    target: Annotated[
        str | None, typer.Option(help="The attacker's class, where it is known.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML with settings of InverTune; see docs/invertune.md.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    quick_gelu: QuickGelu = None,
    overwrite: Overwrite = False,
    track: Track = None,
) -> None:
    """Find and remove a backdoor: repaired checkpoint, report.html and result.json in --out."""
    from invertune_plugin.benchmark.commands.repair import RepairJob, repair_checkpoint

    job = RepairJob(
        checkpoint=checkpoint,
        model=model,
        images=images,
        classes=classes,
        templates=templates,
        out=out,
        test=test,
        trigger=trigger,
        target=target,
        config=config,
        seed=seed,
        device=device,
        quick_gelu=quick_gelu,
        overwrite=overwrite,
        track=track,
    )
    raise typer.Exit(repair_checkpoint(job))


@app.command()
def evaluate(
    checkpoint: Annotated[
        str, typer.Argument(help="A file, an open_clip tag, or hf-hub:org/name.")
    ],
    images: Annotated[str, typer.Option(help="Labelled images: a folder by class, or .parquet.")],
    classes: Annotated[
        str | None, typer.Option(help=f"{CLASSES} With --card: those of the card.")
    ] = None,
    model: Model = None,
    templates: Annotated[
        str | None, typer.Option(help=f"{TEMPLATES} With --card: those of the card; else simple.")
    ] = None,
    trigger: TriggerFile = None,
    target: Annotated[str | None, typer.Option(help="The attacker's class.")] = None,
    card: Annotated[
        Path | None,
        typer.Option(help="Card to check against: YAML, JSON or a checkpoint; docs/victims.md."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file for the numbers.")] = None,
    device: Device = "auto",
    quick_gelu: QuickGelu = None,
    overwrite: Overwrite = False,
) -> None:
    """Clean accuracy and, with a trigger and its target, attack success of any checkpoint.

    With --card, which names classes, templates, trigger and target, the exit code is 1 where the
    measured numbers are not those of the card.
    """
    from invertune_plugin.benchmark.commands.evaluate import EvaluateJob, evaluate_checkpoint

    job = EvaluateJob(
        checkpoint=checkpoint,
        model=model,
        images=images,
        classes=classes,
        templates=templates,
        trigger=trigger,
        target=target,
        card=card,
        out=out,
        device=device,
        quick_gelu=quick_gelu,
        overwrite=overwrite,
    )
    raise typer.Exit(evaluate_checkpoint(job))


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a .yaml file.")],
    out: Annotated[Path, typer.Option(help="Folder for report.html and result.json.")],
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    track: Track = None,
) -> None:
    """Run a whole experiment: clean model, victim, repair of both, numbers and report."""
    from invertune_plugin.benchmark.commands.run import run_experiment

    run_experiment(recipe, out, seed, device, overwrite, track)


@app.command()
def attack(
    victim: Annotated[
        str, typer.Argument(help="Name of a shipped attack, or a .yaml file; docs/attacks.md.")
    ],
    on: Annotated[str, typer.Option("--on", help="Recipe that gives data, clean model, target.")],
    out: Annotated[Path, typer.Option(help="The victim, a .safetensors file.")],
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    track: Track = None,
) -> None:
    """Make a backdoored CLIP and measure it; its card is inside the file."""
    from invertune_plugin.benchmark.commands.attack import AttackJob, attack_model

    attack_model(AttackJob(victim, on, out, seed, device, overwrite, track))


@app.command()
def poison(
    config: Annotated[
        Path, typer.Argument(help="YAML: trigger, target, rate, mode, sources, seed; see README.")
    ],
    data: Annotated[
        str, typer.Option(help="Clean images: a folder by class, .parquet, caption .csv or shards.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the data and its ground truth.")],
    form: Annotated[str, typer.Option("--format", help="folder, parquet or webdataset.")],
    size: Annotated[int, typer.Option(help="Side of the written images in pixels.")] = 224,
    overwrite: Overwrite = False,
) -> None:
    """Write a poisoned copy of a data set, and which of its items are poisoned."""
    from invertune_plugin.benchmark.commands.poison import PoisonJob, poison_data

    poison_data(
        PoisonJob(config=config, data=data, out=out, form=form, size=size, overwrite=overwrite)
    )


@app.command()
def purify(
    data: Annotated[
        str, typer.Argument(help="Training set: a folder by class, .parquet, caption .csv, shards.")
    ],
    checkpoint: Annotated[
        str, typer.Option(help="CLIP trained on it: a file, an open_clip tag, or hf-hub:org/name.")
    ],
    classes: Classes,
    out: Annotated[Path, typer.Option(help="Folder for scores.csv and result.json.")],
    by: Annotated[str, typer.Option(help="flare or another purifier; docs/flare.md.")] = "flare",
    model: Model = None,
    templates: Templates = "simple",
    config: Annotated[Path | None, typer.Option(help="YAML with settings of the purifier.")] = None,
    keep: Annotated[
        str | None, typer.Option(help="Write what stays too: folder, parquet or webdataset.")
    ] = None,
    size: Annotated[int, typer.Option(help="Side of the kept images in pixels.")] = 224,
    seed: Seed = 0,
    device: Device = "auto",
    quick_gelu: QuickGelu = None,
    overwrite: Overwrite = False,
) -> None:
    """Find the poisoned items of a training set; a ground truth beside it is only measured with."""
    from invertune_plugin.benchmark.commands.purify import PurifyJob, purify_data

    job = PurifyJob(
        data=data,
        checkpoint=checkpoint,
        classes=classes,
        out=out,
        by=by,
        model=model,
        templates=templates,
        config=config,
        keep=keep,
        size=size,
        seed=seed,
        device=device,
        quick_gelu=quick_gelu,
        overwrite=overwrite,
    )
    raise typer.Exit(purify_data(job))


@app.command()
def bench(
    config: Annotated[str, typer.Argument(help="quick, full, or a .yaml file.")],
    out: Annotated[Path, typer.Option(help="Folder of the store; the run goes on in it.")],
    only: Annotated[
        list[str], typer.Option(help="name=value, such as attack=badnets; may be repeated.")
    ] = [],  # noqa: B006
    jobs: Annotated[int, typer.Option(help="Processes here, one thread each.")] = 1,
    scheduler: Annotated[
        str | None, typer.Option(help="Cluster to use instead: tcp://HOST:8786 (Dask), ray://...")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would run.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for another run on the store.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Try failed cells once more.")] = False,
    track: Track = None,
) -> None:
    """Attacks x defences side by side; resumes where it was stopped."""
    from invertune_plugin.benchmark.commands.bench import run_grid
    from invertune_plugin.benchmark.grid.bench import BenchOptions

    options = BenchOptions(tuple(only), jobs, scheduler, dry_run, wait, again)
    raise typer.Exit(run_grid(config, out, options, track))


@app.command()
def results(
    store: Annotated[Path, typer.Argument(help="Folder of a grid.")],
    where: Annotated[
        list[str], typer.Option(help="name=value, such as attack=badnets; may be repeated.")
    ] = [],  # noqa: B006
    diff: Annotated[Path | None, typer.Option(help="Another store: show what differs.")] = None,
    summary: Annotated[
        bool, typer.Option("--summary", help="Means over seeds, with bootstrap intervals.")
    ] = False,
    csv: Annotated[Path | None, typer.Option(help="File for all fields.")] = None,
    latex: Annotated[Path | None, typer.Option(help="File for a booktabs table.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="File for a Markdown table.")] = None,
    grid: Annotated[
        str | None,
        typer.Option(help="quick, full or a .yaml file: its settings count, not the newest."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """List, filter, compare and export what a grid found."""
    from invertune_plugin.benchmark.commands.results import ResultsJob, show_results

    job = ResultsJob(store, tuple(where), diff, summary, csv, latex, markdown, overwrite, grid=grid)
    show_results(job)


@app.command()
def report(
    store: Annotated[Path, typer.Argument(help="Folder of a grid.")],
    out: Annotated[Path, typer.Option(help="The HTML file.")],
    grid: Annotated[
        str | None,
        typer.Option(help="The whole grid, quick, full or a .yaml file: shows what was not run."),
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the page; else the folder's name.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """One HTML file about a grid: heat tables, evidence of every cell, failures, methods."""
    from invertune_plugin.benchmark.commands.report import GridReportJob, report_grid

    report_grid(GridReportJob(store, out, grid, title, overwrite))


@toolbox.command()
def check(
    path: Annotated[
        Path | None, typer.Argument(help="The clone; BACKDOORBOX_HOME where omitted.")
    ] = None,
) -> None:
    """What of a clone is usable here, what is patched, and what is missing and why."""
    from invertune_plugin.benchmark.commands.toolbox_check import check_toolbox

    check_toolbox(path)


@toolbox.command(name="run")
def run_toolbox(
    recipe: Annotated[
        str, typer.Argument(help="table, table_resnet18, attacks, defenses or a .yaml file.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for results; goes on where it was stopped.")],
    seed: Annotated[list[int], typer.Option(min=0, max=MOST_SEED, help="May be repeated.")] = [0],  # noqa: B006
    path: Annotated[Path | None, typer.Option(help="The clone of BackdoorBox.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew.")] = False,
    again: Annotated[bool, typer.Option("--again", help="Try failed cells once more.")] = False,
) -> None:
    """Attacks x defences of BackdoorBox on CLIP and on its own models."""
    from invertune_plugin.benchmark.commands.toolbox_run import run_comparison

    rows = run_comparison(recipe, out, seed, path, overwrite, again)
    if any(row["outcome"] == "failed" for row in rows):
        raise typer.Exit(1)


def main() -> None:
    """Entry point: bad input leaves with exit code 2 and one sentence."""
    try:
        app()
    except InputError as error:
        name = "invertune" if launched() == 1 else f"invertune, process {rank()}"
        console.print(f"{name}: {error}", style="red", markup=False, soft_wrap=True)
        sys.exit(2)
