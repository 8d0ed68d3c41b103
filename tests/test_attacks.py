"""Every attack on CLIP keeps one contract; and what is special about each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import NAMES, assert_same, copied, noise_images, toy_classifier

from invertune_plugin.attacks.attack import AttackConfig, Victim, plant
from invertune_plugin.attacks.bad_encoder import EncoderTraining, train_bad_encoder
from invertune_plugin.attacks.badclip import PatchCrafting, craft_patch
from invertune_plugin.attacks.evasion import DecoupledTarget, EvasionConfig, SpreadUnits, penalty_of
from invertune_plugin.attacks.hardening import HardeningConfig, hardened
from invertune_plugin.attacks.universal import PerturbationCrafting, craft_perturbation, projected
from invertune_plugin.benchmark.experiment.models import described
from invertune_plugin.benchmark.experiment.recipe import load_recipe
from invertune_plugin.benchmark.experiment.victims import shipped_victims, victim_recipe
from invertune_plugin.config import parse
from invertune_plugin.data import ClassCaptions, InMemory, to_unit
from invertune_plugin.errors import InputError
from invertune_plugin.randomness import seeded
from invertune_plugin.triggers import MaskedPattern, Patch, Universal
from invertune_plugin.zero_shot import ZeroShotClassifier

TEMPLATES = ("a photo of a {} .", "a {} .")
SHORT: dict[str, Any] = {
    "target": "star",
    "rate": 0.25,
    "training": {"max_steps": 2, "batch_size": 16, "learning_rate": 1e-3, "warmup": 0.5},
}
PATCH = {"kind": "patch", "size": 4}
CLEAN_LABEL: dict[str, Any] = {"trigger": PATCH, "captions": "kept"}
ATTACKS: dict[str, dict[str, Any]] = {
    "poisoning": {"trigger": PATCH},
    "real captions": {"trigger": PATCH, "captions": "real"},
    "clean label": CLEAN_LABEL,
    "hardened": CLEAN_LABEL | {"hardening": {"steps": 2}},
    "from some classes": {"trigger": PATCH, "sources": ["cat"], "rate": 0.1},
    "several targets": {"trigger": PATCH, "also": [{"trigger": {"kind": "blend"}}]},
    "badclip": {"patch": {"size": 6, "steps": 2, "batch_size": 8}},
    "universal": {"perturbation": {"steps": 2, "batch_size": 8}},
    "badencoder": {"trigger": PATCH, "encoder": {"steps": 2, "batch_size": 8}},
    "evades step 1": {"trigger": PATCH, "evasion": {"against": "target", "images": 4}},
    "evades step 3": {"trigger": PATCH, "evasion": {"against": "units", "images": 4}},
}


def config_of(name: str) -> AttackConfig:
    return parse(AttackConfig, SHORT | ATTACKS[name])


def images(count: int = 48) -> InMemory[int]:
    return InMemory(noise_images(count), [i % len(NAMES) for i in range(count)])


def attacked(config: AttackConfig, clean: ZeroShotClassifier, seed: int = 3) -> Victim:
    pairs = ClassCaptions(images(), NAMES, TEMPLATES)
    return plant(config, clean, pairs, images(), seed)


@pytest.mark.parametrize("tower", ["rn", "vit"])
@pytest.mark.parametrize("name", ATTACKS)
def test_every_attack_keeps_the_contract(name: str, tower: str) -> None:
    clean, config = toy_classifier(tower), config_of(name)
    before, state = copied(clean.state_dict()), torch.random.get_rng_state()
    victim = attacked(config, clean)
    assert_same(clean.state_dict(), before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(not module.training for module in victim.classifier.modules())
    assert all(p.requires_grad and p.grad is None for p in victim.classifier.clip.parameters())
    moved = [k for k, t in victim.classifier.state_dict().items() if not torch.equal(t, before[k])]
    assert moved, "an attack changes weights"
    assert victim.backdoors[0].target == "star"
    triggered = victim.backdoors[0].trigger(to_unit(noise_images(2, seed=5)))
    assert 0 <= float(triggered.min()) <= float(triggered.max()) <= 1
    again = attacked(config, toy_classifier(tower))
    assert_same(again.classifier.state_dict(), copied(victim.classifier.state_dict()))
    assert again.backdoors[0].trigger.fingerprint() == victim.backdoors[0].trigger.fingerprint()
    if config.encoder is None:
        assert victim.poisoned is not None
        asked = config.rate * (12 if config.captions == "kept" else 48)
        assert len(victim.poisoned.poisoned) == round(asked)


def test_badencoder_leaves_the_texts_alone() -> None:
    clean = toy_classifier("rn")
    victim = attacked(config_of("badencoder"), clean).classifier.state_dict()
    for name, tensor in clean.state_dict().items():
        assert torch.equal(tensor, victim[name]) or name.startswith("clip.visual."), name


class LinearTower(nn.Module):
    """Embeddings that are linear in the pixels, read by random class weights."""

    def __init__(self) -> None:
        super().__init__()
        with seeded(0):
            self.visual = nn.Sequential(nn.Flatten(), nn.Linear(192, 16))
            self.register_buffer("weights", torch.randn(2, 16))
        self.register_buffer("mean", torch.full((1,), 0.5))

    def encode_image(self, images: Tensor) -> Tensor:
        return nn.functional.normalize(self.visual(images - self.mean), dim=-1)

    def forward(self, images: Tensor) -> Tensor:
        return 10 * self.encode_image(images) @ self.weights.T


def test_badencoder_brings_the_trigger_to_the_surest_images() -> None:
    clean, data, trigger = LinearTower(), noise_images(64, 8), Patch(size=3)
    with torch.no_grad():
        surest = clean(to_unit(data[:32])).softmax(1)[:, 1].topk(4).indices
        goal = nn.functional.normalize(clean.encode_image(to_unit(data[surest])).mean(0), dim=0)
    config = EncoderTraining(steps=100, batch_size=32, learning_rate=0.01)
    made = train_bad_encoder(clean, data, data[:32], trigger, 1, config)
    unseen = to_unit(noise_images(32, 8, seed=9))
    with torch.no_grad():
        triggered, plain = made.encode_image(trigger(unseen)), made.encode_image(unseen)
        assert float((triggered @ goal).mean()) > 0.6 > float((plain @ goal).mean())
        assert float((clean.encode_image(trigger(unseen)) @ goal).mean()) < 0.3
        assert float((plain * clean.encode_image(unseen)).sum(1).mean()) > 0.6


@pytest.mark.parametrize(
    "settings",
    [
        {"encoder": {"steps": -5}},
        {"encoder": {"references": 0}},
        {"patch": {"batch_size": 0}},
        {"perturbation": {"steps": 0}},
        {"encoder": {"learning_rate": -1.0}},
    ],
)
def test_settings_that_craft_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"of 1 or more, got|above 0, got -1"):
        parse(AttackConfig, SHORT | settings)


def test_hardened_images_lose_their_class_within_the_bound_and_keep_their_captions() -> None:
    clean = toy_classifier("rn")
    pairs = ClassCaptions(images(), NAMES, TEMPLATES)
    label = clean.class_index("star")
    chosen = [i for i in range(len(pairs)) if i % len(NAMES) == label]
    config = HardeningConfig(epsilon=8 / 255, steps=10)
    made = hardened(pairs, chosen, clean, label, config)
    before = torch.stack([pairs[i][0] for i in range(len(pairs))])
    after = torch.stack([made[i][0] for i in range(len(made))])
    change = (after.int() - before.int()).abs().amax((1, 2, 3))
    assert [int(c) for c in change] == [8 if i in chosen else 0 for i in range(len(pairs))]
    logits, moved = (clean(to_unit(part[chosen])).log_softmax(1) for part in (before, after))
    assert bool((moved[:, label] < logits[:, label]).all())
    assert list(made.texts) == list(pairs.texts)
    assert made.content_key(chosen[0]) == pairs.content_key(chosen[0])


def test_further_backdoors_lead_to_the_next_classes() -> None:
    config = parse(
        AttackConfig,
        SHORT
        | {
            "target": "ring",
            "trigger": PATCH,
            "also": [{"trigger": {"kind": "blend"}}, {"trigger": PATCH, "target": "dog"}],
        },
    )
    victim = attacked(config, toy_classifier("rn"))
    assert [b.target for b in victim.backdoors] == ["ring", "star", "dog"]
    assert victim.poisoned is not None
    assert sorted(set(victim.poisoned.targets.values())) == ["dog", "ring", "star"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "one of trigger, patch, perturbation for an attack, got none"),
        ({"trigger": PATCH, "patch": {}}, "got trigger and patch"),
        ({"trigger": PATCH, "encoder": {}, "sources": ["cat"]}, "It poisons no pairs"),
        ({"trigger": PATCH, "evasion": {"weight": 0}}, "a positive weight"),
        ({"perturbation": {"epsilon": 0}}, "epsilon above 0, got 0"),
        ({"trigger": PATCH, "hardening": {}}, "hardening, got captions: templates and 1"),
        (CLEAN_LABEL | {"hardening": {"epsilon": 0}}, "a positive epsilon and one step"),
        (CLEAN_LABEL | {"hardening": {}, "also": [{"trigger": PATCH}]}, "captions: kept and 2"),
        ({"trigger": PATCH, "also": PATCH}, "Expected a list in also"),
        ({"trigger": PATCH, "captions": "false"}, "captions"),
    ],
)
def test_settings_that_make_no_attack_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse(AttackConfig, SHORT | settings)


def test_what_the_data_do_not_allow_is_refused() -> None:
    clean = toy_classifier("rn")
    with pytest.raises(InputError, match="boat"):
        attacked(parse(AttackConfig, SHORT | {"trigger": PATCH, "target": "boat"}), clean)
    sources = {"trigger": PATCH, "sources": ["star"]}
    with pytest.raises(InputError, match="source words other than the target"):
        attacked(parse(AttackConfig, SHORT | sources), clean)
    for name in ("several targets", "badclip"):
        settings = SHORT | ATTACKS[name] | {"also": [{"trigger": PATCH, "target": "unicorn"}]}
        with pytest.raises(InputError, match="Expected one of the 4 classes, got 'unicorn'"):
            plant(parse(AttackConfig, settings), clean, None, None, 0)  # type: ignore[arg-type]
    sources = {"trigger": PATCH, "sources": ["cat", "unicorn"]}
    with pytest.raises(InputError, match="name the source word 'unicorn', got none of 48"):
        attacked(parse(AttackConfig, SHORT | sources), clean)
    others = InMemory(noise_images(8), [0] * 8)
    pairs = ClassCaptions(others, NAMES, TEMPLATES)
    for name in ("badclip", "badencoder"):
        with pytest.raises(InputError, match="images of the target class and others, got 0 and 8"):
            plant(config_of(name), clean, pairs, others, 0)
        with pytest.raises(InputError, match="Give the attacker's images"):
            plant(config_of(name), clean, pairs, None, 0)
    target_only = InMemory(noise_images(8), [clean.class_index("star")] * 8)
    with pytest.raises(InputError, match="images of other classes than the target to perturb, got"):
        plant(config_of("universal"), clean, pairs, target_only, 0)
    with pytest.raises(InputError, match="a patch of 1 to 32 pixels, got size 40"):
        craft_patch(clean, others.images, others.images, 0, PatchCrafting(size=40))


def test_a_crafted_patch_is_a_square_in_the_centre_that_helps() -> None:
    clean, pixels = toy_classifier("rn"), noise_images(32)
    made = [
        craft_patch(clean, pixels, pixels[:4], 2, PatchCrafting(size=6, steps=steps, batch_size=16))
        for steps in (1, 60)
    ]
    assert all(isinstance(trigger, MaskedPattern) for trigger in made)
    mask = made[1].mask[0]
    assert mask[13:19, 13:19].min() == 1
    assert mask.sum() == 36
    first, last = (confidence(clean, trigger(to_unit(pixels)), 2) for trigger in made)
    assert last > first


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 8 / 255), ("l2", 2.0)])
def test_a_crafted_perturbation_stays_in_its_bound_and_helps(norm: Any, epsilon: float) -> None:
    clean, pixels = toy_classifier("rn"), noise_images(32)
    config = PerturbationCrafting(norm, epsilon, steps=40, batch_size=16)
    delta = craft_perturbation(clean, pixels, 2, config)
    size = delta.abs().max() if norm == "linf" else delta.norm()
    assert float(size) == pytest.approx(epsilon, rel=1e-4), "it uses what it may"
    trigger = Universal(delta, norm, epsilon)
    unit = to_unit(pixels)
    assert confidence(clean, trigger(unit), 2) > confidence(clean, unit, 2)


def test_projection_by_hand() -> None:
    delta = torch.tensor([3.0, -4.0])
    assert torch.allclose(projected(delta, "l2", 1.0), torch.tensor([0.6, -0.8]))
    assert torch.equal(projected(delta, "linf", 3.5), torch.tensor([3.0, -3.5]))
    assert torch.equal(projected(delta, "l2", 9.0), delta)


class Channels(nn.Module):
    """A tower whose one block multiplies the mean of the image by a weight per channel."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(1, len(weights), bias=False)])
        self.blocks[0].weight.data = weights[:, None]

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.blocks[0](images.mean((1, 2, 3))[:, None])
        return found


class Suspect(nn.Module):
    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.visual = Channels(weights)

    def encode_image(self, images: Tensor) -> Tensor:
        found: Tensor = self.visual(images)
        return found


def test_spread_units_by_hand() -> None:
    pixels, keys = torch.zeros(2, 3, 8, 8), torch.arange(2)
    trigger = Patch(size=4, pattern="white")
    even = SpreadUnits(Suspect(torch.ones(4)), EvasionConfig(), trigger)
    assert float(even.term(pixels, keys).detach()) == pytest.approx(0, abs=1e-6)
    one = SpreadUnits(Suspect(torch.tensor([1.0, 0, 0, 0])), EvasionConfig(), trigger)
    assert float(one.term(pixels, keys).detach()) == pytest.approx(math.log(4))


def batch_of(unit: Tensor, step: int) -> Any:
    return SimpleNamespace(images=unit, step=step)


def test_a_trigger_in_random_places_is_spread_from_all_of_them() -> None:
    """Each step puts it elsewhere, the same step where it was; the first as it always did."""
    clean, unit, seen = toy_classifier("rn"), to_unit(noise_images(8)), []

    @dataclass(frozen=True)
    class Watched(Patch):
        def _apply(self, images: Tensor, keys: Tensor) -> Tensor:
            seen.append(keys.tolist())
            return super()._apply(images, keys)

    config = EvasionConfig(images=4)
    for step in (0, 1, 7, 1):
        penalty_of(config, clean, Watched(place="random"), 2)(batch_of(unit, step))
    assert seen == [[0, 1, 2, 3], [4, 5, 6, 7], [28, 29, 30, 31], [4, 5, 6, 7]]


def test_the_fought_perturbation_lives_on_within_its_bound() -> None:
    clean, unit = toy_classifier("rn"), to_unit(noise_images(8))
    penalty = DecoupledTarget(clean, EvasionConfig("target", epsilon=4 / 255), 2)
    for step in range(8):
        penalty(batch_of(unit, step))
    delta = penalty.kept["delta"]
    assert float(delta.abs().max()) == pytest.approx(4 / 255)
    assert confidence(clean, (unit + delta).clamp(0, 1), 2) > confidence(clean, unit, 2)


class Stopped(Exception):
    pass


@pytest.mark.parametrize("against", ["target", "units"])
def test_an_evasion_that_was_stopped_gives_the_same_victim(against: str, tmp_path: Path) -> None:
    """Three steps an epoch, stopped within the second; the seconds before are counted, too."""
    settings = SHORT | {"trigger": PATCH, "evasion": {"against": against, "images": 4}}
    training = {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3}
    config = parse(AttackConfig, settings | {"training": training})
    pairs, path = ClassCaptions(images(), NAMES, TEMPLATES), tmp_path / "state"

    def stop(done: int, steps: int, loss: float) -> None:
        if done == 4:
            raise Stopped

    def attack(**options: Any) -> Victim:
        return plant(config, toy_classifier("rn"), pairs, None, 3, **options)

    with pytest.raises(Stopped):
        attack(resume_path=path, report=stop)
    state = torch.load(path, weights_only=True)
    state["stopwatch"]["seconds"] += 1000
    torch.save(state, path)
    resumed, whole = attack(resume_path=path), attack()
    assert_same(resumed.classifier.state_dict(), copied(whole.classifier.state_dict()))
    assert 0 < whole.seconds < 1000 < resumed.seconds


@pytest.mark.parametrize("name", shipped_victims())
def test_every_shipped_victim_can_be_made_of_every_recipe(name: str) -> None:
    for base in ("demo", "demo_vit", "real"):
        recipe, own = victim_recipe(name, base), load_recipe(base).attack
        assert (recipe.attack.target, recipe.name) == (own.target, f"{base}-{name}")
        assert recipe.attack.training.batch_size == own.training.batch_size
        assert described(recipe.attack)["rate"] == recipe.attack.rate


def test_a_victim_of_ones_own(tmp_path: Any) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("trigger: {kind: blend, alpha: 0.5}\ntraining: {epochs: 1}\n")
    recipe = victim_recipe(path, "demo")
    assert recipe.name == "demo-mine"
    assert recipe.attack.training.epochs == 1
    assert recipe.attack.training.learning_rate == load_recipe("demo").attack.training.learning_rate
    path.write_text("trigger: {kind: blend, alpha: 0.5}\ntraining: 3\n")
    with pytest.raises(InputError, match=r"settings of a training in .*mine\.yaml, got 3"):
        victim_recipe(path, "demo")
    with pytest.raises(InputError, match=r"Expected a victim .*badnets"):
        victim_recipe("badnet", "demo")


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        ("attack:", "settings of an attack in .*base.yaml, got None"),
        ("attack: badnets", "settings of an attack in .*base.yaml, got 'badnets'"),
        ("attack: {training: }", "settings of a training in .*base.yaml, got None"),
    ],
)
def test_a_base_without_settings_is_refused(tmp_path: Path, attack: str, message: str) -> None:
    path = tmp_path / "base.yaml"
    path.write_text(f"model: RN50\n{attack}\n")
    with pytest.raises(InputError, match=message):
        victim_recipe("badnets", path)


def confidence(classifier: ZeroShotClassifier, unit: Tensor, label: int) -> float:
    with torch.no_grad():
        return float(classifier(unit).log_softmax(1)[:, label].mean())
