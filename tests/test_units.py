from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from toys import assert_same, copied, noise_images, toy_classifier, toy_clip

from invertune_plugin.data import to_unit
from invertune_plugin.defenses.invertune.inversion import (
    InversionConfig,
    InversionResult,
    invert_trigger,
    success,
)
from invertune_plugin.defenses.invertune.rounds import tune_in_rounds
from invertune_plugin.defenses.invertune.tuning import (
    TuningConfig,
    TuningResult,
    agreement,
    alignment,
    divergence,
    tune,
)
from invertune_plugin.defenses.invertune.units import (
    CriticalUnits,
    critical_stages,
    critical_units,
    larger_cluster,
    most_energy,
)
from invertune_plugin.errors import InputError
from invertune_plugin.hooks import activations, tower_stages, writers, written_parameters
from invertune_plugin.metrics import predict
from invertune_plugin.outcome import Outcome, Stage
from invertune_plugin.triggers import MaskedPattern

TOWERS = ["rn", "vit"]
CONFIG = TuningConfig(steps=2, batch_size=8, learning_rate=0.01)


def random_trigger(strength: float = 0.5) -> MaskedPattern:
    generator = torch.Generator().manual_seed(5)
    mask = torch.zeros(1, 32, 32)
    mask[:, 20:28, 20:28] = strength
    return MaskedPattern(mask, torch.rand(3, 32, 32, generator=generator))


def test_larger_cluster_by_hand() -> None:
    change = torch.tensor([[0.1, 5.0, 0.2], [4.0, 0.0, 0.3]])
    expected = torch.tensor([[False, True, False], [True, False, False]])
    assert torch.equal(larger_cluster(change), expected)


def test_larger_cluster_is_the_same_every_time() -> None:
    change = torch.rand(40, generator=torch.Generator().manual_seed(0))
    assert torch.equal(larger_cluster(change), larger_cluster(change))


def test_most_energy_by_hand() -> None:
    """Squares 100, 9, 4, 1 of 114: the first three carry 99 %, the first two 95.6 %."""
    expected = torch.tensor([[True, False], [True, True]])
    assert torch.equal(most_energy(torch.tensor([[3.0, 1.0], [2.0, 10.0]])), expected)


def test_one_unit_is_enough_where_it_carries_all() -> None:
    assert most_energy(torch.tensor([0.0, 7.0, 0.0])).tolist() == [False, True, False]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.0, 100.0, width=32), min_size=1, max_size=30))
def test_most_energy_carries_enough_with_the_fewest_units(values: list[float]) -> None:
    change = torch.tensor(values)
    chosen = most_energy(change)
    energy = change.double().square()
    if energy.sum() < 1e-6:
        return
    assert energy[chosen].sum() >= 0.97 * energy.sum() * (1 - 1e-5)
    fewer = energy.sort(descending=True).values[: int(chosen.sum()) - 1]
    assert fewer.sum() <= 0.97 * energy.sum() * (1 + 1e-5)
    if not chosen.all():
        assert energy[chosen].min() >= energy[~chosen].max()


@pytest.mark.parametrize(
    ("scores", "measured", "published"),
    [
        ({"a": 1.0, "b": 2.0, "c": 6.0}, ["c"], ["c"]),
        ({"a": 1.0, "b": 4.0, "c": 4.0, "d": 3.0}, ["b", "c", "d"], ["b", "c"]),
        ({"a": 4.0, "b": 1.0, "c": 4.5}, ["a", "c"], ["c"]),
        ({"a": 2.0, "b": 2.0}, ["a", "b"], ["a", "b"]),
        ({"a": 0.1, "b": 0.1, "c": 0.1}, ["a", "b", "c"], ["a", "b", "c"]),
        ({"a": 0.3, "b": 0.7}, ["b"], ["b"]),
        ({"a": 0.5}, ["a"], ["a"]),
    ],
)
def test_critical_stages_by_hand(
    scores: dict[str, float], measured: list[str], published: list[str]
) -> None:
    """Second row: mean 3 and deviation 1.22 ask for 4.22, more than any score."""
    assert critical_stages(scores, "measured") == measured
    assert critical_stages(scores, "published") == published


def test_tuned_counts_channels_per_stage() -> None:
    units = CriticalUnits(
        scores={},
        aligned={"blocks.1": torch.ones(1), "blocks.10": torch.ones(1)},
        channels={
            "blocks.1/conv": torch.tensor([True, False]),
            "blocks.1/norm": torch.tensor([True, True]),
            "blocks.10/conv": torch.tensor([False, False, True]),
        },
    )
    assert units.tuned() == {"blocks.1": (3, 4), "blocks.10": (1, 3)}


def test_units_of_two_rounds_are_joined() -> None:
    first = CriticalUnits(
        {"a": 2.0}, {"a": torch.tensor([True])}, {"a/w": torch.tensor([True, False, False])}
    )
    second = CriticalUnits(
        {"a": 1.0},
        {"a": torch.tensor([True]), "b": torch.tensor([True])},
        {"a/w": torch.tensor([False, False, True]), "b/w": torch.tensor([True])},
    )
    joined = first.joined(second)
    assert joined.scores == {"a": 2.0}
    assert joined.tuned() == {"a": (2, 3), "b": (1, 1)}


def test_stages_of_the_two_kinds_of_tower() -> None:
    assert list(tower_stages(toy_clip("rn").visual)) == ["layer1", "layer2", "layer3", "layer4"]
    vit = toy_clip("vit", layers=3).visual
    stages = tower_stages(vit)
    assert list(stages) == [f"transformer.resblocks.{i}" for i in range(3)]
    assert list(stages.values()) == list(vit.transformer.resblocks)


def test_stages_of_a_timm_trunk() -> None:
    tower = nn.Module()
    tower.trunk = nn.Module()
    tower.trunk.blocks = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    assert list(tower_stages(tower)) == ["trunk.blocks.0", "trunk.blocks.1"]


def test_towers_with_channels_last_are_refused() -> None:
    """timm's Swin says so of itself."""
    trunk = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1))
    trunk.output_fmt = "NHWC"
    tower = nn.Module()
    tower.trunk = trunk
    with pytest.raises(InputError, match="got Sequential, which has channels last"):
        tower_stages(tower)


def test_an_unknown_tower_is_refused() -> None:
    tower = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with pytest.raises(InputError, match=r"layer1 to layer4 or a list of blocks, got Sequential"):
        tower_stages(tower)


def test_writers_of_a_transformer_block() -> None:
    block = tower_stages(toy_clip("vit").visual)["transformer.resblocks.0"]
    found = writers(block)
    assert list(found) == ["attn", "mlp.c_fc", "mlp.c_proj"]
    attention: Any = found["attn"]
    assert written_parameters(attention) == [
        attention.out_proj.weight,
        attention.out_proj.bias,
    ]


def test_writers_of_a_residual_stage_are_all_its_weights() -> None:
    stage = tower_stages(toy_clip("rn").visual)["layer2"]
    written = {id(p) for w in writers(stage).values() for p in written_parameters(w)}
    assert written == {id(p) for p in stage.parameters()}


def test_activations_have_their_channels_last() -> None:
    convolution, linear = nn.Conv2d(3, 5, 1), nn.Linear(7, 2)
    with activations({"conv": convolution, "linear": linear}) as seen:
        output = convolution(torch.rand(2, 3, 4, 6))
        linear(torch.rand(2, 9, 7))
    assert seen["conv"].shape == (2, 4, 6, 5)
    assert torch.equal(seen["conv"], output.permute(0, 2, 3, 1))
    assert seen["linear"].shape == (2, 9, 2)
    convolution(torch.rand(1, 3, 1, 1))
    assert len(seen["conv"]) == 2, "nothing is recorded afterwards"


@pytest.mark.parametrize("tower", TOWERS)
def test_a_trigger_that_does_nothing_drives_nothing(tower: str) -> None:
    images = noise_images(4).float() / 255
    suspect = toy_classifier(tower)
    units = critical_units(suspect, images, random_trigger(0.0), "measured")
    assert set(units.scores.values()) == {0.0}


@pytest.mark.parametrize("rule", ["measured", "published"])
@pytest.mark.parametrize("tower", TOWERS)
def test_units_fit_the_outputs(tower: str, rule: Literal["measured", "published"]) -> None:
    images = noise_images(4).float() / 255
    suspect = toy_classifier(tower, layers=3)
    for name, parameter in suspect.named_parameters():
        if name.endswith("bn3.weight"):  # open_clip begins with zeros, which nothing drives
            parameter.data.fill_(1.0)
    units = critical_units(suspect, images, random_trigger(), rule)
    stages = tower_stages(suspect.visual)
    assert list(units.scores) == list(stages)
    assert list(units.aligned) == critical_stages(units.scores, rule)
    expected = {f"{name}/{inner}" for name in units.aligned for inner in writers(stages[name])}
    assert units.channels.keys() == expected
    with activations(stages) as seen, torch.no_grad():
        suspect(images)
    for name, mask in units.aligned.items():
        assert mask.shape == seen[name].shape[1:]
        assert mask.all() or rule == "published"
        assert mask.any()
    for channels in units.channels.values():
        assert channels.ndim == 1
        assert channels.any()


def test_scores_by_hand() -> None:
    """Two images through an identity tower: means 0.5 and 1, moved by 0.5 each by the trigger."""

    class Suspect(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = nn.Module()
            self.visual.blocks = nn.ModuleList([nn.Identity()])

        def encode_image(self, images: Tensor) -> Tensor:
            output: Tensor = self.visual.blocks[0](images)  # type: ignore[index]
            return output

    images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 1, 1)
    trigger = MaskedPattern(torch.full((1, 1, 1), 0.5), torch.ones(3, 1, 1))
    units = critical_units(Suspect(), images, trigger, "measured")
    assert units.scores == {"blocks.0": pytest.approx(0.5)}


def test_alignment_by_hand() -> None:
    """Driven minus clean is 1 on unit 0 and 9 on unit 1, which is not aligned; clean size 2^2."""
    kept = {"s": torch.tensor([[[2.0, 1.0]]])}
    seen = {"s": torch.tensor([[[5.0, 5.0]], [[3.0, 10.0]]])}
    units = CriticalUnits({}, {"s": torch.tensor([[True, False]])}, {})
    assert alignment(seen, kept, units).item() == pytest.approx(0.25)
    both = CriticalUnits({}, {"s": torch.tensor([[True, True]])}, {})
    assert alignment(seen, kept, both).item() == pytest.approx(82 / 5)


def test_divergence_by_hand() -> None:
    kept = torch.tensor([[0.0, 0.0], [3.0, 3.0]])
    assert divergence(kept + 5, kept).item() == pytest.approx(0)
    logits = torch.tensor([[0.0, 0.0], [0.0, torch.log(torch.tensor(3.0))]])
    expected = 0.5 * torch.log(torch.tensor(2.0)) + 0.5 * torch.log(torch.tensor(2 / 3))
    assert divergence(logits, kept).item() == pytest.approx(expected.item() / 2, abs=1e-6)


def run_tune(
    tower: str, rule: Literal["measured", "published"] = "measured"
) -> tuple[Any, TuningResult]:
    suspect = toy_classifier(tower, layers=3)
    config = TuningConfig(units=rule, steps=2, batch_size=8, learning_rate=0.01)
    result = tune(suspect, noise_images(16), noise_images(8, seed=1), [random_trigger()], 1, config)
    return suspect, result


@pytest.mark.parametrize("rule", ["measured", "published"])
@pytest.mark.parametrize("tower", TOWERS)
def test_tuning_changes_driven_channels_only(
    tower: str, rule: Literal["measured", "published"]
) -> None:
    suspect, result = run_tune(tower, rule)
    stages = tower_stages(result.classifier.visual)
    driven: dict[int, Tensor] = {}
    for name in result.units.aligned:
        for inner, writer in writers(stages[name]).items():
            for parameter in written_parameters(writer):
                driven[id(parameter)] = result.units.channels[f"{name}/{inner}"]
    assert driven
    assert not all(mask.all() for mask in driven.values()), "some channels must stay"
    changed = 0
    before = dict(suspect.named_parameters())
    for name, parameter in result.classifier.named_parameters():
        same = parameter == before[name]
        mask = driven.get(id(parameter))
        assert (same if mask is None else same[~mask]).all(), name
        changed += int((~same).sum())
    assert changed > 0
    assert_same(dict(result.classifier.named_buffers()), dict(suspect.named_buffers()))


@pytest.mark.parametrize("tower", TOWERS)
def test_tuning_leaves_the_suspect_as_it_was(tower: str) -> None:
    fresh = toy_classifier(tower, layers=3)
    suspect, result = run_tune(tower)
    assert result.classifier is not suspect
    assert_same(copied(suspect.state_dict()), copied(fresh.state_dict()))
    assert all(p.requires_grad and p.grad is None for p in suspect.parameters())


def test_tuning_is_the_same_for_the_same_seed() -> None:
    first, second = run_tune("rn")[1], run_tune("rn")[1]
    assert first.losses == second.losses
    assert_same(first.classifier.state_dict(), second.classifier.state_dict())


def test_tuning_lowers_its_loss() -> None:
    images, trigger = noise_images(16), random_trigger(1.0)
    config = TuningConfig(steps=25, batch_size=8, learning_rate=0.003)
    result = tune(toy_classifier("rn"), images, images, [trigger], 1, config)
    assert len(result.losses) == 25
    assert sum(result.losses[-5:]) < 0.8 * sum(result.losses[:5])


def test_a_repaired_copy_is_frozen_and_in_eval_mode() -> None:
    _, result = run_tune("rn")
    assert not any(p.requires_grad for p in result.classifier.parameters())
    assert not any(module.training for module in result.classifier.modules())


def test_a_repaired_copy_can_be_trained_like_any_other_model() -> None:
    """Gradients are those of an equal model that was never tuned: no mask stays behind."""
    suspect, result = run_tune("rn")
    suspect.load_state_dict(result.classifier.state_dict())
    batch = noise_images(4).float() / 255
    for classifier in (suspect, result.classifier):
        for parameter in classifier.parameters():
            parameter.requires_grad_(True)
            parameter.grad = None
        classifier(batch).square().sum().backward()
    grads = {name: p.grad for name, p in result.classifier.named_parameters()}
    different = [
        name
        for name, p in suspect.named_parameters()
        if p.grad is not None and not torch.allclose(p.grad, grads[name])
    ]
    assert not different


@pytest.mark.parametrize(
    ("most_asr", "least_agreement", "outcome", "why"),
    [
        (1.0, 0.0, Outcome.OK, "of the confidence."),
        (-1.0, 0.0, Outcome.FAILED, "success was expected"),
        (1.0, 1.1, Outcome.FAILED, "at least 110% was expected"),
    ],
)
def test_a_repair_is_judged_on_held_back_images(
    most_asr: float, least_agreement: float, outcome: Outcome, why: str
) -> None:
    config = TuningConfig(steps=1, batch_size=4, most_asr=most_asr, least_agreement=least_agreement)
    images = noise_images(8)
    result = tune(toy_classifier("vit"), images, images, [random_trigger()], 0, config)
    assert result.stage.outcome is outcome
    assert why in result.stage.reason
    assert result.stage.evidence.keys() == {"inverted_asr", "agreement"}


def test_all_triggers_are_judged_and_the_found_one_decides() -> None:
    images = noise_images(8)
    config = TuningConfig(steps=1, batch_size=4, most_asr=1.0)
    suspect, later = toy_classifier("vit"), random_trigger(0.0)
    found = MaskedPattern(torch.ones(1, 32, 32), torch.zeros(3, 32, 32))
    label = int(predict(suspect, found.pattern[None]))
    assert label not in predict(suspect, to_unit(images)), "black is another class"
    for triggers in ([found, later], [later, found], [later, found, later]):
        result = tune(suspect, images, images, triggers, label, config)
        rates = [success(result.classifier, images, each, label) for each in triggers]
        evidence = result.stage.evidence
        assert (evidence["inverted_asr"], evidence["later_asr"]) == (rates[0], max(rates[1:]))
        assert set(rates) == {0.0, 1.0}, "one fills the image, the other changes nothing"


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_tuning_that_diverges_has_failed(rounds: int) -> None:
    images = noise_images(8)
    config = TuningConfig(rounds=rounds, steps=3, batch_size=4, learning_rate=1e38, most_asr=1.0)
    stage = Stage("inversion", Outcome.OK, "as scripted", {})
    found = InversionResult(0, random_trigger(), 1.0, 0.1, [], stage)
    steps = InversionConfig(steps=2, batch_size=4)
    result = tune_in_rounds(toy_classifier("vit"), images, images, found, steps, config)
    assert result.stage.outcome is Outcome.FAILED
    assert "lower learning_rate" in result.stage.reason


def test_an_inversion_that_diverges_has_failed() -> None:
    images = noise_images(8)
    steps = InversionConfig(steps=3, batch_size=4, mask_weight=float("nan"))
    found = invert_trigger(toy_classifier("vit"), images, images, 0, steps)
    assert found.stage.outcome is Outcome.FAILED
    assert "lower learning_rate" in found.stage.reason
    assert not found.trigger.mask.any()


def test_agreement_is_weighted_by_confidence() -> None:
    """One image of four turns round, of which the suspect was least sure: 0.6 against 0.9 each."""

    class Reader(nn.Module):
        def __init__(self, first: float) -> None:
            super().__init__()
            self.first = first

        def forward(self, images: Tensor) -> Tensor:
            probability = torch.full((len(images),), 0.9)
            probability[0] = self.first
            return torch.stack([probability, 1 - probability], 1).log()

    images = noise_images(4, size=1)
    assert agreement(Reader(0.6), Reader(0.4), images) == pytest.approx(2.7 / 3.3)
    assert agreement(Reader(0.6), Reader(0.6), images) == pytest.approx(1.0)


def test_each_trigger_gets_an_equal_share_of_every_batch() -> None:
    seen: list[int] = []

    class Counting(MaskedPattern):
        def __call__(self, images: Tensor, keys: Tensor | None = None) -> Tensor:
            seen.append(len(images))
            return super().__call__(images, keys)

    trigger = random_trigger()
    counting = Counting(trigger.mask, trigger.pattern)
    images = noise_images(16)
    tune(toy_classifier("vit"), images, images, [counting, trigger], 1, CONFIG)
    assert seen[: CONFIG.steps] == [4, 4]


def test_a_further_round_goes_on_from_the_repaired_model() -> None:
    """No update in it: the weights stay those of the first round, not of the suspect."""
    suspect, first = run_tune("rn")
    still = replace(CONFIG, learning_rate=0.0)
    images = noise_images(16)
    more = tune(suspect, images, images, [random_trigger()], 1, still, start=first.classifier)
    assert more.classifier is not first.classifier
    assert_same(more.classifier.state_dict(), first.classifier.state_dict())


def test_no_round_is_refused() -> None:
    with pytest.raises(InputError, match=r"one or more rounds of tuning, and steps, got 0 and"):
        TuningConfig(rounds=0)


class Branched(nn.Module):
    """Two parts in a list and an auxiliary one that does not run outside training."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)])
        self.aux = nn.Linear(4, 2)
        self.act = nn.ReLU(inplace=True)

    def forward(self, pixels: Tensor) -> Tensor:
        for layer in self.layers:
            pixels = self.act(layer(pixels))
        return pixels.mean((2, 3))


class Encoding(nn.Module):
    """The least that units are looked for in."""

    def __init__(self, visual: nn.Module) -> None:
        super().__init__()
        self.visual = visual

    def encode_image(self, images: Tensor) -> Tensor:
        features: Tensor = self.visual(images)
        return features


def test_parts_in_lists_are_stages_and_parts_that_do_not_run_are_left_out() -> None:
    tower = Branched().eval()
    assert list(tower_stages(tower)) == ["layers.0", "layers.1", "aux"]
    units = critical_units(
        Encoding(tower), to_unit(noise_images(4)), random_trigger(1.0), "measured"
    )
    assert list(units.scores) == ["layers.0", "layers.1"]


def test_outputs_are_taken_before_they_are_changed_in_place() -> None:
    """Channels that a later ReLU closes for good are driven as well."""
    tower = Branched().eval()
    with torch.no_grad():
        tower.layers[0].bias.fill_(-100.0)
    batch = to_unit(noise_images(4))
    with torch.no_grad(), activations(dict(tower.named_children())["layers"]._modules) as late:  # type: ignore[arg-type]
        tower(batch)
    assert float(late["0"].max()) == 0.0
    with torch.no_grad(), activations({"0": tower.layers[0]}, lambda found: found.mean(0)) as kept:
        tower(batch)
    assert kept["0"].shape == (30, 30, 4)
    assert float(kept["0"].max()) < -50
