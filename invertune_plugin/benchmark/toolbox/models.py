"""Data and clean models of a comparison inside BackdoorBox."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType

import torch
from safetensors.torch import load_model, save_model
from torch import nn
from torchvision.datasets import DatasetFolder

from invertune_plugin.adapters.backdoorbox.folders import (
    ToolboxData,
    export_folder,
    toolbox_folder,
)
from invertune_plugin.adapters.backdoorbox.precision import with_bfloat16
from invertune_plugin.adapters.backdoorbox.staged import staged
from invertune_plugin.adapters.backdoorbox.training import train_benign
from invertune_plugin.adapters.open_clip import zero_shot_classifier
from invertune_plugin.benchmark.experiment.made_of import data_of, digests_of
from invertune_plugin.benchmark.experiment.models import Progress, cached_path, to_be_made
from invertune_plugin.benchmark.experiment.recipe import load_recipe
from invertune_plugin.benchmark.experiment.sources import Sources, build_sources
from invertune_plugin.benchmark.experiment.victims import build_clean
from invertune_plugin.benchmark.toolbox.recipe import ModelSpec, ToolboxRecipe
from invertune_plugin.data import ImageSet, Subset
from invertune_plugin.errors import InputError
from invertune_plugin.files import replacing

IMAGE_SIZE = 32


@dataclass(frozen=True)
class Arena:
    """Data of one seed, as folders on disk.

    Attributes:
        attack: training images of the attacker and the test images.
        clean: images of the defender.
        target: class index that the attacks lead to.
    """

    attack: ToolboxData
    clean: DatasetFolder
    target: int


def build_arena(recipe: ToolboxRecipe, seed: int, folder: Path) -> Arena:
    """Write the images of a seed to disk, unless they are there already.

    Args:
        recipe: the comparison.
        seed: of the images.
        folder: for the images; those of each data and amounts have a folder of their own there.

    Raises:
        InputError: the target is no class of the data.
    """
    sources = _sources(recipe, seed)
    names = sources.class_names
    if recipe.target not in names:
        raise InputError(f"Expected a target among {', '.join(names)}, got {recipe.target!r}.")
    parts: dict[str, tuple[ImageSet, int]] = {
        "train": (sources.images("attack"), recipe.data.train),
        "clean": (sources.images("defence"), recipe.data.clean),
        "test": (sources.tests()[0].images, recipe.data.test),
    }
    scenes = load_recipe(recipe.scenes).data
    made_of = {"scenes": data_of(scenes), "size": IMAGE_SIZE, "data": asdict(recipe.data)}
    made_of["chosen"] = "drawn"
    if tests := digests_of(scenes, "classification"):
        made_of["tests"] = tests
    text = json.dumps(made_of, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    folders = {}
    for part, (images, count) in parts.items():
        root = folder / digest / f"seed-{seed}" / part
        if not root.is_dir():
            export_folder(some_of(images, count, seed), names, root)
        folders[part] = toolbox_folder(root)
    data = ToolboxData(folders["train"], folders["test"], tuple(names), IMAGE_SIZE)
    return Arena(data, folders["clean"], names.index(recipe.target))


def build_model(
    core: ModuleType, spec: ModelSpec, recipe: ToolboxRecipe, seed: int, progress: Progress
) -> nn.Module:
    """The clean model that the attacks start from; images in [0, 1] to logits."""
    if spec.recipe is None:
        seed = seed if spec.clean_seed is None else spec.clean_seed
        resnet = _benign_resnet(core, spec, recipe, seed, progress)
        return with_bfloat16(resnet) if spec.bfloat16 else resnet
    clip = load_recipe(spec.recipe)
    sources, clean = build_clean(clip, seed, progress)
    return staged(zero_shot_classifier(clean, sources.class_names, sources.templates))


def _benign_resnet(
    core: ModuleType, spec: ModelSpec, recipe: ToolboxRecipe, seed: int, progress: Progress
) -> nn.Module:
    """The toolbox's ResNet trained on clean images, from the cache or now."""
    sources = _sources(recipe, seed, spec.benign_images)
    names = sources.class_names
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = core.models.ResNet(spec.resnet, len(names))
    made_of = {
        "layers": spec.resnet,
        "training": asdict(spec.benign),
        "images": spec.benign_images,
        "data": data_of(load_recipe(recipe.scenes).data),
        "chosen": "drawn",
        "seed": seed,
    }
    path = cached_path("resnet", made_of)
    with to_be_made(path) as missing, TemporaryDirectory() as folder:
        if missing:
            images = sources.images("clean")
            chosen = some_of(images, spec.benign_images, seed)
            dataset = toolbox_folder(export_folder(chosen, names, Path(folder) / "clean"))
            train_benign(model, dataset, spec.benign, seed, progress("train resnet"))
            with replacing(path) as temporary:
                save_model(model, str(temporary))
    load_model(model, path)
    return model.eval()


def some_of(images: ImageSet, count: int, seed: int) -> ImageSet:
    """So many images drawn at random, in their order: those of photographs come class by class."""
    if count >= len(images):
        return images
    drawn = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return Subset(images, sorted(drawn[:count].tolist()))


def _sources(recipe: ToolboxRecipe, seed: int, clean: int | None = None) -> Sources:
    data = load_recipe(recipe.scenes).data
    if data.source == "shapes":
        data = replace(
            data,
            clean=clean or data.clean,
            attack=recipe.data.train,
            defence=recipe.data.clean,
            test=recipe.data.test,
        )
    return build_sources(data, IMAGE_SIZE, seed, seed)
