"""docs/attacks.md shows settings and code that work, and pictures of the shipped victims."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor
from toys import NAMES, noise_images, toy_classifier

from invertune_plugin.adapters.datasets import image_set
from invertune_plugin.adapters.shapes import SHAPES, draw_scenes
from invertune_plugin.benchmark.experiment.victims import shipped_victims, victim_recipe
from invertune_plugin.data import ClassCaptions, InMemory
from invertune_plugin.errors import InputError
from invertune_plugin.triggers import Patch, save_trigger

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")
STEP = 33 * 4


@pytest.fixture(scope="module")
def pictures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "benchmarks" / "pictures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_shipped_victim_is_told() -> None:
    told = re.findall(r"^\| (\w+) \|", PAGE, re.MULTILINE)
    assert sorted(set(told) - {"name", "attack"}) == shipped_victims()


@pytest.mark.parametrize("text", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_the_settings_on_the_page_are_attacks(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    attack = victim_recipe(tmp_path / "mine.yaml", "demo").attack
    assert all(getattr(attack, name) is not None for name in yaml.safe_load(text))


def test_the_code_on_the_page_runs() -> None:
    images = InMemory(noise_images(40), [i % len(NAMES) for i in range(40)])
    pairs = ClassCaptions(images, NAMES, ("a photo of a {} .",))
    scope: dict[str, Any] = {"clean": toy_classifier("rn"), "pairs": pairs, "images": images}
    _, code = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(code, scope)
    assert len(scope["victim"].poisoned.poisoned) == 4


def test_labelled_scenes_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, _ = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    exec(code.replace("2000", "60"), {})
    assert image_set("labelled", 32, SHAPES).texts[0] == 0
    assert {path.name.split("-")[1] for path in (tmp_path / "labelled").iterdir()} == set(SHAPES)


def test_fixed_triggers_have_a_small_picture(pictures: ModuleType) -> None:
    fixed = {name for name in shipped_victims() if pictures.fixed_triggers(name)}
    assert set(shipped_victims()) - fixed == {"badclip", "universal"}
    drawn = {path.stem: path for path in pictures.PICTURES.glob("*.png")}
    assert fixed <= drawn.keys() <= set(shipped_victims())
    assert max(path.stat().st_size for path in drawn.values()) < 40_000
    shown = re.findall(r"\(pictures/(\w+)\.png\)", PAGE)
    assert set(shown) <= drawn.keys()


def test_a_sheet_shows_scenes_triggers_and_differences(pictures: ModuleType) -> None:
    sheet = pil_to_tensor(pictures.sheet([Patch(size=4, pattern="white")]).convert("RGB"))
    assert sheet.shape == (3, 3 * STEP - 4, 4 * STEP - 4)
    rows = [sheet[:, i * STEP : i * STEP + 128 : 4, :128:4].int() for i in range(3)]
    clean = draw_scenes(1, seed=0).pixels[0].int()
    assert (rows[0] - clean).abs().max() < 16, "but for the palette of 256 colours"
    patch = (slice(None), slice(27, 31), slice(27, 31))
    assert rows[1][patch].min() > 250
    assert rows[2][patch].min() > 250
    assert (rows[2][:, :27] - 128).abs().max() < 4


def test_a_committed_picture_is_what_the_script_draws(pictures: ModuleType) -> None:
    made = pictures.sheet(pictures.fixed_triggers("badnets")).convert("RGB")
    kept = Image.open(pictures.PICTURES / "badnets.png").convert("RGB")
    assert torch.equal(pil_to_tensor(made), pil_to_tensor(kept))


def test_pictures_of_crafted_triggers_come_from_files(pictures: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "x.trigger.safetensors"
    save_trigger(path, Patch())
    pictures.main([f"badclip={path}"], tmp_path / "out")
    out = {p.stem for p in (tmp_path / "out").glob("*.png")}
    assert out == set(shipped_victims()) - {"universal"}
    for wrong in (f"badklip={path}", "badclip"):
        with pytest.raises(InputError, match="Expected NAME=FILE with the name of a shipped"):
            pictures.main([wrong], tmp_path / "out")
