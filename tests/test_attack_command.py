"""``invertune attack``: what it writes, and a sentence for every bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tiny import rn_config

from invertune_plugin import cli
from invertune_plugin.adapters.open_clip import load_clip, zero_shot_classifier
from invertune_plugin.adapters.shapes import SHAPES, draw_scenes
from invertune_plugin.adapters.victim_cards import read_victim_card, trigger_beside
from invertune_plugin.attacks.victim_check import check_victim
from invertune_plugin.benchmark.experiment import models
from invertune_plugin.benchmark.experiment.sources import build_sources
from invertune_plugin.benchmark.experiment.victims import victim_recipe
from invertune_plugin.checkpoints import read_card, read_state_dict
from invertune_plugin.data import content_sha256
from invertune_plugin.outcome import Outcome
from invertune_plugin.triggers import MaskedPattern, Patch, load_trigger

Command = Callable[..., tuple[int, str, str]]
TRAINING = "{max_steps: 2, batch_size: 32, learning_rate: 1.0e-3}"
VICTIMS = {
    "fixed": "trigger: {kind: patch, size: 4}\nalso: [{trigger: {kind: blend}}]\nrate: 0.1",
    "crafted": "patch: {size: 5, steps: 2, batch_size: 16}\ncaptions: kept\nrate: 0.5",
    "encoder": "trigger: {kind: patch, size: 4}\nencoder: {steps: 1, batch_size: 8}",
    "moon": "trigger: {kind: patch, size: 4}\ntarget: moon",
    "also_moon": "trigger: {kind: patch}\nalso: [{trigger: {kind: blend}, target: rong}]",
    "typo": "triger: {kind: patch, size: 4}",
    "two": "trigger: {kind: patch}\npatch: {}",
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of seconds, and attacks for it."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "rn.json").write_text(json.dumps(rn_config()))
    (folder / "tiny.yaml").write_text(
        f"name: tiny\nmodel: {folder / 'rn.json'}\n"
        "data: {source: shapes, clean: 64, attack: 64, test: 60}\n"
        f"clean: {TRAINING}\nattack: {{target: star, rate: 0.1, training: {TRAINING}}}\n"
    )
    for name, text in VICTIMS.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture
def invertune(
    lab: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Run the command; gives exit code, standard error and standard output, in one line each."""

    def run(*words: object) -> tuple[int, str, str]:
        monkeypatch.setenv("INVERTUNE_CACHE", str(lab / "cache"))
        monkeypatch.setattr("sys.argv", ["invertune", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            cli.main()
        said = capsys.readouterr()
        return int(left.value.code or 0), " ".join(said.err.split()), " ".join(said.out.split())

    return run


@pytest.fixture
def attack(invertune: Command, lab: Path, tmp_path: Path) -> Command:
    """``invertune attack`` with good options, of which a test replaces some."""

    def run(victim: object = "fixed", *words: object, **options: object) -> tuple[int, str, str]:
        victim = lab / f"{victim}.yaml" if victim in VICTIMS else victim
        given = {"on": lab / "tiny.yaml", "out": tmp_path / "v.safetensors", "device": "cpu"}
        given |= options
        parts = [part for name, value in given.items() for part in (f"--{name}", value)]
        return invertune("attack", victim, *parts, *words)

    return run


def test_a_victim_is_what_its_card_says(attack: Command, lab: Path, tmp_path: Path) -> None:
    code, said, shown = attack()
    assert code == 0, said
    path = tmp_path / "v.safetensors"
    card = read_victim_card(path)
    assert (card.attack, card.target, card.seed) == ("fixed", "star", 0)
    assert card.attack_trigger() == Patch(size=4)
    assert card.poisoned_rate == pytest.approx(6 / 64)
    assert (card.ca_n, card.class_names) == (60, SHAPES)
    assert "torch" in card.versions
    sources = build_sources(victim_recipe(lab / "fixed.yaml", lab / "tiny.yaml").data, 32, 0, 0)
    test = sources.tests()[0].images
    hashes = {"attack": content_sha256(sources.pairs("attack")), "test": content_sha256(test)}
    assert card.data_sha256 == hashes
    (clean,) = (lab / "cache" / "models").glob("clean-*.safetensors")
    assert card.parent_sha256 == load_clip(None, clean).source_sha256
    classifier = zero_shot_classifier(load_clip(None, path), card.class_names, card.templates)
    check = check_victim(classifier, card, test, tolerance=0)
    assert check.outcome is Outcome.OK, check.reason
    assert not trigger_beside(path).exists()
    inside = read_card(path)
    assert [(each["target"], each["trigger"]["kind"]) for each in inside["also"]] == [
        ("hexagon", "blend")
    ]
    assert str(lab) not in json.dumps(inside), "no folder of this machine"
    for part in ("clean CA", "victim CA", f"ASR, star, {card.fingerprint}", "ASR, hexagon, blend-"):
        assert part in shown
    assert f"{check.asr}".split(" of ")[0] in shown


def test_a_crafted_trigger_lies_beside_the_victim(
    attack: Command, invertune: Command, tmp_path: Path
) -> None:
    code, said, _ = attack("crafted")
    assert code == 0, said
    path, beside = tmp_path / "v.safetensors", tmp_path / "v.trigger.safetensors"
    assert said.endswith(f"written: {path}, {beside}")
    card, trigger = read_victim_card(path), load_trigger(beside)
    assert isinstance(trigger, MaskedPattern)
    assert card.attack_trigger(trigger) is trigger
    assert card.poisoned_rate is not None
    assert card.poisoned_rate < 0.5 / 4, "a share of all pairs, not of those of the target"


def test_evaluate_takes_the_file_of_a_crafted_trigger(
    attack: Command, invertune: Command, tmp_path: Path
) -> None:
    assert attack("crafted")[0] == 0
    path, beside = tmp_path / "v.safetensors", tmp_path / "v.trigger.safetensors"
    scenes = draw_scenes(40, seed=9)
    for i, (pixels, label) in enumerate(zip(scenes.pixels, scenes.labels, strict=True)):
        image = tmp_path / "images" / SHAPES[label] / f"{i}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(image)
    (tmp_path / "classes.txt").write_text("\n".join(SHAPES))

    def evaluated(*words: object) -> tuple[str, str]:
        out = tmp_path / "out.json"
        given = ("--images", tmp_path / "images", "--device", "cpu", "--out", out, "--overwrite")
        out.unlink(missing_ok=True)
        said = invertune("evaluate", path, *given, *words)[1]
        row = json.loads(out.read_text())["rows"][0] if out.exists() else {}
        return row.get("attack", "none"), said

    fingerprint = load_trigger(beside).fingerprint()
    by_hand = ("--classes", tmp_path / "classes.txt", "--target", "star", "--trigger")
    assert evaluated("--card", path)[0] == fingerprint
    assert evaluated(*by_hand, beside)[0] == fingerprint
    moved = beside.rename(tmp_path / "elsewhere.safetensors")
    assert evaluated("--card", path, "--trigger", moved)[0] == fingerprint
    found, said = evaluated("--card", path)
    assert (found, "in v.trigger.safetensors beside the checkpoint" in said) == ("none", True), said
    found, said = evaluated(*by_hand, path)
    assert (found, "Expected a trigger in" in said) == ("none", True), said
    found, said = evaluated(*by_hand, beside)
    assert (found, "v.trigger.safetensors" in said) == ("none", True), said


def test_again_from_the_cache_over_an_older_victim(
    attack: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert attack("crafted")[0] == 0
    first = read_state_dict(tmp_path / "v.safetensors")
    monkeypatch.setattr(models, "plant", None)
    assert attack("crafted", "--overwrite")[0] == 0
    again = read_state_dict(tmp_path / "v.safetensors")
    assert all(again[name].equal(tensor) for name, tensor in first.items())
    monkeypatch.undo()
    assert attack("fixed", "--overwrite")[0] == 0
    assert not (tmp_path / "v.trigger.safetensors").exists(), "of the older victim"


def test_bad_encoder_has_no_poisoned_pairs(attack: Command, tmp_path: Path) -> None:
    code, said, _ = attack("encoder")
    assert code == 0, said
    assert read_victim_card(tmp_path / "v.safetensors").poisoned_rate is None


@pytest.mark.parametrize(
    ("victim", "options", "parts"),
    [
        ("badnet", {}, ["a victim", "'badnet'", "mean 'badnets'"]),
        ("none.yaml", {}, ["none.yaml", "not exist"]),
        ("badnets", {"on": "dmeo"}, ["a recipe", "'dmeo'", "mean 'demo'"]),
        ("badnets", {"device": "abacus"}, ["abacus"]),
        ("badnets", {"out": "v.pt"}, ["ends in .safetensors", "v.pt"]),
        ("moon", {}, ["among the 10 classes", "'moon'"]),
        ("also_moon", {}, ["'rong'", "mean 'ring'"]),
        ("typo", {}, ["attack.triger", "'trigger'"]),
        ("two", {}, ["one of trigger, patch, perturbation", "trigger and patch"]),
    ],
)
def test_bad_input(
    attack: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    victim: str,
    options: dict[str, object],
    parts: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("invertune_plugin.benchmark.experiment.victims.clean_model", None)
    code, said, _ = attack(victim, **options)
    assert code == 2, said
    assert said.startswith("invertune: Expected")
    assert "Traceback" not in said
    assert all(part in said for part in parts), said
    assert not list(tmp_path.glob("*"))


@pytest.mark.parametrize("name", ["v.safetensors", "v.trigger.safetensors"])
def test_existing_output_needs_overwrite(attack: Command, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    code, said, _ = attack()
    assert code == 2
    assert name in said
    assert "--overwrite" in said
    assert (tmp_path / name).read_text() == "mine"
