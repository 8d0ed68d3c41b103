"""What FLARE costs: passes against the toolbox's own class, and clustering by number of samples.

    python benchmarks/flare_speed.py --passes --samples 5000 --samples 10000 --samples 50000

writes ``benchmarks/results/flare_speed.json``. ``--passes`` needs a clone of BackdoorBox
(``BACKDOORBOX_HOME``) and the images of ``INVERTUNE_DATA``: its FLARE reads the set once for each
number of dropped layers, on the same network and images as ours. Seconds are of one processor,
memory (Linux) is the peak above what the process held before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch.utils.data import DataLoader, TensorDataset

from invertune_plugin import load_toolbox
from invertune_plugin.adapters.data_root import data_file
from invertune_plugin.adapters.parquet import ParquetImages
from invertune_plugin.benchmark.classifiers import TOWERS
from invertune_plugin.benchmark.record import Rows, merge_rows
from invertune_plugin.console import say
from invertune_plugin.data import Subset, in_memory, to_unit
from invertune_plugin.defenses.flare.clusters import ClusterConfig, condensed_tree, stable_split
from invertune_plugin.defenses.flare.features import abnormal_features
from invertune_plugin.defenses.flare.norms import normalisation_layers
from invertune_plugin.defenses.flare.projection import ProjectionConfig, projected

RESULTS = Path(__file__).parent / "results" / "flare_speed.json"
LAYERS, RATE = 20, 0.1
WARM_UP = 6000
"""Samples of a first search, which compiles what UMAP takes for sets above 4,096, and to put
others into the space of 5,000."""


def main(
    passes: Annotated[bool, typer.Option(help="Compare with the toolbox's class.")] = False,
    tower: Annotated[str, typer.Option(help=", ".join(TOWERS))] = "resnet18_narrow",
    images: Annotated[int, typer.Option(help="That both read.")] = 1000,
    samples: Annotated[list[int], typer.Option(help="To cluster; may be repeated.")] = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Result file.")] = RESULTS,
) -> None:
    """Time both."""
    torch.set_num_threads(1)
    if passes:
        add(out, compared(tower, images))
    if samples:
        clustered(WARM_UP, ProjectionConfig(fitted=5000))
    for count in sorted(samples):
        add(out, clustered(count, ProjectionConfig()))


def add(out: Path, row: dict[str, Any]) -> None:
    """Put a row into the result file and tell it."""
    merge_rows(out, [row], experiment, command_of)
    say(", ".join(f"{key} {value}" for key, value in row.items()))


def compared(tower: str, count: int) -> dict[str, Any]:
    """Features for every number of dropped layers: the toolbox's passes against our one."""
    source = ParquetImages(data_file("cifar10-train.parquet"), 32)
    chosen = in_memory(Subset(source, list(range(count))))
    model = TOWERS[tower](10)
    with torch.no_grad():
        model.train()(to_unit(chosen.images[:256]))
    model.eval()
    theirs = load_toolbox().FLARE(model)
    labels = torch.tensor(list(chosen.texts))
    theirs.train_loader = DataLoader(TensorDataset(to_unit(chosen.images), labels), 128)
    layers = len(normalisation_layers(model))
    ours, own = seconds_of(lambda: abnormal_features(model, chosen).values)
    toolbox, read = seconds_of(lambda: [theirs.get_likehood(k) for k in range(layers)])
    same = np.abs(read[0].numpy() - own[:, : read[0].shape[1]]).max()
    return {
        "measure": "passes",
        "tower": tower,
        "images": count,
        "layers": layers,
        "seconds": ours,
        "seconds_toolbox": toolbox,
        "ratio": round(toolbox / ours, 1),
        "largest_difference": round(float(same), 6),
    }


def clustered(count: int, config: ProjectionConfig) -> dict[str, Any]:
    """One subspace of features whose poisoned tenth is less likely in all layers."""
    generator = np.random.default_rng(0)
    values = generator.normal(size=(count, LAYERS)).astype(np.float32)
    values[: int(RATE * count)] -= 4
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    by_umap, places = seconds_of(lambda: projected(values, config))
    by_tree, tree = seconds_of(lambda: condensed_tree(places, ClusterConfig().min_cluster_size))
    split = stable_split(tree, ClusterConfig())
    return {
        "measure": "clustering",
        "samples": count,
        "layers": LAYERS,
        "seconds": round(by_umap + by_tree, 2),
        "seconds_projection": by_umap,
        "seconds_tree": by_tree,
        "found": 0 if split is None else len(split.poisoned),
        "bytes_per_value": round((memory("VmHWM") - before) / (count * LAYERS)),
    }


def memory(field: str) -> int:
    """Bytes of this process by Linux: ``VmRSS`` now, ``VmHWM`` at most since the mark was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = next(line for line in lines if line.startswith(f"{field}:"))
    return int(found.split()[1]) * 1024


def seconds_of(work: Callable[[], Any]) -> tuple[float, Any]:
    """Processor seconds, and what came out."""
    start = time.process_time()
    found = work()
    return round(time.process_time() - start, 2), found


def experiment(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a row belongs to."""
    return row["measure"], row.get("tower", ""), row.get("samples", 0)


def command_of(rows: Rows) -> str:
    """The commands that give these rows."""
    samples = [f"--samples {row['samples']}" for row in rows if row["measure"] == "clustering"]
    commands = [
        f"--passes --tower {row['tower']} --images {row['images']}"
        for row in rows
        if row["measure"] == "passes"
    ]
    commands += [" ".join(samples)] * bool(samples)
    return " && ".join(f"python benchmarks/flare_speed.py {options}" for options in commands)


if __name__ == "__main__":
    typer.run(main)
