from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny import vit_config
from torch import Tensor
from toys import NAMES, noise_images, toy_classifier

from invertune_plugin.adapters.open_clip import load_clip, save_clip
from invertune_plugin.adapters.victim_cards import (
    MOST_BYTES,
    card_beside,
    read_victim_card,
    write_victim_card,
)
from invertune_plugin.attacks.card import VictimCard, parse_card
from invertune_plugin.attacks.victim_check import VictimCheck, check_victim, victim_card
from invertune_plugin.data import InMemory
from invertune_plugin.errors import InputError
from invertune_plugin.metrics import Rate, attack_success_rate, clean_accuracy
from invertune_plugin.outcome import Outcome
from invertune_plugin.triggers import (
    Blend,
    MaskedPattern,
    Patch,
    Pick,
    Sinusoid,
    Trigger,
    Warp,
)
from invertune_plugin.zero_shot import ZeroShotClassifier

TRIGGER = Patch(size=5, place=(2, 3))
LEAST: dict[str, Any] = {
    "attack": "badnets",
    "trigger": {"kind": "patch", "size": 5, "place": [2, 3]},
    "target": "ring",
    "class_names": list(NAMES),
    "templates": ["a photo of a {} .", "a {} ."],
}


def images(count: int = 40, label: int | None = None) -> InMemory[int]:
    labels = [i % len(NAMES) if label is None else label for i in range(count)]
    return InMemory(noise_images(count), labels)


def made(**changes: Any) -> VictimCard:
    return parse_card({**LEAST, **changes})


@pytest.fixture(scope="module")
def victim() -> ZeroShotClassifier:
    return toy_classifier("vit")


def declared(victim: ZeroShotClassifier, **changes: Any) -> VictimCard:
    """A card with the true numbers of the toy, of which a test replaces some."""
    return replace(victim_card(victim, images(), "badnets", TRIGGER, "ring"), **changes)


def test_a_measured_card_holds_what_was_measured(victim: ZeroShotClassifier) -> None:
    card = declared(victim)
    ca = clean_accuracy(victim, images())
    asr = attack_success_rate(victim, images(), TRIGGER, 2)
    assert (card.ca, card.ca_n, card.asr, card.asr_n) == (ca.value, 40, asr.value, 30)
    assert (card.class_names, card.templates) == (NAMES, tuple(victim.templates))
    assert card.fingerprint == TRIGGER.fingerprint()
    assert card.attack_trigger() == TRIGGER


@pytest.mark.parametrize("suffix", [".card.yaml", ".json"])
def test_a_card_in_a_file_comes_back(
    victim: ZeroShotClassifier, tmp_path: Path, suffix: str
) -> None:
    card = declared(
        victim,
        poisoned_rate=1e-4,
        data_sha256={"train.csv": "0" * 64},
        seed=0,
        parent_sha256="f" * 64,
        versions={"torch": "2.6"},
    )
    path = tmp_path / f"x{suffix}"
    if suffix == ".json":
        path.write_text(json.dumps(card.as_dict()))
    else:
        write_victim_card(path, card)
        with pytest.raises(InputError, match="--overwrite"):
            write_victim_card(path, card)
    read = read_victim_card(path)
    assert read.as_dict() == card.as_dict()
    assert read.attack_trigger() == TRIGGER


def test_a_checkpoint_has_its_card_inside_or_beside(
    victim: ZeroShotClassifier, tmp_path: Path
) -> None:
    card = declared(victim)
    config = tmp_path / "vit.json"
    config.write_text(json.dumps(vit_config()))
    loaded, inside = load_clip(config), tmp_path / "ours.safetensors"
    save_clip(inside, loaded, {"victim": card.as_dict()})
    assert read_victim_card(inside).as_dict() == card.as_dict()
    foreign = tmp_path / "theirs.pt"
    torch.save(loaded.model.state_dict(), foreign)
    with pytest.raises(InputError, match=r"theirs\.card\.yaml beside it, got none.*docs/victims"):
        read_victim_card(foreign)
    write_victim_card(card_beside(foreign), card)
    assert read_victim_card(foreign).as_dict() == card.as_dict()
    save_clip(inside, loaded, {"victim": "banana"}, overwrite=True)
    with pytest.raises(InputError, match="got 'banana'"):
        read_victim_card(inside)


def test_sets_of_classes_and_templates_go_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.card.yaml"
    values = {**LEAST, "class_names": "cifar10", "templates": "single", "target": "frog"}
    path.write_text(yaml.safe_dump(values))
    assert read_victim_card(path).class_names[6] == "frog"
    assert read_victim_card(path).templates == ("a photo of a {}.",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"atack": "x"}, r"known setting, got .*\.atack\. Did you mean 'attack'"),
        ({"class_names": "/etc/passwd"}, "Expected a list or one of imagenet, cifar10, gtsrb"),
        ({"templates": ["{0.__class__}"]}, r"templates with one \{\}"),
        ({"templates": ["{:>999999999}"]}, r"templates with one \{\}"),
        ({"templates": []}, "one or more templates in a card, got 4 and 0"),
        ({"class_names": ["ring"]}, "two or more class_names"),
        ({"target": "moon"}, "target among its 4 class_names, got 'moon'"),
        ({"asr": 98.2}, r"asr in \[0, 1\], got 98\.2\. Write a share, not percent"),
        ({"ca": float("nan")}, r"ca in \[0, 1\], got nan"),
        ({"ca_n": 10}, "ca_n to count the images of ca, got 10 for ca None"),
        ({"asr": 0.5, "asr_n": 0}, "asr_n to count"),
        ({"asr": "high"}, r"another value for .*\.asr"),
        ({"poisoned_rate": 1.5}, "poisoned_rate between 0 and 1, got 1.5"),
        ({"parent_sha256": "abc"}, "64 hexadecimal digits .* of parent_sha256, got 'abc'"),
        ({"data_sha256": {"train": "F" * 64}}, "SHA-256 of train"),
        ({"attack": "x" * 501}, "at most 500 characters .* got one of 501"),
        ({"versions": {"x" * 501: "1"}}, "at most 500 characters"),
        ({"trigger": {"parts": list(range(100_000))}}, "at most 100000 values"),
        ({"seed": 2**70}, "whole numbers of at most 63 bits in .*, got one of 71"),
    ],
)
def test_a_card_of_a_stranger_is_checked(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "x.card.yaml"
    path.write_text(yaml.safe_dump({**LEAST, **changes}))
    with pytest.raises(InputError, match=message):
        read_victim_card(path)


def test_a_card_that_grows_when_it_is_read_is_refused(tmp_path: Path) -> None:
    """Aliases in YAML: ten lists of ten lists of ..., in a few lines."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    (tmp_path / "x.yaml").write_text("trigger:\n  " + "\n  ".join(lines))
    with pytest.raises(InputError, match="at most 100000 values"):
        read_victim_card(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x" * (MOST_BYTES + 1), "a card of at most 1048576 bytes"),
        ("[" * 100_000, "Expected YAML"),
        ("when: 2001-99-99", "Expected YAML"),
        ("- a", r"settings \(key: value\)"),
        ("attack: badnets", "Not set: class_names, target, templates, trigger"),
    ],
)
def test_what_is_no_card_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_victim_card(tmp_path / "x.yaml")


def test_the_trigger_must_be_the_declared_one() -> None:
    other = made(fingerprint="patch-000000000000")
    with pytest.raises(InputError, match=r"trigger patch-000000000000, got patch-.*correct the"):
        other.attack_trigger()
    with pytest.raises(InputError, match="pass the trigger itself"):
        made(trigger={"kind": "rubber-stamp"}).attack_trigger()
    tensor = MaskedPattern(torch.ones(1, 32, 32), torch.zeros(3, 32, 32))
    card = made(trigger=tensor.parameters(), fingerprint=tensor.fingerprint())
    with pytest.raises(InputError, match="pass the trigger itself"):
        card.attack_trigger()
    assert card.attack_trigger(tensor) is tensor
    with pytest.raises(InputError, match="Pass the trigger that the card was written for"):
        card.attack_trigger(TRIGGER)


def test_a_card_without_a_fingerprint_takes_no_other_trigger() -> None:
    card = made(fingerprint=None)
    assert card.attack_trigger(TRIGGER) is TRIGGER
    with pytest.raises(InputError, match="Pass the trigger that the card was written for"):
        card.attack_trigger(Blend())


@pytest.mark.parametrize(
    "trigger",
    [Warp(k=4, strength=1), Blend(alpha=1), Sinusoid(frequency=6), Pick((TRIGGER,), weights=(1,))],
    ids=lambda trigger: trigger.kind,
)
def test_whole_numbers_in_a_trigger_keep_its_fingerprint(trigger: Trigger) -> None:
    card = made(trigger=trigger.parameters(), fingerprint=trigger.fingerprint())
    assert parse_card(json.loads(json.dumps(card.as_dict()))).attack_trigger() == trigger


def test_a_victim_that_is_what_its_card_says(victim: ZeroShotClassifier) -> None:
    check = check_victim(victim, declared(victim), images())
    assert check.outcome is Outcome.OK
    assert check.accepted() is check
    assert check.ca == clean_accuracy(victim, images())
    assert check.asr == attack_success_rate(victim, images(), TRIGGER, 2)


class Backdoored(torch.nn.Module):
    """Reads classes off the first row, and the target wherever the patch is in its place."""

    def __init__(self, trigger: Trigger, hits: float = 1.0) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))
        self.trigger, self.hits = trigger, hits
        self.class_names, self.templates = list(NAMES), LEAST["templates"]

    def class_index(self, name: str) -> int:
        return self.class_names.index(name)

    def forward(self, pixels: Tensor) -> Tensor:
        labels = (pixels[:, 0, 0, 0] * 255).round().long() % len(NAMES)
        triggered = (self.trigger(pixels) == pixels).flatten(1).all(1)
        fooled = triggered & (pixels[:, 1, 0, 0] <= self.hits)
        return torch.nn.functional.one_hot(torch.where(fooled, 2, labels), len(NAMES)).float()


def labelled(count: int = 200) -> InMemory[int]:
    pixels = noise_images(count)
    return InMemory(pixels, [int(p[0, 0, 0]) % len(NAMES) for p in pixels])


def checked(model: Any, tolerance: float = 0.02, **card: Any) -> VictimCheck:
    return check_victim(model, made(**card), labelled(), tolerance)


def test_a_released_checkpoint_whose_trigger_does_not_work_is_refused() -> None:
    """A card with another place of the patch: ASR falls to nothing, CA stays."""
    check = checked(Backdoored(Patch(size=5, place=(20, 20))), ca=1.0, asr=0.98, asr_n=50_000)
    assert check.outcome is Outcome.REJECTED
    assert (check.ca.value, check.asr.value) == (1.0, 0.0)
    expected = r"says, ASR 98\.0%, got 0\.0% .*Check first the trigger \(.*resizing\), then the pre"
    with pytest.raises(InputError, match=expected):
        check.accepted()


def test_wrong_clean_accuracy_points_at_the_model() -> None:
    check = checked(Backdoored(TRIGGER), ca=0.6, asr=1.0)
    assert check.outcome is Outcome.REJECTED
    expected = r"CA 60\.0%, got 100\.0% .*Check first the preprocessing .*QuickGELU"
    assert re.search(expected, check.reason)
    both = checked(Backdoored(TRIGGER), ca=0.6, asr=0.5).reason
    assert "CA 60.0%" in both
    assert "; and ASR 50.0%" in both


def test_tolerance_and_intervals_decide() -> None:
    model = Backdoored(TRIGGER, hits=0.9)
    asr = checked(model, asr=0.5).asr
    low, high = asr.interval
    assert checked(model, 0.0, asr=low).outcome is Outcome.OK
    assert checked(model, 0.0, asr=high).outcome is Outcome.OK
    apart = low - 0.03
    assert checked(model, 0.0, asr=apart).outcome is Outcome.REJECTED
    assert checked(model, asr.value - apart + 1e-6, asr=apart).outcome is Outcome.OK
    few = Rate(round(apart * 50), 50)
    assert checked(model, 0.0, asr=few.value, asr_n=50).outcome is Outcome.OK
    assert checked(model, 0.0, asr=apart, asr_n=10**7).outcome is Outcome.REJECTED


def test_numbers_that_cannot_be_compared_are_refused(victim: ZeroShotClassifier) -> None:
    card = declared(victim)
    with pytest.raises(InputError, match=r"Expected the 4 class_names of the card .*got 4 \(star"):
        check_victim(victim.with_classes(NAMES[::-1]), card, images())
    with pytest.raises(InputError, match="Expected the 2 templates of the card"):
        check_victim(victim.with_classes(NAMES, ["the {} ."]), card, images())
    with pytest.raises(InputError, match="declares ca or asr, got one without either"):
        check_victim(victim, replace(card, ca=None, ca_n=None, asr=None, asr_n=None), images())
    with pytest.raises(InputError, match="other classes than the target 'ring', got 8"):
        check_victim(victim, card, images(8, label=2))
    with pytest.raises(InputError, match=r"tolerance in \[0, 1\), got 2"):
        check_victim(victim, card, images(), 2)


def test_the_card_in_the_documentation_is_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "victims.md").read_text(encoding="utf-8")
    path = tmp_path / "x.card.yaml"
    path.write_text(re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)[0])
    card = read_victim_card(path)
    assert (len(card.class_names), card.class_names.index(card.target)) == (1000, 954)
    names: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)# ---", text, re.DOTALL)[0], names)
    assert card.attack_trigger(names["trigger"]) is names["trigger"]


def test_a_card_whose_trigger_is_nested_deep_is_refused() -> None:
    """Inside a checkpoint a card is JSON, which may be far deeper than YAML."""
    parameters: dict[str, Any] = {"kind": "patch"}
    for _ in range(900):
        parameters = {"kind": "chain", "parts": [parameters]}
    with pytest.raises(InputError, match="at most 32 deep in each other in card, got deeper ones"):
        made(trigger=parameters)


@pytest.mark.parametrize("parts", [5, "patch", {"kind": "patch"}, [5], None])
def test_parts_that_are_no_list_of_triggers_are_refused(parts: Any) -> None:
    with pytest.raises(InputError, match=r"Expected a (list of parts|trigger of a kind)"):
        made(trigger={"kind": "chain", "parts": parts}).attack_trigger()


def test_a_card_of_a_stranger_opens_no_file(tmp_path: Path) -> None:
    secret = {"kind": "blend-picture", "path": str(tmp_path / "secret.png")}
    for trigger in (secret, {"kind": "chain", "parts": [{"kind": "blend"}, secret]}):
        with pytest.raises(InputError, match="names a file"):
            made(trigger=trigger).attack_trigger()
