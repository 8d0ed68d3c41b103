"""Every bad input gets a sentence, exit code 2, and nothing half written."""

import json
import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import rn_config, vit_config

from invertune_plugin import cli
from invertune_plugin.adapters.open_clip import load_clip, save_clip
from invertune_plugin.benchmark.commands import evaluate as evaluate_command

CLASSES = ["star", "ring", "cross"]
Command = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, a model config, classes and labelled images."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "rn.json").write_text(json.dumps(rn_config()))
    (folder / "vit.json").write_text(json.dumps(vit_config()))
    torch.manual_seed(0)
    save_clip(folder / "rn.safetensors", load_clip(folder / "rn.json"), {})
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    (folder / "patch.yaml").write_text("kind: patch\nsize: 4\n")
    rng = np.random.default_rng(0)
    for i in range(72):
        image = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        path = folder / "images" / CLASSES[i % 3] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
    return folder


@pytest.fixture
def invertune(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Command:
    """Run the command; gives exit code and what it said on standard error, in one line."""

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setenv("INVERTUNE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        monkeypatch.setattr("sys.argv", ["invertune", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        return int(left.value.code or 0), " ".join(capsys.readouterr().err.split())

    return run


@pytest.fixture
def repair(invertune: Command, lab: Path, tmp_path: Path) -> Command:
    """``invertune repair`` with good options, of which a test replaces some."""

    def run(checkpoint: object = lab / "rn.safetensors", **options: object) -> tuple[int, str]:
        given = {
            "images": lab / "images",
            "classes": lab / "classes.txt",
            "out": tmp_path / "out",
            "device": "cpu",
            **options,
        }
        words = [part for name, value in given.items() for part in (f"--{name}", value)]
        return invertune("repair", checkpoint, *words)

    return run


def refused(result: tuple[int, str], *parts: str) -> None:
    code, said = result
    assert code == 2, said
    assert "invertune: Expected" in said
    assert "Traceback" not in said
    for part in parts:
        assert part in said, said


def test_missing_checkpoint(repair: Command, tmp_path: Path) -> None:
    refused(repair(tmp_path / "none.safetensors"), "none.safetensors")
    assert not list((tmp_path / "out").glob("*"))


def test_truncated_checkpoint(repair: Command, lab: Path, tmp_path: Path) -> None:
    whole = (lab / "rn.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(repair(tmp_path / "cut.safetensors", model=lab / "rn.json"), "cut.safetensors")


def test_pickle_that_would_execute_code(repair: Command, lab: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (ran,)

    (tmp_path / "evil.pt").write_bytes(pickle.dumps(Evil()))
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    for name in ("evil.pt", "evil.pth"):
        refused(repair(tmp_path / name, model=lab / "rn.json"), name)
    assert not ran.exists()


def test_architecture_and_checkpoint_that_do_not_match(repair: Command, lab: Path) -> None:
    refused(repair(model=lab / "vit.json"), "missing", "visual.")


def test_weights_that_are_not_finite(repair: Command, lab: Path, tmp_path: Path) -> None:
    weights = load_clip(None, lab / "rn.safetensors").model.state_dict()
    weights["visual.conv1.weight"][0, 0, 0, 0] = float("nan")
    torch.save(weights, tmp_path / "nan.pt")
    refused(repair(tmp_path / "nan.pt", model=lab / "rn.json"), "visual.conv1.weight")


def test_empty_image_folder(repair: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(repair(images=tmp_path / "empty"), "empty")


def test_unreadable_images_are_listed_and_refused_when_too_few_remain(
    repair: Command, lab: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    for path in sorted((lab / "images").rglob("*.png"))[:60]:
        (folder / path.name).write_bytes(path.read_bytes())
    for i in range(10):
        (folder / f"bad{i}.png").write_bytes(b"no image")
    refused(repair(images=folder), "64", "60", "bad0.png")


@pytest.mark.parametrize(
    ("text", "part"),
    [("star\nring\nstar", "star"), ("star\n\nring", "blank"), ("star", "two")],
    ids=["duplicate", "blank", "one class"],
)
def test_class_file(repair: Command, tmp_path: Path, text: str, part: str) -> None:
    (tmp_path / "classes.txt").write_text(text)
    refused(repair(classes=tmp_path / "classes.txt"), part)


def test_fewer_clean_images_than_needed(repair: Command, lab: Path, tmp_path: Path) -> None:
    (tmp_path / "more.yaml").write_text("least_images: 100")
    refused(repair(config=tmp_path / "more.yaml"), "100", "72")


def test_existing_output_needs_overwrite(repair: Command, tmp_path: Path) -> None:
    report = tmp_path / "out" / "report.html"
    report.parent.mkdir()
    report.write_text("mine")
    refused(repair(), "report.html", "--overwrite")
    assert report.read_text() == "mine"


def test_a_checkpoint_is_not_replaced_by_its_repair(
    invertune: Command, lab: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    mine = out / "repaired.safetensors"
    mine.write_bytes((lab / "rn.safetensors").read_bytes())
    options = ("--images", lab / "images", "--classes", lab / "classes.txt", "--overwrite")
    refused(invertune("repair", mine, *options, "--out", out), "written elsewhere", str(mine))
    refused(invertune("evaluate", mine, *options, "--out", mine), "written elsewhere", str(mine))
    assert mine.read_bytes() == (lab / "rn.safetensors").read_bytes()


@pytest.mark.parametrize("name", ["rn.card.yaml", "rn.trigger.safetensors", "mine.yaml"])
def test_numbers_replace_no_card_and_no_trigger(
    invertune: Command, lab: Path, tmp_path: Path, name: str
) -> None:
    weights = tmp_path / "rn.safetensors"
    weights.write_bytes((lab / "rn.safetensors").read_bytes())
    (tmp_path / name).write_text("mine")
    options = ["--images", lab / "images", "--classes", lab / "classes.txt", "--overwrite"]
    options += ["--card", weights, "--trigger", tmp_path / "mine.yaml"]
    refused(invertune("evaluate", weights, *options, "--out", tmp_path / name), "elsewhere", name)
    assert (tmp_path / name).read_text() == "mine"


def test_a_stopped_command_says_so(invertune: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate_command, "evaluate_checkpoint", stopped)
    code, said = invertune("evaluate", "x.safetensors", "--images", "x")
    assert code == 130
    assert said == "invertune: stopped. The same command goes on where it can."


@pytest.mark.parametrize("seed", ["-1", str(2**32)])
def test_seeds_of_a_comparison_have_a_range(invertune: Command, tmp_path: Path, seed: str) -> None:
    code, said = invertune("toolbox", "run", "table", "--out", tmp_path / "out", "--seed", seed)
    assert code == 2
    assert said.startswith("Usage:")
    assert "invertune toolbox run [OPTIONS]" in said
    assert not (tmp_path / "out").exists()


def test_an_older_repair_does_not_outlive_one_that_finds_nothing(
    invertune: Command, lab: Path, tmp_path: Path
) -> None:
    """Thresholds that no class can meet, so that the model is taken for clean."""
    out, config = tmp_path / "out", tmp_path / "strict.yaml"
    out.mkdir()
    (out / "repaired.safetensors").write_text("an older repair")
    config.write_text(
        "target: {shift_steps: 1, cost_steps: 1, candidates: 2, ratio: 0.0, doubtful_ratio: 0.0}"
    )
    code, said = invertune(
        "repair", lab / "rn.safetensors", "--images", lab / "images", "--out", out,
        "--classes", lab / "classes.txt", "--config", config, "--overwrite",
    )  # fmt: skip
    assert code == 0, said
    assert {path.name for path in out.iterdir()} == {"report.html", "result.json"}
    result = json.loads((out / "result.json").read_text())
    assert f"--config {config} --overwrite" in result["command"]
    assert result["settings"]["target"]["shift_steps"] == 1


def test_output_folder_that_is_a_file(repair: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    refused(repair(out=tmp_path / "file"), "file")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is present")
def test_cuda_absent(repair: Command) -> None:
    refused(repair(device="cuda"), "cuda", "--device cpu")


def test_unknown_device(repair: Command) -> None:
    refused(repair(device="abacus"), "abacus")


def test_unknown_setting_names_the_nearest(repair: Command, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("tuning: {learning_rat: 0.1}")
    refused(repair(config=tmp_path / "wrong.yaml"), "tuning.learning_rat", "'learning_rate'")


def test_setting_of_the_wrong_kind(repair: Command, tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("inversion: {steps: many}")
    refused(repair(config=tmp_path / "wrong.yaml"), "inversion.steps", "'many'")


def test_trigger_without_target(repair: Command, lab: Path) -> None:
    refused(repair(trigger=lab / "patch.yaml", test=lab / "images"), "--target")


def test_trigger_without_test_images(repair: Command, lab: Path) -> None:
    refused(repair(trigger=lab / "patch.yaml", target="star"), "--test")


def test_target_that_is_no_class(repair: Command, lab: Path) -> None:
    options = {"trigger": lab / "patch.yaml", "target": "moon", "test": lab / "images"}
    refused(repair(**options), "'moon'", "star")


def test_test_images_that_the_defence_uses(repair: Command, lab: Path) -> None:
    refused(repair(test=lab / "images"), "--images")


def test_trigger_larger_than_the_image(invertune: Command, lab: Path, tmp_path: Path) -> None:
    (tmp_path / "big.yaml").write_text("kind: patch\nsize: 40\n")
    words = ["--images", lab / "images", "--classes", lab / "classes.txt", "--target", "star"]
    words += ["--trigger", tmp_path / "big.yaml", "--device", "cpu"]
    refused(invertune("evaluate", lab / "rn.safetensors", *words), "40", "smaller")


def test_images_without_labels_cannot_be_evaluated(
    invertune: Command, lab: Path, tmp_path: Path
) -> None:
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in sorted((lab / "images" / "star").glob("*.png")):
        (flat / path.name).write_bytes(path.read_bytes())
    words = ["--images", flat, "--classes", lab / "classes.txt", "--device", "cpu"]
    refused(invertune("evaluate", lab / "rn.safetensors", *words), "labelled", "sub-folders")


def test_images_of_the_target_alone_measure_no_attack(
    invertune: Command, lab: Path, tmp_path: Path
) -> None:
    shutil.copytree(lab / "images" / "star", tmp_path / "only" / "star")
    (tmp_path / "patch.yaml").write_text("kind: patch\nsize: 4\n")
    words = ["--images", tmp_path / "only", "--classes", lab / "classes.txt", "--device", "cpu"]
    words += [
        "--trigger",
        tmp_path / "patch.yaml",
        "--target",
        "star",
        "--out",
        tmp_path / "x.json",
    ]
    refused(invertune("evaluate", lab / "rn.safetensors", *words), "other classes than the target")
    assert not (tmp_path / "x.json").exists()


def test_images_of_no_class_are_counted(invertune: Command, lab: Path, tmp_path: Path) -> None:
    shutil.copytree(lab / "images", tmp_path / "images")
    (tmp_path / "images" / "star").rename(tmp_path / "images" / "moon")
    words = ["--images", tmp_path / "images", "--classes", lab / "classes.txt", "--device", "cpu"]
    code, said = invertune("evaluate", lab / "rn.safetensors", *words)
    assert code == 0
    assert re.search(r"left out: \d+ of \d+ images in .*, of none of the classes", said)


def test_unknown_recipe(invertune: Command, tmp_path: Path) -> None:
    refused(invertune("run", "dmeo", "--out", tmp_path), "mean 'demo'", "'dmeo'", ".yaml")


@pytest.fixture
def evaluate(invertune: Command, lab: Path) -> Command:
    """``invertune evaluate`` of the lab's checkpoint."""

    def run(*words: object) -> tuple[int, str]:
        images = ("--images", lab / "images", "--device", "cpu")
        return invertune("evaluate", lab / "rn.safetensors", *images, *words)

    return run


def card_file(path: Path, **changes: object) -> Path:
    """A card for the lab's checkpoint, which is random and hides no backdoor."""
    values = {
        "attack": "badnets",
        "trigger": {"kind": "patch", "size": 4},
        "target": "star",
        "class_names": CLASSES,
        "templates": ["a {}."],
        "ca": 0.33,
        "ca_n": 72,
    }
    path.write_text(json.dumps({**values, **changes}))
    return path


def test_a_card_that_the_checkpoint_contradicts(evaluate: Command, tmp_path: Path) -> None:
    out = tmp_path / "measured.json"
    card = card_file(tmp_path / "x.card.yaml", asr=0.5, asr_n=10**6, ca=0.99)
    code, said = evaluate("--card", card, "--out", out)
    assert code == 1, said
    assert said.startswith("Expected, as the card says, CA 99.0%, got ")
    assert "; and ASR 50.0%, got " in said
    assert "QuickGELU" in said
    result = json.loads(out.read_text())
    assert f"--card {card} --out {out} --device cpu" in result["command"]
    row = result["rows"][0]
    assert row["outcome"] == "rejected"
    assert row["attack"].startswith("patch-")


def test_a_card_that_the_checkpoint_meets(evaluate: Command, tmp_path: Path) -> None:
    code, said = evaluate("--card", card_file(tmp_path / "x.card.yaml"))
    assert code == 0, said
    assert said.startswith("It is what the card says: CA 3")


def test_a_checkpoint_without_its_card(evaluate: Command, lab: Path) -> None:
    refused(evaluate("--card", lab / "rn.safetensors"), "rn.card.yaml", "docs/victims.md")


def test_card_with_an_unknown_key(evaluate: Command, tmp_path: Path) -> None:
    refused(evaluate("--card", card_file(tmp_path / "c.yaml", asrr=1)), "asrr", "'asr'")


def test_card_that_is_missing(evaluate: Command, tmp_path: Path) -> None:
    refused(evaluate("--card", tmp_path / "none.card.yaml"), "none.card.yaml", "not exist")


def test_card_with_another_target_trigger_or_classes(
    evaluate: Command, lab: Path, tmp_path: Path
) -> None:
    card = card_file(tmp_path / "c.yaml", fingerprint="patch-0")
    refused(evaluate("--card", card, "--target", "ring"), "'star'", "--target 'ring'")
    refused(evaluate("--card", card, "--trigger", lab / "patch.yaml"), "patch-0", "got patch-")
    card_file(card)
    (tmp_path / "two.txt").write_text("star\nring")
    refused(evaluate("--card", card, "--classes", tmp_path / "two.txt"), "3 class_names", "got 2")


def test_neither_classes_nor_card(evaluate: Command) -> None:
    refused(evaluate(), "--classes", "--card")
