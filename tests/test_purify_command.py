"""``invertune purify``: what it finds, writes and refuses."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from tiny import vit_config

from invertune_plugin import cli
from invertune_plugin.adapters.datasets import labelled_or_captioned
from invertune_plugin.adapters.open_clip import load_clip, save_clip
from invertune_plugin.adapters.writing.folder import write_folder
from invertune_plugin.adapters.writing.parquet import write_parquet
from invertune_plugin.adapters.writing.shards import write_shards
from invertune_plugin.adapters.writing.truth import poisoned_indices, read_ground_truth, truth_path
from invertune_plugin.attacks.backdoors import Backdoor
from invertune_plugin.attacks.captions import TemplateCaptions
from invertune_plugin.attacks.label_rules import AllToOne
from invertune_plugin.attacks.labels import PoisonedLabels
from invertune_plugin.attacks.poisoning import PoisonedCaptions
from invertune_plugin.benchmark.report.removed_picture import SIDE, TITLE
from invertune_plugin.data import ClassCaptions, InMemory
from invertune_plugin.triggers import Patch

pytest.importorskip("hdbscan", reason="FLARE's clusters need hdbscan")

NAMES = ("ring", "star", "cross")
OTHERS = ("first", "second", "third")
COUNT, RATE = 120, 0.2
SPECS = {
    "pairs": "pairs/captions.csv",
    "labels": "labels",
    "parquet": "pairs.parquet",
    "shards": "shards/*.tar",
}
Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plain grey images of which a fifth have a large patch, in all formats, and a CLIP."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "vit.json").write_text(json.dumps(vit_config()))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_clip(folder / "vit.safetensors", load_clip(folder / "vit.json"), {})
    (folder / "classes.txt").write_text("\n".join(NAMES))
    (folder / "flare.yaml").write_text(
        "projection: {kind: pca}\nclusters: {min_cluster_size: 15}\nmost_of_classes: 1.0\n"
    )
    generator = torch.Generator().manual_seed(0)
    grey = torch.randint(118, 138, (COUNT, 3, 32, 32), generator=generator, dtype=torch.uint8)
    clean = InMemory(grey, [i % 3 for i in range(COUNT)])
    trigger = Patch(size=16)
    labels = PoisonedLabels(clean, [Backdoor(trigger, AllToOne(1))], RATE)
    write_folder(labels, folder / "labels", OTHERS, labels.ground_truth())
    write_folder(labels, folder / "named", NAMES, labels.ground_truth())
    pairs = PoisonedCaptions(
        ClassCaptions(clean, NAMES, ("a {}", "the {}")),
        [Backdoor(trigger, "star")],
        RATE,
        TemplateCaptions(("a photo of a {}",)),
    )
    truth = pairs.ground_truth()
    write_folder(pairs, folder / "pairs", truth=truth)
    write_parquet(pairs, folder / "pairs.parquet", truth=truth)
    write_shards(pairs, folder / "shards", truth=truth, samples=50)
    return folder


@pytest.fixture
def purify(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run the command; gives exit code and what it said, in one line."""

    def run(data: object = None, **options: object) -> tuple[int, str]:
        given = {
            "checkpoint": lab / "vit.safetensors",
            "classes": lab / "classes.txt",
            "out": tmp_path / "out",
            "config": lab / "flare.yaml",
            "device": "cpu",
            **options,
        }
        words = [
            part
            for name, value in given.items()
            if value is not None
            for part in ([f"--{name}"] if value is True else [f"--{name}", str(value)])
        ]
        monkeypatch.setenv("INVERTUNE_CACHE", str(tmp_path / "cache"))
        spec = str(data or lab / "pairs.parquet")
        monkeypatch.setattr("sys.argv", ["invertune", "purify", spec, *words])
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        return int(left.value.code or 0), " ".join((out + err).split())

    return run


def row_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())["rows"][0]
    return found


@pytest.mark.parametrize("keep", [None, "webdataset", "parquet"])
def test_kept_data_do_not_stay_beside_other_results(
    purify: Command, tmp_path: Path, keep: str | None
) -> None:
    out = tmp_path / "out"
    assert purify(keep="folder")[0] == 0
    before = (out / "result.json").stat().st_mtime_ns
    code, said = purify(keep=keep, overwrite=True)
    assert code == 2
    assert "Expected no kept data beside results that they do not belong to" in said
    assert (out / "kept" / "captions.csv").exists()
    assert (out / "result.json").stat().st_mtime_ns == before, "refused before any work"
    assert purify(keep="folder", overwrite=True)[0] == 0


def test_data_are_not_replaced_by_what_is_kept_of_them(purify: Command, tmp_path: Path) -> None:
    kept = tmp_path / "out" / "kept" / "captions.csv"
    assert purify(keep="folder")[0] == 0
    before = kept.read_bytes()
    code, said = purify(kept, keep="folder", overwrite=True)
    assert code == 2
    assert "written elsewhere than their inputs are read" in said
    assert kept.read_bytes() == before


@pytest.mark.parametrize("out", ["labels", "labels/found"])
def test_nothing_is_added_to_the_set_that_is_searched(
    purify: Command, lab: Path, tmp_path: Path, out: str
) -> None:
    shutil.copytree(lab / "labels", tmp_path / "labels")
    before = sorted((tmp_path / "labels").rglob("*.*"))
    code, said = purify(tmp_path / "labels", out=tmp_path / out)
    assert code == 2
    assert "written elsewhere than their inputs are read" in said
    assert sorted((tmp_path / "labels").rglob("*.*")) == before


def test_a_table_is_not_replaced_by_its_scores(purify: Command, lab: Path, tmp_path: Path) -> None:
    shutil.copytree(lab / "pairs", tmp_path / "pairs")
    table = (tmp_path / "pairs" / "captions.csv").rename(tmp_path / "pairs" / "scores.csv")
    before = table.read_bytes()
    assert purify(table, out=tmp_path / "pairs", overwrite=True)[0] == 2
    assert table.read_bytes() == before


@pytest.mark.parametrize("form", SPECS)
def test_poison_is_found_in_every_format(
    purify: Command, lab: Path, tmp_path: Path, form: str
) -> None:
    code, said = purify(lab / SPECS[form])
    assert code == 0, said
    row = row_of(tmp_path / "out")
    assert (row["outcome"], row["n"], row["removed"]) == ("ok", COUNT, COUNT * RATE)
    assert (row["tpr"], row["fpr"], row["auroc"]) == (1.0, 0.0, 1.0)
    assert row["passes"] == COUNT
    assert "TPR" in said
    lines = list(csv.DictReader((tmp_path / "out" / "scores.csv").open()))
    assert [int(line["index"]) for line in lines] == list(range(COUNT))
    assert sum(int(line["poisoned"]) for line in lines) == COUNT * RATE
    least = min(float(line["score"]) for line in lines if line["poisoned"] == "1")
    assert least > max(float(line["score"]) for line in lines if line["poisoned"] == "0")


def test_a_picture_shows_what_was_removed(purify: Command, tmp_path: Path) -> None:
    """The difference of the means is the patch, white on grey; without a find there is none."""
    path = tmp_path / "out" / "removed.png"
    _, said = purify()
    assert str(path) in said
    picture = Image.open(path)
    assert picture.size == (8 * SIDE, 3 * (SIDE + TITLE))
    top = 2 * (SIDE + TITLE) + TITLE
    tile = np.asarray(picture.crop((2 * SIDE, top, 3 * SIDE, top + SIDE)))
    assert tile[-SIDE // 2 :, -SIDE // 2 :].std() > 100, "checkerboard at the bottom right"
    assert abs(tile[: SIDE // 2].mean() - 127) < 10, "grey above it"
    _, said = purify(by="none", config=None, overwrite=True)
    assert not path.exists()


@pytest.mark.parametrize(
    ("form", "keep", "spec"),
    [
        ("pairs", "folder", "kept/captions.csv"),
        ("pairs", "parquet", "kept.parquet"),
        ("labels", "folder", "kept"),
        ("labels", "webdataset", "kept-shards/*.tar"),
    ],
)
def test_what_stays_can_be_written(
    purify: Command, lab: Path, tmp_path: Path, form: str, keep: str, spec: str
) -> None:
    code, said = purify(lab / SPECS[form], keep=keep, size=32)
    assert code == 0, said
    kept: Any = labelled_or_captioned(tmp_path / "out" / spec, 32)
    every: Any = labelled_or_captioned(lab / SPECS[form], 32)
    assert len(kept) == COUNT * (1 - RATE)
    removed = [
        int(line["index"])
        for line in csv.DictReader((tmp_path / "out" / "scores.csv").open())
        if line["poisoned"] == "1"
    ]
    first = next(i for i in range(COUNT) if i not in removed)
    assert torch.equal(kept[0][0], every[first][0])
    assert kept[0][1] == every[first][1]


@pytest.mark.parametrize("keep", ["folder", "parquet"])
def test_classes_keep_their_names(purify: Command, lab: Path, tmp_path: Path, keep: str) -> None:
    code, said = purify(lab / "labels", by="none", config=None, keep=keep, size=32)
    assert code == 0, said
    path = tmp_path / "out" / {"folder": "kept", "parquet": "kept.parquet"}[keep]
    kept: Any = labelled_or_captioned(path, 8)
    assert list(kept.class_names) == list(OTHERS)
    if keep == "folder":
        assert {each.name for each in path.iterdir()} == {"0-first", "1-second", "2-third"}


def gap(folder: Path, lab: Path) -> Path:
    """A set with a class that has no image."""
    labels: Any = labelled_or_captioned(lab / "labels", 32)
    return write_parquet(labels, folder / "gap.parquet", (*OTHERS, "fourth"))


def loose(folder: Path, lab: Path) -> Path:
    """A set with an image of no class."""
    shutil.copytree(lab / "labels", folder / "loose")
    shutil.copy(next((lab / "labels").rglob("*.png")), folder / "loose")
    return folder / "loose"


@pytest.mark.parametrize(
    ("make", "keep", "part"),
    [
        (gap, "folder", "got none of fourth"),
        (loose, "folder", "got 1 without one"),
        (loose, "webdataset", "got 1 without one"),
    ],
)
def test_what_cannot_be_kept_is_not_searched(
    purify: Command, lab: Path, tmp_path: Path, make: Callable[..., Path], keep: str, part: str
) -> None:
    options = {"by": "none", "config": None, "size": 32}
    code, said = purify(make(tmp_path, lab), keep=keep, **options)
    assert code == 2
    assert part in said
    assert not list((tmp_path / "out").iterdir())


def test_a_file_of_a_user_among_kept_data_ends_it_before_the_search(
    purify: Command, tmp_path: Path
) -> None:
    (tmp_path / "out" / "kept").mkdir(parents=True)
    (tmp_path / "out" / "kept" / "notes.txt").write_text("mine")
    code, said = purify(by="none", config=None, keep="folder", overwrite=True)
    assert code == 2
    assert "Only folders of invertune purify are replaced" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["kept"]


def test_the_record_tells_how_to_do_it_again(
    purify: Command, lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(lab)
    config = tmp_path / "near.yaml"
    config.write_text("k: 12")
    code, said = purify("pairs.parquet", by="k_distance", config=config, templates="a {}.", seed=3)
    assert code == 0, said
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["command"] == (
        f"invertune purify pairs.parquet --checkpoint {lab / 'vit.safetensors'} --classes "
        f"{lab / 'classes.txt'} --out {tmp_path / 'out'} --by k_distance --templates 'a {{}}.' "
        f"--config {config} --seed 3 --device cpu"
    )
    assert (result["settings"]["k"], result["settings"]["reference"]) == (12, 2048)


def test_what_cannot_be_read_is_told_and_what_stays_is_kept_in_its_place(
    purify: Command, lab: Path, tmp_path: Path
) -> None:
    shutil.copytree(lab / "labels", tmp_path / "labels")
    read = labelled_or_captioned(tmp_path / "labels", 32)
    truth = read_ground_truth(tmp_path / "labels" / "ground_truth.json")
    image = Path(read.name(poisoned_indices(truth, read)[0]))
    image.write_bytes(b"no image")
    code, said = purify(tmp_path / "labels", keep="parquet", size=32)
    assert code == 0, said
    assert f"skipped, not readable: {image}" in said
    row = row_of(tmp_path / "out")
    assert (row["n"], row["tpr_n"]) == (COUNT - 1, COUNT * RATE - 1), "a poisoned one"
    assert image.read_bytes() == b"no image"
    assert (tmp_path / "out" / "kept.parquet").is_file()


def test_rows_that_cannot_be_read_are_told_before_the_search(
    purify: Command, lab: Path, tmp_path: Path
) -> None:
    table = parquet.read_table(lab / "pairs.parquet")
    truth = read_ground_truth(lab / "pairs.parquet")
    row = int(truth.poisoned[0].place.split()[1])
    rows = table.to_pylist()
    rows[row]["image"]["bytes"] = rows[row]["image"]["bytes"][:90]
    parquet.write_table(pa.Table.from_pylist(rows, table.schema), tmp_path / "cut.parquet")
    shutil.copy(truth_path(lab / "pairs.parquet"), truth_path(tmp_path / "cut.parquet"))
    code, said = purify(tmp_path / "cut.parquet", keep="parquet", size=32)
    assert code == 0, said
    assert f"skipped, not readable: row {row} of {tmp_path / 'cut.parquet'}" in said
    found = row_of(tmp_path / "out")
    assert (found["n"], found["tpr_n"]) == (COUNT - 1, COUNT * RATE - 1)
    kept = labelled_or_captioned(tmp_path / "out" / "kept.parquet", 32)
    assert len(kept) == COUNT - 1 - found["removed"]
    for index in range(len(rows)):
        rows[index]["image"]["bytes"] = b"none"
    parquet.write_table(pa.Table.from_pylist(rows, table.schema), tmp_path / "none.parquet")
    code, said = purify(tmp_path / "none.parquet", out=tmp_path / "other")
    assert code == 2
    assert f"got none among {COUNT} rows" in said


def test_features_on_disk(purify: Command, tmp_path: Path) -> None:
    config = tmp_path / "spilled.yaml"
    config.write_text(
        f"features: {{measure: mean-and-largest, spill: {tmp_path / 'x.npy'}}}\n"
        "least_carried: null\n"
    )
    code, said = purify(by="directions", config=config)
    assert code == 0, said
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["settings"]["features"]["spill"] == str(tmp_path / "x.npy")


def test_images_without_classes_can_be_kept(purify: Command, lab: Path, tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    for image in (lab / "pairs" / "images").iterdir():
        shutil.copy(image, tmp_path / "bare")
    options = {"by": "k_distance", "config": None, "keep": "parquet", "size": 32}
    code, said = purify(tmp_path / "bare", **options)
    assert code == 0, said
    kept: Any = labelled_or_captioned(tmp_path / "out" / "kept.parquet", 32)
    assert set(kept.texts) == {-1}


def test_labels_without_names_are_named_by_the_classes(
    purify: Command, lab: Path, tmp_path: Path
) -> None:
    """Known before the search: which names a set of bare integers gets."""
    labels = labelled_or_captioned(lab / "labels", 32)
    write_parquet(labels, tmp_path / "bare.parquet", OTHERS)
    table = parquet.read_table(tmp_path / "bare.parquet").replace_schema_metadata(None)
    parquet.write_table(table, tmp_path / "bare.parquet")
    options = {"by": "k_distance", "config": None, "keep": "parquet", "size": 32}
    code, said = purify(tmp_path / "bare.parquet", **options)
    assert code == 0, said
    kept: Any = labelled_or_captioned(tmp_path / "out" / "kept.parquet", 32)
    assert list(kept.class_names) == (lab / "classes.txt").read_text().split()


def test_labels_that_the_model_does_not_read_are_refused(purify: Command, lab: Path) -> None:
    code, said = purify(lab / "named")
    assert code == 1
    assert "Train it on the set first" in said


def test_a_set_named_from_the_data_folder_has_its_truth(
    purify: Command, lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INVERTUNE_DATA", str(lab))
    code, said = purify("shards")
    assert code == 0, said
    assert row_of(tmp_path / "out")["tpr"] == 1.0


def test_without_a_truth_nothing_is_measured(purify: Command, lab: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.parquet"
    alone.write_bytes((lab / "pairs.parquet").read_bytes())
    code, said = purify(alone)
    assert code == 0, said
    row = row_of(tmp_path / "out")
    assert row["removed"] == COUNT * RATE
    assert not {"tpr", "fpr", "auroc"} & row.keys()
    assert "TPR" not in said


def test_another_purifier(purify: Command, tmp_path: Path) -> None:
    code, said = purify(by="clip_score", config=None)
    assert code == 0, said
    assert row_of(tmp_path / "out")["defense"] == "clip_score"


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"by": "flair"}, ["known purifier, got 'flair'", "'flare'"]),
        ({"by": "spectral_signatures", "config": None}, ["labels for spectral_signatures"]),
        ({"by": "dao"}, ["a known setting, got dao.projection"]),
        ({"keep": "zip"}, ["a known format to keep, got 'zip'"]),
        ({"keep": "folder", "size": 0}, ["size of 1 pixel or more"]),
        ({"checkpoint": "nowhere.pt"}, ["nowhere.pt"]),
        ({"data": "nowhere.parquet"}, ["nowhere.parquet"]),
        ({"config": None}, ["202 samples or more for two clusters of more than 100, got 120"]),
    ],
)
def test_bad_input(
    purify: Command, tmp_path: Path, options: dict[str, Any], parts: list[str]
) -> None:
    code, said = purify(**options)
    assert code == 2, said
    assert "Traceback" not in said
    assert all(part in said for part in parts), said
    assert not list((tmp_path / "out").glob("*"))


def test_existing_output_needs_overwrite(purify: Command, tmp_path: Path) -> None:
    assert purify(by="none", config=None, keep="parquet", size=32)[0] == 0
    before = (tmp_path / "out" / "scores.csv").read_bytes()
    code, said = purify(by="none", config=None, keep="parquet", size=32)
    assert code == 2
    assert "--overwrite" in said
    assert (tmp_path / "out" / "scores.csv").read_bytes() == before
    again = {"keep": "parquet", "size": 32, "overwrite": True}
    assert purify(by="none", config=None, **again)[0] == 0


def test_the_page_trains_a_model_on_a_poisoned_set(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """docs/flare.md, on a tower small enough for a test."""
    page = (Path(__file__).parent.parent / "docs" / "flare.md").read_text(encoding="utf-8")
    code = page.split("Where there is none yet:")[1].split("```python")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(lab / "pairs", "poisoned")
    shutil.copy(lab / "classes.txt", ".")
    start = load_clip(None, lab / "vit.safetensors").model
    name = f"None, {str(lab / 'vit.safetensors')!r}"
    exec(code.replace('"RN50", "openai"', name).replace("batch_size=128", "batch_size=32"), {})
    trained = load_clip(None, "trained.safetensors").model
    moved = [
        not torch.equal(a, b) for a, b in zip(start.parameters(), trained.parameters(), strict=True)
    ]
    assert all(moved)
