"""The main job on embedded data, and the commands of a user."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import invertune_plugin
from invertune_plugin import InverTune, InverTuneConfig, cli
from invertune_plugin.adapters.open_clip import load_clip
from invertune_plugin.adapters.shapes import SHAPES, draw_scenes
from invertune_plugin.benchmark.experiment import models
from invertune_plugin.benchmark.experiment.recipe import load_recipe
from invertune_plugin.benchmark.experiment.sources import build_sources
from invertune_plugin.checkpoints import read_card
from invertune_plugin.defenses.invertune.target import TargetConfig
from invertune_plugin.defenses.invertune.tuning import TuningConfig

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def invertune(*words: object) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["invertune", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
    assert not left.value.code


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the demo, with its models in the folder ``cache``."""
    folder = tmp_path_factory.mktemp("lab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INVERTUNE_CACHE", str(folder / "cache"))
        invertune("run", "demo", "--out", folder / "out", "--device", "cpu")
    return folder


@pytest.fixture(scope="module")
def victim(lab: Path) -> Path:
    return next((lab / "cache" / "models").glob("victim-*.safetensors"))


@pytest.fixture(scope="module")
def folders(lab: Path) -> Path:
    """Unlabelled clean images and labelled test images as PNG files, and a class file."""
    for i, (image, _) in enumerate(zip(*_scenes(1000, 901), strict=True)):
        _save(image, lab / "clean" / f"{i:04}.png")
    for i, (image, label) in enumerate(zip(*_scenes(300, 902), strict=True)):
        _save(image, lab / "test" / SHAPES[label] / f"{i:04}.png")
    (lab / "classes.txt").write_text("\n".join(SHAPES))
    trigger = json.dumps({"kind": "patch", "size": 4})
    (lab / "trigger.yaml").write_text(trigger)
    (lab / "one_round.yaml").write_text("tuning: {rounds: 1, preserve_weight: 0.5, most_asr: 0.3}")
    return lab


def _scenes(count: int, seed: int) -> tuple[list[Image.Image], list[int]]:
    scenes = draw_scenes(count, seed)
    arrays = scenes.pixels.permute(0, 2, 3, 1).contiguous().numpy()
    return [Image.fromarray(array) for array in arrays], scenes.labels


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def test_the_backdoor_is_found_and_removed_and_the_clean_model_left_alone(lab: Path) -> None:
    rows = json.loads((lab / "out" / "result.json").read_text())["rows"]
    row = next(r for r in rows if r["defense"] == "invertune" and r["data"] == "shapes")
    assert row["asr_before"] >= 0.9
    assert row["ca_before"] >= 0.9
    assert row["found_target"] == row["target"] == "star"
    assert row["outcome"] == "ok"
    assert row["asr_after"] <= 0.05
    assert row["ca_after"] >= row["ca_before"] - 0.03
    assert row["asr_clean"] <= 0.05
    clean = next(r for r in rows if r["attack"] == "none")
    assert clean["outcome"] == "rejected"
    assert clean["false_alarm"] is False


def test_the_report_is_one_file(lab: Path) -> None:
    page = (lab / "out" / "report.html").read_text()
    assert "star" in page
    assert 'src="http' not in page
    assert len(page) < 3_000_000


def test_a_second_run_takes_the_models_from_the_cache(
    lab: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVERTUNE_CACHE", str(lab / "cache"))
    monkeypatch.setattr(models, "train_contrastive", None)
    recipe = load_recipe("demo")
    start = models.initial_model(recipe, 0)
    sources = build_sources(recipe.data, start.image_size, seed=0, clean_seed=0)
    clean = models.clean_model(recipe, start, sources, 0, lambda _: print)
    victim = models.victim_model(recipe, sources, clean, 0, lambda _: print).loaded
    kept = {str(path) for path in (lab / "cache" / "models").iterdir()}
    assert kept == {clean.source, victim.source}


def test_repair_and_evaluate_a_checkpoint_of_ones_own(victim: Path, folders: Path) -> None:
    options = ["--classes", folders / "classes.txt", "--templates", "a photo of a {}."]
    options += ["--device", "cpu"]
    attack = ["--trigger", folders / "trigger.yaml", "--target", "star"]
    out = folders / "repaired"
    invertune(
        "repair", victim, "--images", folders / "clean", "--test", folders / "test", "--out", out,
        "--config", folders / "one_round.yaml", *options, *attack,
    )  # fmt: skip
    row = json.loads((out / "result.json").read_text())["rows"][0]
    assert row["found_target"] == "star"
    assert row["asr_before"] > 0.8
    assert row["asr_after"] < 0.15
    card = read_card(out / "repaired.safetensors")
    assert card["found_target"] == "star"
    assert card["source_sha256"] == row["source_sha256"]
    assert load_clip(None, out / "repaired.safetensors").image_size == 32
    measured = folders / "measured.json"
    invertune(
        "evaluate", out / "repaired.safetensors", "--images", folders / "test", "--out", measured,
        *options, *attack,
    )  # fmt: skip
    again = json.loads(measured.read_text())["rows"][0]
    assert again["asr"] == row["asr_after"]
    assert again["ca"] == row["ca_after"]


def test_the_readme_shows_code_that_runs(
    victim: Path, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    code = readme.split("```python\n")[1].split("```")[0]
    for shown, here in (
        ('"RN50", "suspect.safetensors"', f"None, {str(victim)!r}"),
        ('"imagenet"', '"classes.txt"'),
        ('"clean_images"', '"clean"'),
        ('"labelled"', '"test"'),
        ("size=16", "size=4"),
        ('"banana"', '"star"'),
    ):
        assert shown in code
        code = code.replace(shown, here)
    monkeypatch.chdir(folders)
    quick = InverTuneConfig(
        TargetConfig(ratio=0.75), tuning=TuningConfig(rounds=1, preserve_weight=0.5, most_asr=0.3)
    )
    monkeypatch.setattr(invertune_plugin, "InverTune", partial(InverTune, config=quick))
    scope: dict[str, Any] = {}
    exec(code, scope)
    assert scope["found"].outcome == "ok"
    assert scope["repaired"] is not scope["model"]
