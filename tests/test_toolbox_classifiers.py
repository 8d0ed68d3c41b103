"""Any image classifier as a suspect of InverTune, and the stages of any network."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from toys import NAMES, assert_same, copied, noise_images, toy_classifier
from upstream import upstream_file

from invertune_plugin.adapters.backdoorbox.classifiers import Suspect, as_suspect
from invertune_plugin.adapters.backdoorbox.staged import StagedClassifier, staged
from invertune_plugin.data import InMemory, to_unit
from invertune_plugin.defenses.invertune.inversion import InversionConfig
from invertune_plugin.defenses.invertune.pipeline import InverTuneConfig, repair_classifier
from invertune_plugin.defenses.invertune.target import TargetConfig
from invertune_plugin.defenses.invertune.tuning import TuningConfig
from invertune_plugin.defenses.invertune.units import critical_units
from invertune_plugin.errors import InputError
from invertune_plugin.hooks import activations, tower_stages
from invertune_plugin.passes import bare_seconds, count_passes
from invertune_plugin.triggers import MaskedPattern


class SmallResNet(nn.Module):
    """Residual stages, average pooling and a linear layer, as in the toolbox."""

    def __init__(self, classes: int = len(NAMES)) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.layer3 = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.layer4 = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.linear = nn.Linear(16 * 4, classes)

    def forward(self, images: Tensor) -> Tensor:
        out = self.layer2(self.layer1(F.relu(self.conv1(images))))
        out = F.avg_pool2d(self.layer4(self.layer3(out)), 2)
        logits: Tensor = self.linear(out.flatten(1))
        return logits


class Vgg(nn.Module):
    """Features and a classifier, as in the toolbox."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(inplace=True), nn.Conv2d(4, 8, 3, 2, 1)]
        self.features = nn.Sequential(*layers, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1))
        self.classifier = nn.Linear(8, len(NAMES))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.features(images).flatten(1))
        return logits


def vectors() -> nn.Module:
    """Stages that put out vectors."""
    inner = nn.Sequential(nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU())
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), inner, nn.Linear(8, len(NAMES)))


def transformer() -> nn.Module:
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=len(NAMES))
    nn.init.normal_(model.heads.head.weight)
    return model


KINDS = {
    "resnet": SmallResNet,
    "vgg": Vgg,
    "vectors": vectors,
    "transformer": transformer,
    "mobilenet": lambda: torchvision.models.mobilenet_v2(num_classes=len(NAMES), width_mult=0.1),
    "wrapped": lambda: nn.Sequential(nn.BatchNorm2d(3, affine=False), SmallResNet()),
    "staged rn": lambda: staged(toy_classifier("rn")),
    "staged vit": lambda: staged(toy_classifier("vit", layers=3)),
}


def net(kind: str, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return KINDS[kind]().eval()


def some_images(count: int = 6) -> Tensor:
    return to_unit(noise_images(count))


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_identical(kind: str) -> None:
    model = net(kind)
    suspect = as_suspect(model, NAMES, 32)
    images = some_images()
    assert torch.equal(suspect(images), model(images))
    embeddings = suspect.encode_image(images)
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(6))
    assert torch.allclose(suspect.logits_of(embeddings), model(images), atol=1e-5)
    assert suspect.class_names == list(NAMES)
    assert suspect.image_size == 32
    assert suspect.model is model


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_through_embeddings_are_those_of_the_logits(kind: str) -> None:
    suspect = as_suspect(net(kind), NAMES, 32)
    images = some_images().requires_grad_()
    goal = torch.arange(6) % len(NAMES)
    direct = torch.autograd.grad(F.cross_entropy(suspect(images), goal), images)[0]
    logits = suspect.logits_of(suspect.encode_image(images))
    through = torch.autograd.grad(F.cross_entropy(logits, goal), images)[0]
    assert torch.allclose(through, direct, rtol=1e-3, atol=1e-4 * float(direct.abs().max()))


def test_cosines_are_those_of_the_features() -> None:
    suspect = as_suspect(net("resnet"), NAMES, 32)
    features = suspect.visual(some_images())
    embeddings = suspect.encode_image(some_images())
    expected = F.cosine_similarity(features[:3], features[3:])
    assert torch.allclose((embeddings[:3] * embeddings[3:]).sum(1), expected, atol=1e-5)


def test_an_image_without_features_has_the_logits_of_the_bias() -> None:
    model = net("resnet")
    suspect = as_suspect(model, NAMES, 32)
    nothing = F.normalize(F.pad(torch.zeros(1, 64), (0, 1), value=1.0))
    bias = model.get_parameter("linear.bias")
    assert torch.allclose(suspect.logits_of(nothing)[0], bias)


@pytest.mark.parametrize("kind", ["resnet", "staged vit"])
def test_a_model_of_normalised_images(kind: str) -> None:
    model = net(kind)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    suspect = as_suspect(model, NAMES, 32, mean, std)
    images = some_images()
    shaped = [torch.tensor(values).view(1, 3, 1, 1) for values in (mean, std)]
    assert torch.equal(suspect(images), model((images - shaped[0]) / shaped[1]))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_shared_also_in_a_copy(kind: str) -> None:
    model = net(kind)
    suspect = copy.deepcopy(as_suspect(model, NAMES, 32))
    assert len(list(suspect.parameters())) == len(list(model.parameters()))
    images = some_images()
    with torch.no_grad():
        for stage in tower_stages(suspect.visual).values():
            for parameter in stage.parameters():
                parameter.add_(0.1)
    assert torch.equal(suspect.model(images), suspect(images))
    assert not torch.equal(model(images), suspect(images))


@pytest.mark.parametrize("kind", KINDS)
def test_passes_are_counted(kind: str) -> None:
    suspect = as_suspect(net(kind), NAMES, 32)
    images = some_images().requires_grad_()
    with count_passes(suspect.visual) as work:
        suspect(images.detach())
        suspect.encode_image(images).sum().backward()
        copy.deepcopy(suspect)(images.detach()).sum().backward()
    with torch.no_grad(), count_passes(suspect.visual) as forward:
        suspect(images)
    assert work.passes == 6 * 7
    assert forward.passes == 6
    assert bare_seconds(suspect.visual, forward, 32, repeats=1) > 0


STAGES = {
    "resnet": ["layer1", "layer2", "layer3", "layer4"],
    "vgg": ["features.0", "features.2"],
    "vectors": ["2.0", "2.2"],
    "transformer": ["encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1"],
    "mobilenet": [f"features.{i}" for i in range(19)],
    "wrapped": ["1.layer1", "1.layer2", "1.layer3", "1.layer4"],
    "staged rn": ["layer1", "layer2", "layer3", "layer4"],
    "staged vit": ["block0", "block1", "block2"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_stages_of_any_network(kind: str) -> None:
    suspect = as_suspect(net(kind), NAMES, 32)
    assert list(tower_stages(suspect.visual)) == STAGES[kind]


def test_stages_of_a_residual_timm_trunk() -> None:
    tower = nn.Module()
    tower.trunk = SmallResNet()
    tower.head = nn.Linear(1, 1)
    assert list(tower_stages(tower)) == [f"trunk.layer{i}" for i in range(1, 5)]


def test_activations_of_vectors_and_of_linear_layers_over_maps() -> None:
    linear = nn.Linear(3, 5)
    with activations({"linear": linear}) as seen:
        linear(torch.rand(2, 3))
        assert seen["linear"].shape == (2, 1, 5)
        linear(torch.rand(2, 6, 7, 3))
        assert seen["linear"].shape == (2, 6, 7, 5)


def corner() -> MaskedPattern:
    mask = torch.zeros(1, 32, 32)
    mask[:, 24:, 24:] = 1
    return MaskedPattern(mask, torch.ones(3, 32, 32))


@pytest.mark.parametrize("tower", ["rn", "vit"])
def test_critical_units_of_a_staged_clip_are_those_of_the_clip(tower: str) -> None:
    classifier = toy_classifier(tower, layers=3)
    suspect = as_suspect(staged(classifier), NAMES, 32)
    expected = critical_units(classifier, some_images(), corner(), "measured")
    found = critical_units(suspect, some_images(), corner(), "measured")
    assert list(found.scores.values()) == pytest.approx(list(expected.scores.values()))
    assert list(found.tuned().values()) == list(expected.tuned().values())


QUICK = InverTuneConfig(
    target=TargetConfig(candidates=2, shift_steps=2, cost_steps=3, batch_size=8, ratio=9.0),
    inversion=InversionConfig(steps=3, batch_size=8, least_asr=-1.0, most_area=1.0),
    tuning=TuningConfig(steps=3, rounds=2, batch_size=8, most_asr=1.0, least_agreement=0.0),
    least_images=16,
)


@pytest.mark.parametrize("rule", ["measured", "published"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_repair_runs_all_three_steps(kind: str, rule: Any) -> None:
    model = net(kind)
    before = copied(model.state_dict())
    suspect = as_suspect(model, NAMES, 32)
    config = replace(QUICK, tuning=replace(QUICK.tuning, units=rule))
    data = InMemory(noise_images(24), [-1] * 24)
    repair = repair_classifier(suspect, data, config)
    assert [stage.name for stage in repair.stages] == ["target", "inversion", "tuning"]
    assert all(stage.passes > 0 for stage in repair.stages)
    repaired = repair.classifier
    assert isinstance(repaired, Suspect)
    assert type(repaired.model) is type(model)
    assert torch.equal(repaired.model(some_images()), repaired(some_images()))
    assert_same(copied(model.state_dict()), before)
    after = repaired.model.state_dict()
    assert after.keys() == before.keys()
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert all(p.requires_grad for p in model.parameters())


class Softmax(SmallResNet):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).softmax(1)


class Convolutional(nn.Module):
    """Logits by a convolution, as in SqueezeNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, len(NAMES), 1)

    def forward(self, images: Tensor) -> Tensor:
        return F.relu(self.conv2(self.conv1(images))).mean((2, 3))


class Tuple(SmallResNet):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images), images


@pytest.mark.parametrize(
    ("model", "size", "why"),
    [
        (Softmax(), 32, r"logits are what its last nn\.Linear makes .* got Softmax"),
        (Convolutional(), 32, r"logits are what its last nn\.Linear makes .* got Convolutional"),
        (Tuple(), 32, r"Expected logits of shape \[2, 4\] .* got tuple from Tuple"),
        (SmallResNet(7), 32, r"logits of shape \[2, 4\] .* got \[2, 7\] from SmallResNet"),
        (nn.Conv2d(3, 4, 3), 32, r"got \[2, 4, 30, 30\] from Conv2d"),
        (SmallResNet(), 64, r"takes images \[2, 3, 64, 64\], got SmallResNet, which fails on them"),
        (nn.Conv2d(1, 4, 3), 32, r"takes images \[2, 3, 32, 32\], got Conv2d, which fails"),
        (nn.Flatten(), 32, r"Expected a model with weights, got Flatten without any"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)),
            32,
            r"layer1 to layer4 or a list of blocks, got Sequential",
        ),
    ],
)
def test_what_is_not_such_a_classifier_is_refused(model: nn.Module, size: int, why: str) -> None:
    with pytest.raises(InputError, match=why):
        as_suspect(model, NAMES, size)


def test_one_class_is_refused() -> None:
    with pytest.raises(InputError, match=r"two or more classes, got \['cat'\]"):
        as_suspect(SmallResNet(1), ["cat"], 32)


@pytest.mark.parametrize(("mean", "std"), [((0.5, 0.5), None), (None, (1.0, 0.0, 1.0))])
def test_a_normalisation_that_cannot_be_is_refused(mean: Any, std: Any) -> None:
    with pytest.raises(InputError, match=r"three means and three positive"):
        as_suspect(SmallResNet(), NAMES, 32, mean, std)


def test_looking_at_a_model_leaves_it_as_it_was() -> None:
    model = SmallResNet().train()
    model.layer1.eval()
    before = copied(model.state_dict())
    as_suspect(model, NAMES, 32)
    assert [m.training for m in (model, model.layer1, model.layer2)] == [True, False, True]
    assert_same(copied(model.state_dict()), before)
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.toolbox
def test_the_resnet_of_the_real_toolbox() -> None:
    torch.manual_seed(0)
    model = upstream_file("core/models/resnet.py").ResNet(18, num_classes=4).eval()
    suspect = as_suspect(model, NAMES, 32)
    assert torch.equal(suspect(some_images(2)), model(some_images(2)))
    assert list(tower_stages(suspect.visual)) == STAGES["resnet"]
    repair = repair_classifier(suspect, InMemory(noise_images(16), [-1] * 16), QUICK)
    assert type(repair.classifier.model) is type(model)
    with pytest.raises(InputError, match=r"takes images \[2, 3, 64, 64\], got _ResNet"):
        as_suspect(model, NAMES, 64)


def test_a_staged_model_keeps_its_type() -> None:
    suspect = as_suspect(net("staged rn"), NAMES, 32)
    assert isinstance(suspect.model, StagedClassifier)
