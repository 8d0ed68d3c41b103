"""InverTune beside the defences of BackdoorBox, on a CLIP that BadNets has attacked.

    BACKDOORBOX_HOME=path/to/BackdoorBox python examples/toolbox_defense.py

Drawn scenes, a few minutes on two cores; the CLIP is the clean one of ``invertune run demo``.
"""

import os
import tempfile
from pathlib import Path

import torch
from torch import nn

import invertune_plugin
from invertune_plugin.adapters.backdoorbox.evaluator import evaluate
from invertune_plugin.adapters.backdoorbox.folders import (
    export_folder,
    toolbox_folder,
    trigger_index,
)
from invertune_plugin.adapters.backdoorbox.staged import staged
from invertune_plugin.adapters.open_clip import zero_shot_classifier
from invertune_plugin.adapters.shapes import CLASS_TEMPLATES, SHAPES, draw_scenes
from invertune_plugin.benchmark.experiment.models import clean_model, initial_model
from invertune_plugin.benchmark.experiment.recipe import load_recipe
from invertune_plugin.benchmark.experiment.sources import build_sources
from invertune_plugin.console import training_progress

core = invertune_plugin.load_toolbox()

# ========== Data: folders of images, as the attacks want them ==========
folder = Path(os.environ.get("SAVE_DIR", tempfile.mkdtemp(prefix="toolbox-")))
for part, count, seed in (("train", 4000, 501), ("clean", 500, 502), ("test", 500, 503)):
    export_folder(draw_scenes(count, seed).images(), SHAPES, folder / part, overwrite=True)
train, clean, test = (toolbox_folder(folder / part) for part in ("train", "clean", "test"))

# ========== Model: a clean CLIP, cut into stages ==========
recipe = load_recipe("demo")
start = initial_model(recipe, 0)
sources = build_sources(recipe.data, start.image_size, seed=0, clean_seed=0)
with training_progress() as progress:
    clip = clean_model(recipe, start, sources, 0, progress)
model = staged(zero_shot_classifier(clip, SHAPES, CLASS_TEMPLATES))

# ========== Attack ==========
pattern, weight = torch.zeros(32, 32, dtype=torch.uint8), torch.zeros(32, 32)
pattern[-4:, -4:], weight[-4:, -4:] = 255, 1.0
target = SHAPES.index("star")
attack = core.BadNets(
    train_dataset=train,
    test_dataset=test,
    model=model,
    loss=nn.CrossEntropyLoss(),
    y_target=target,
    poisoned_rate=0.1,
    pattern=pattern,
    weight=weight,
    poisoned_transform_train_index=trigger_index(train),
    poisoned_transform_test_index=trigger_index(test),
    poisoned_target_transform_index=0,
    seed=0,
)
attack.train(
    {
        "device": "CPU",
        "benign_training": False,
        "batch_size": 64,
        "num_workers": 0,
        "lr": 0.002,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "gamma": 0.1,
        "schedule": [6],
        "epochs": 8,
        "log_iteration_interval": 50,
        "test_epoch_interval": 8,
        "save_epoch_interval": 8,
        "save_dir": str(folder / "experiments"),
        "experiment_name": "BadNets",
    }
)
victim = attack.get_model()
_, poisoned_test = attack.get_poisoned_dataset()
rates = evaluate(victim, test, poisoned_test, target)
print("victim:", {name: str(rate) for name, rate in rates.items()})

# ========== Defence ==========
defense = core.InverTune(train_dataset=clean, test_dataset=test, model=victim, class_names=SHAPES)
found = defense.repair({"save_dir": str(folder / "experiments"), "experiment_name": "InverTune"})
print(f"{found.outcome.value}: {found.stages[-1].reason}")
rates = defense.test(poisoned_test_dataset=poisoned_test, y_target=target)
print("repaired:", {name: str(rate) for name, rate in rates.items()})
