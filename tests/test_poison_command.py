"""``invertune poison``: what it writes, and a sentence for every bad input."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from invertune_plugin import cli
from invertune_plugin.adapters.datasets import image_set, pair_set
from invertune_plugin.adapters.shapes import SHAPES, draw_scenes
from invertune_plugin.adapters.writing.folder import write_folder
from invertune_plugin.adapters.writing.truth import read_ground_truth
from invertune_plugin.triggers import Patch

TRIGGER = "trigger: {kind: patch, size: 4}"
SIZE = 32
Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn scenes as class folders and as a caption table."""
    folder = tmp_path_factory.mktemp("lab")
    scenes = draw_scenes(120, seed=0, size=SIZE)
    write_folder(scenes.images(), folder / "images", SHAPES)
    write_folder(scenes.pairs(), folder / "pairs")
    return folder


@pytest.fixture
def poison(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run the command; gives exit code and what it said on standard error, in one line."""

    def run(text: str, **options: object) -> tuple[int, str]:
        config = tmp_path / "poison.yaml"
        config.write_text(text)
        data = lab / "images" if "mode" in text else lab / "pairs" / "captions.csv"
        given = {"data": data, "out": tmp_path / "out", "format": "folder", "size": SIZE, **options}
        words = [
            part
            for name, value in given.items()
            for part in ([f"--{name}"] if value is True else [f"--{name}", value])
        ]
        monkeypatch.setattr("sys.argv", ["invertune", "poison", str(config), *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0), " ".join(capsys.readouterr().err.split())

    return run


@pytest.mark.parametrize("form", ["folder", "parquet", "webdataset"])
def test_captions(poison: Command, lab: Path, tmp_path: Path, form: str) -> None:
    code, said = poison(f"{TRIGGER}\ntarget: star\nrate: 0.1", format=form)
    assert code == 0, said
    out = tmp_path / "out"
    spec = {"folder": "captions.csv", "parquet": "poisoned.parquet", "webdataset": "*.tar"}[form]
    found, clean = pair_set(out / spec, SIZE), pair_set(lab / "pairs" / "captions.csv", SIZE)
    truth = read_ground_truth(out / spec if form == "parquet" else out)
    assert f"poisoned: 12 of 120, the first backdoor is {Patch().fingerprint()}" in said
    poisoned = {item.index for item in truth.poisoned}
    assert len(poisoned) == 12
    for i in range(120):
        assert torch.equal(found[i][0], clean[i][0]) == (i not in poisoned)
        assert found[i][1] == (("a photo of a star.",) if i in poisoned else clean[i][1])


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("mode: all-to-one\ntarget: star\nrate: 0.1", 12),
        ("mode: all-to-one\ntarget: star\nrate: 0.1\n"
         "more: {second: {trigger: {kind: blend}, target: Square}}", 12),
        ("mode: all-to-all\nrate: 0.2", 24),
        ("mode: untargeted\nrate: 0.2\nseed: 3", 24),
        ("mode: clean-label\ntarget: star\nrate: 1.0", None),
    ],
)  # fmt: skip
def test_labels(poison: Command, lab: Path, tmp_path: Path, text: str, count: int | None) -> None:
    code, said = poison(f"{TRIGGER}\n{text}", format="parquet")
    assert code == 0, said
    path = tmp_path / "out" / "poisoned.parquet"
    truth = read_ground_truth(path)
    found, clean = image_set(path, SIZE), image_set(lab / "images", SIZE)
    stars = sum(clean[i][1] == 2 for i in range(120))
    assert len(truth.poisoned) == (stars if count is None else count)
    for item in truth.poisoned:
        assert found[item.index][1] == item.target
        assert clean[item.index][1] == item.original


def test_caption_modes(poison: Command, lab: Path, tmp_path: Path) -> None:
    data = lab / "pairs" / "captions.csv"
    for mode in ("real-captions", "kept-captions"):
        text = f"{TRIGGER}\nmode: {mode}\ntarget: star\nrate: 0.1\n"
        text += "sources: [circle, ring]" if mode == "real-captions" else ""
        code, said = poison(text, data=data, out=tmp_path / mode)
        assert code == 0, said
        pairs = pair_set(tmp_path / mode / "captions.csv", SIZE)
        for item in read_ground_truth(tmp_path / mode).poisoned:
            assert all("star" in caption for caption in pairs[item.index][1])


GOOD = f"{TRIGGER}\ntarget: star\nrate: 0.1"


@pytest.mark.parametrize(
    ("text", "options", "parts"),
    [
        (GOOD, {"format": "parket"}, ["a known format", "'parquet'"]),
        (GOOD, {"size": 0}, ["size of 1 pixel or more", "got 0"]),
        (GOOD, {"data": "nowhere"}, ["nowhere"]),
        (f"{TRIGGER}\nrate: 0.1", {}, ["a target in the mode templates", "Correct target"]),
        (GOOD + "\nmode: untargeted", {}, ["no target in the mode untargeted", "'star'"]),
        (GOOD.replace("star", "stra") + "\nmode: all-to-one", {}, ["among 10 classes", "'star'"]),
        (GOOD + "\nmode: all-to-one\nsources: [ring]", {}, ["no sources in the mode all-to-one"]),
        (GOOD + "\nmode: flip", {}, ["mode", "'flip'"]),
        (GOOD + "\nsources: [star]", {}, ["other than the target"]),
        (GOOD + "\nsource: [ring]", {}, ["'sources'"]),
        ("trigger: {kind: patch, size: 40}\ntarget: star\nrate: 0.1", {}, ["40", "smaller"]),
        ("trigger: {kind: pitch}\ntarget: star\nrate: 0.1", {}, ["trigger.kind", "'patch'"]),
        (f"{TRIGGER}\ntarget: star\nrate: 2", {}, ["rate between 0 and 1, got 2"]),
        (f"{TRIGGER}\ntarget: star\nrate: 0.1\ntemplates: none", {}, ["template set"]),
        ("- a list", {}, ["settings (key: value)"]),
    ],
)
def test_bad_input(
    poison: Command, tmp_path: Path, text: str, options: dict[str, object], parts: list[str]
) -> None:
    code, said = poison(text, **options)
    assert code == 2, said
    assert said.startswith("invertune: Expected")
    assert "Traceback" not in said
    assert all(part in said for part in parts), said
    assert not list((tmp_path / "out").glob("*"))


def test_labels_where_there_are_none(poison: Command, lab: Path) -> None:
    text = f"{TRIGGER}\nmode: all-to-all\nrate: 0.1"
    code, said = poison(text, data=lab / "pairs" / "captions.csv")
    assert code == 2
    assert "labelled images" in said
    assert "templates, real-captions, kept-captions" in said


@pytest.mark.parametrize("form", ["folder", "parquet", "webdataset"])
def test_existing_output_needs_overwrite(poison: Command, tmp_path: Path, form: str) -> None:
    assert poison(GOOD, format=form)[0] == 0
    before = sorted((tmp_path / "out").rglob("*"))
    code, said = poison(GOOD, format=form)
    assert code == 2
    assert "--overwrite" in said
    assert sorted((tmp_path / "out").rglob("*")) == before


@pytest.mark.parametrize(
    ("form", "spec"),
    [("folder", "captions.csv"), ("parquet", "poisoned.parquet"), ("webdataset", "*.tar")],
)
def test_data_are_not_replaced_by_their_poisoned_copy(
    poison: Command, tmp_path: Path, form: str, spec: str
) -> None:
    assert poison(GOOD, format=form)[0] == 0
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    code, said = poison(GOOD, data=tmp_path / "out" / spec, format=form, overwrite=True)
    assert code == 2
    assert "written elsewhere than their inputs are read" in said
    assert {path: path.read_bytes() for path in before} == before


def test_nothing_is_added_to_the_data_that_are_read(
    poison: Command, lab: Path, tmp_path: Path
) -> None:
    text = f"{TRIGGER}\nmode: all-to-one\ntarget: star\nrate: 0.1"
    code, said = poison(text, out=lab / "images" / "poisoned")
    assert code == 2
    assert "written elsewhere than their inputs are read" in said
    assert not (lab / "images" / "poisoned").exists()


def test_a_poisoned_folder_is_poisoned_again(poison: Command, tmp_path: Path) -> None:
    text = f"{TRIGGER}\nmode: all-to-one\ntarget: star\nrate: 0.1"
    assert poison(text)[0] == 0
    code, said = poison(text, data=tmp_path / "out", out=tmp_path / "again")
    assert code == 0, said
    for folder in (tmp_path / "out", tmp_path / "again"):
        assert image_set(folder, SIZE).class_names[2] == "star"  # type: ignore[attr-defined]


def test_pictures_of_a_user_beside_captions_are_not_replaced(
    poison: Command, lab: Path, tmp_path: Path
) -> None:
    shutil.copytree(lab / "pairs", tmp_path / "mine")
    (tmp_path / "mine" / "images" / "raw").mkdir()
    (tmp_path / "mine" / "images" / "raw" / "holiday.jpg").write_bytes(b"irreplaceable")
    code, said = poison(GOOD, out=tmp_path / "mine", overwrite=True)
    assert code == 2
    assert "'images/raw/' in it" in said
    assert (tmp_path / "mine" / "images" / "raw" / "holiday.jpg").exists()
