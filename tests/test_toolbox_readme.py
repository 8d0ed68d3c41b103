"""The README's lines about BackdoorBox, run as they stand."""

from pathlib import Path
from typing import Any

import pytest
from toys import noise_images, toy_classifier
from upstream import clone

from invertune_plugin.adapters.backdoorbox.folders import export_folder
from invertune_plugin.adapters.backdoorbox.patches import PATCHES
from invertune_plugin.data import InMemory

CLASSES = ("bird", "cat", "dog", "ring", "star")


@pytest.mark.toolbox
def test_the_readme_shows_code_that_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    code = next(part.split("```")[0] for part in readme.split("```python\n") if "core." in part)
    for seed, name in enumerate(("train", "clean", "test")):
        labels = [i % len(CLASSES) for i in range(80)]
        export_folder(InMemory(noise_images(80, seed=seed), labels), CLASSES, tmp_path / name)
    (tmp_path / "BackdoorBox").symlink_to(clone())
    monkeypatch.chdir(tmp_path)
    schedule = {"benign_training": False, "batch_size": 16, "num_workers": 0}
    schedule |= {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.0, "gamma": 0.1, "schedule": []}
    schedule |= {"epochs": 1, "save_dir": "runs", "experiment_name": "batt"}
    schedule |= dict.fromkeys(
        ("log_iteration_interval", "test_epoch_interval", "save_epoch_interval"), 1
    )
    model = toy_classifier("rn", class_names=CLASSES)
    scope: dict[str, Any] = {"model": model, "schedule": schedule}
    exec(code, scope)
    assert scope["core"].InverTune is type(scope["defense"])
    rates = scope["defense"].test({"metric": "BA"})
    assert rates["ca"].n == 80


def test_the_docs_name_every_patch_and_where_it_would_go_upstream() -> None:
    page = (Path(__file__).parent.parent / "docs" / "backdoorbox.md").read_text()
    assert not [patch.name for patch in PATCHES if page.count(f"`{patch.name}`") < 2]
