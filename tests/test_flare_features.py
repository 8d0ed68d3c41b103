"""Abnormal features against the definition, layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torchvision.models.convnext import LayerNorm2d
from torchvision.ops import FrozenBatchNorm2d
from toys import noise_images, toy_classifier

from invertune_plugin.data import InMemory, to_unit
from invertune_plugin.defenses.flare.features import FeatureConfig, Features, abnormal_features
from invertune_plugin.defenses.flare.norms import Measure, by_channel, parts, running_moments
from invertune_plugin.errors import InputError
from invertune_plugin.hooks import head_inputs

MEASURES: tuple[Measure, ...] = ("log-density", "z-score", "deviation")
"""Those with one feature a layer."""


def images(count: int = 30) -> InMemory[int]:
    return InMemory(noise_images(count, 8), [i % 3 for i in range(count)])


def batch_net() -> nn.Module:
    """Two BatchNorm2d layers and a BatchNorm1d, with statistics of their own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(),
            nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(5), nn.Linear(5, 3),
        )  # fmt: skip
        net.train()
        with torch.no_grad():
            for seed in range(3):
                net(to_unit(noise_images(16, 8, seed)) ** 2)
    return net


def layer_net() -> nn.Module:
    """A LayerNorm over positions of a flattened image, and a GroupNorm."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.linear = nn.LayerNorm(6), nn.Linear(6, 3)
            self.conv, self.group = nn.Conv2d(3, 6, 2), nn.GroupNorm(2, 6)

        def forward(self, pixels: Tensor) -> Tensor:
            tokens = self.group(self.conv(pixels)).flatten(2).transpose(1, 2)
            return self.linear(self.norm(tokens).mean(1))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


def inputs_of(net: nn.Module, layer: nn.Module, dataset: InMemory[int]) -> Tensor:
    """What a layer takes in, for the whole set at once: ``[N, P, C]``."""
    seen: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, found: seen.append(found[0]))
    with torch.no_grad():
        net.eval()(to_unit(dataset.images))
    handle.remove()
    return by_channel(layer, seen[0])


def outputs_of(net: nn.Module, layer: nn.Module, dataset: InMemory[int]) -> Tensor:
    """What a layer without scale and shift gives, for the whole set at once: ``[N, P, C]``."""
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda *found: seen.append(found[2]))
    with torch.no_grad():
        net.eval()(to_unit(dataset.images))
    handle.remove()
    return by_channel(layer, seen[0])


def by_definition(values: Tensor, mean: Tensor, std: Tensor, measure: Measure) -> Tensor:
    """Over every channel and position, one layer after the other."""
    if measure == "deviation":
        return -((values - mean) / std).square().flatten(1).mean(1).log()
    if measure == "z-score":
        return -((values - mean) / std).abs().flatten(1).amax(1)
    return Normal(mean, std).log_prob(values).flatten(1).amin(1)


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_one_pass_equals_layer_by_layer(measure: Measure, batch_size: int) -> None:
    net, data = batch_net(), images()
    found = abnormal_features(net, data, FeatureConfig(measure, batch_size=batch_size))
    assert found.layers == ("1", "4", "8")
    for name, column in zip(found.layers, found.values.T, strict=True):
        moments = running_moments(net.get_submodule(name))
        assert moments is not None
        values = inputs_of(net, net.get_submodule(name), data)
        expected = by_definition(values, moments.mean, moments.std, measure)
        assert torch.from_numpy(column.copy()) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize("tower", ["rn", "vit"])
def test_of_a_clip_the_embeddings_come_from_the_same_pass(tower: str) -> None:
    model, data = toy_classifier(tower, layers=2), InMemory(noise_images(40), [0] * 40)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean += 0.1
    found = abnormal_features(model, data, FeatureConfig(statistics_images=10), with_last=True)
    with torch.no_grad():
        expected = model.encode_image(data.images / 255)
    assert found.embeddings == pytest.approx(expected.numpy(), abs=1e-5)
    assert (found.last, found.passes) == (None, len(data))
    assert abnormal_features(model, data).embeddings is None


class Pooled(nn.Module):
    """A tower that gives tokens, too, as that of CoCa."""

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Means of channels ``[N, 3]``, and all places."""
        return images.mean((2, 3)), images.flatten(2)


class Captioner(nn.Module):
    """A CLIP with such a tower."""

    def __init__(self) -> None:
        super().__init__()
        self.visual = Pooled()

    def encode_image(self, images: Tensor) -> Tensor:
        """Embeddings of unit length."""
        pooled: Tensor = self.visual(images)[0]
        return nn.functional.normalize(pooled, dim=-1)

    def forward(self, images: Tensor) -> Tensor:
        """The first two of three numbers as logits."""
        return self.encode_image(images)[:, :2]


def test_of_a_tower_with_tokens_the_head_takes_in_what_is_pooled() -> None:
    pixels = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = Captioner()
    with head_inputs(model) as seen:
        model(pixels)
    assert torch.equal(seen[0], model.encode_image(pixels))


def test_what_the_last_linear_layer_takes_in_comes_from_the_same_pass() -> None:
    """In the order of the set, though a part of it is read first for the statistics."""
    data = images()
    net = nn.Sequential(nn.GroupNorm(1, 3), nn.Flatten(), nn.Linear(3 * 8 * 8, 5), nn.Linear(5, 2))
    found = abnormal_features(net, data, FeatureConfig(statistics_images=10), with_last=True)
    pixels = torch.stack([data[i][0] for i in range(len(data))]).float() / 255
    assert found.last == pytest.approx(net[:3](pixels).detach().numpy(), abs=1e-5)
    assert found.passes == len(data)
    assert abnormal_features(net, data).last is None
    no_linear = nn.Sequential(nn.GroupNorm(1, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert abnormal_features(no_linear, data, with_last=True).last is None


@pytest.mark.parametrize("measure", get_args(Measure))
def test_what_is_infinite_stays_so(measure: Measure) -> None:
    norm = nn.BatchNorm2d(3)
    norm.running_mean = torch.ones(3)
    net = nn.Sequential(nn.Conv2d(3, 3, 1), norm, nn.Flatten(), nn.Linear(192, 2)).eval()
    next(net.parameters()).data[0] = torch.inf
    values = abnormal_features(net, images(), FeatureConfig(measure)).values
    assert not np.isfinite(values).all()


@pytest.mark.parametrize("measure", ["log-density", "z-score"])
@pytest.mark.parametrize("batch_size", [4, 64])
def test_statistics_of_other_norms_are_those_of_the_set(measure: Measure, batch_size: int) -> None:
    net, data = layer_net(), images()
    found = abnormal_features(net, data, FeatureConfig(measure, batch_size=batch_size))
    assert found.layers == ("group", "norm")
    for name, column in zip(found.layers, found.values.T, strict=True):
        layer = net.get_submodule(name)
        values = inputs_of(net, layer, data)
        every = values.double().flatten(0, 1)
        std = (every.var(0, correction=0) + 1e-5).sqrt()
        expected = by_definition(values.double(), every.mean(0), std, measure)
        assert torch.from_numpy(column.copy()) == pytest.approx(expected.float(), rel=1e-3)


@pytest.mark.parametrize("batch_size", [4, 64])
def test_deviation_behind_norms_of_each_sample(batch_size: int) -> None:
    """Against the set: what a layer gives, and the first token of a sequence by itself."""
    net, data = layer_net(), images()
    found = abnormal_features(net, data, FeatureConfig("deviation", batch_size=batch_size))
    assert found.layers == ("group", "norm", "norm[0]")
    columns = dict(zip(found.layers, found.values.T, strict=True))
    values = {name: outputs_of(net, net.get_submodule(name), data) for name in ("group", "norm")}
    values["norm[0]"] = values["norm"][:, :1]
    for name, column in columns.items():
        every = values[name].double().flatten(0, 1)
        std = (every.var(0, correction=0) + 1e-5).sqrt()
        expected = by_definition(values[name].double(), every.mean(0), std, "deviation")
        assert torch.from_numpy(column.copy()) == pytest.approx(
            expected.float(), rel=1e-3, abs=1e-5
        )


@pytest.mark.parametrize("make", [batch_net, layer_net])
def test_mean_and_largest_is_two_features_a_layer(make: Callable[[], nn.Module]) -> None:
    net, data = make(), images()
    both = abnormal_features(net, data, FeatureConfig("mean-and-largest"))
    mean = abnormal_features(net, data, FeatureConfig("deviation"))
    assert both.layers[::2] == mean.layers
    assert both.layers[1::2] == tuple(f"{name} (largest)" for name in mean.layers)
    assert np.array_equal(both.values[:, ::2], mean.values)
    if make is batch_net:
        largest = -abnormal_features(net, data, FeatureConfig("z-score")).values
        assert both.values[:, 1::2] == pytest.approx(-2 * np.log(largest), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.LayerNorm(4), (2, 5, 4)),
        (nn.LayerNorm(4), (2, 4)),
        (nn.LayerNorm(4), (2, 3, 3, 4)),
        (nn.LayerNorm((4, 3, 3)), (2, 4, 3, 3)),
        (LayerNorm2d(4), (2, 4, 3, 3)),
        (nn.GroupNorm(2, 4), (2, 4, 3, 3)),
        (nn.RMSNorm(4), (2, 5, 4)),
        (nn.InstanceNorm2d(4), (2, 4, 3, 3)),
    ],
)
def test_a_new_norm_gives_what_is_measured(layer: nn.Module, shape: tuple[int, ...]) -> None:
    """Scale and shift of a new layer are 1 and 0."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 1
    found = dict(parts("it", layer, values, "deviation"))
    expected = by_channel(layer, layer(values))
    torch.testing.assert_close(found["it"], expected)
    assert list(found) == (["it", "it[0]"] if shape == (2, 5, 4) else ["it"])


def test_statistics_of_some_images_serve_all_in_one_pass() -> None:
    net, data = layer_net(), images(40)
    calls: list[int] = []
    net.register_forward_pre_hook(lambda _, found: calls.append(len(found[0])))
    some = FeatureConfig(statistics_images=10, batch_size=5)
    found = abnormal_features(net, data, some, seed=3)
    assert sum(calls) == found.passes == 40
    again = abnormal_features(net, data, some, seed=3)
    assert np.array_equal(found.values, again.values)
    assert not np.array_equal(found.values, abnormal_features(net, data, some, seed=4).values)
    every = abnormal_features(net, data, FeatureConfig(batch_size=5)).values
    assert np.corrcoef(found.values[:, 1], every[:, 1])[0, 1] > 0.9
    assert np.isfinite(found.values).all()


def test_an_odd_pixel_is_the_least_likely() -> None:
    """A BatchNorm at the input, mean 0 and deviation 1: the density of the pixel itself."""
    net = nn.Sequential(nn.BatchNorm2d(3, eps=0), nn.Flatten(), nn.Linear(12, 2))
    net[0].running_mean += 0.5
    pixels = torch.full((2, 3, 2, 2), 255, dtype=torch.uint8)
    pixels[1, 2, 1, 0] = 0
    found = abnormal_features(net, InMemory(pixels, [0, 0])).values[:, 0]
    density = Normal(0.5, 1.0)
    assert found[0] == pytest.approx(float(density.log_prob(torch.tensor(1.0))), abs=1e-5)
    assert found[1] == pytest.approx(float(density.log_prob(torch.tensor(0.0))), abs=1e-5)


@pytest.mark.parametrize("tower", ["rn", "vit"])
def test_the_image_tower_of_a_clip(tower: str) -> None:
    classifier = toy_classifier(tower, layers=2)
    if tower == "rn":
        for module in classifier.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean += 0.1
    data = InMemory(noise_images(12), [0] * 12)
    found = abnormal_features(classifier, data)
    assert all(name.startswith("clip.visual") for name in found.layers)
    assert len(found.layers) == {"rn": 19, "vit": 6}[tower]
    assert np.isfinite(found.values).all()
    with torch.no_grad():
        read = classifier(to_unit(data.images)).argmax(1)
    assert found.predictions.tolist() == read.tolist()


def test_features_on_disk(tmp_path: Path) -> None:
    net, data = batch_net(), images()
    memory = abnormal_features(net, data).values
    config = FeatureConfig(spill=tmp_path / "new" / "x.npy")
    on_disk = abnormal_features(net, data, config, with_last=True)
    disk = on_disk.values
    assert isinstance(on_disk.last, np.memmap)
    assert np.load(tmp_path / "new" / "x-last.npy", mmap_mode="r").shape == on_disk.last.shape
    assert isinstance(disk, np.memmap)
    assert disk.dtype == np.float16
    assert np.asarray(disk, dtype=np.float32) == pytest.approx(memory, rel=1e-2)
    assert np.load(tmp_path / "new" / "x.npy", mmap_mode="r").shape == memory.shape
    with pytest.raises(InputError, match=r"does not exist yet, got .*x\.npy"):
        abnormal_features(net, data, config)


def test_features_on_disk_do_not_overflow(tmp_path: Path) -> None:
    net, data = batch_net(), images()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean += 1e4
    config = FeatureConfig(spill=tmp_path / "x.npy")
    assert abnormal_features(net, data).values.min() < -65504
    assert abnormal_features(net, data, config).values.min() == -65504


@pytest.mark.parametrize("measure", ["z-score", "deviation"])
def test_a_layer_that_is_called_twice_gives_one_value_for_both(measure: Measure) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.linear = nn.BatchNorm2d(3), nn.Linear(12, 2)
            self.norm.running_mean += 0.1

        def forward(self, pixels: Tensor) -> Tensor:
            return self.linear((self.norm(pixels) + self.norm(3 * pixels)).flatten(1))

    net, data = Twice(), InMemory(noise_images(5, 2), [0] * 5)
    found = abnormal_features(net, data, FeatureConfig(measure)).values[:, 0]
    once = to_unit(data.images)
    both = torch.cat([once, 3 * once], 3)
    expected = by_definition(both, torch.tensor(0.1), torch.tensor((1 + 1e-5) ** 0.5), measure)
    assert found == pytest.approx(expected.numpy(), rel=1e-5)


def test_model_and_modes_come_back() -> None:
    net = batch_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    abnormal_features(net, images())
    assert net.training
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert not any(module._forward_pre_hooks for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_frozen_batch_norm_counts() -> None:
    frozen = FrozenBatchNorm2d(3)
    frozen.running_mean += 0.2
    net = nn.Sequential(frozen, nn.Flatten(), nn.Linear(192, 2))
    assert abnormal_features(net, images()).layers == ("0",)


def refused(net: nn.Module, data: InMemory[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        abnormal_features(net, data)


def test_input_that_cannot_be_used() -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
    refused(plain, images(), r"BatchNorm, LayerNorm or GroupNorm layers, got Sequential without")
    new = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(192, 2))
    refused(new, images(), "statistics are those of a new network. Train it")
    refused(batch_net(), InMemory(noise_images(1, 8)[:0], []), "images to purify, got an empty")
    headless = nn.Sequential(*list(batch_net())[:5])
    refused(headless, images(), r"logits \[images, classes\], got \[30, 5, 4, 4\]")
    with pytest.raises(InputError, match="1 or more, got 0 and 4096"):
        FeatureConfig(batch_size=0)


def test_result_is_of_the_documented_type() -> None:
    found = abnormal_features(batch_net(), images())
    assert isinstance(found, Features)
    assert found.values.dtype == np.float32
    assert found.values.shape == (30, 3)


def test_the_image_that_is_no_number_is_named() -> None:
    """Statistics are taken of the others, so that one image does not spoil all features."""

    class Dividing(nn.Module):
        """No number for an image whose first pixel is black."""

        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.GroupNorm(1, 3), nn.Linear(3, 2)

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            pixels = pixels / pixels[:, :1, :1, :1].sign()
            logits: torch.Tensor = self.head(self.norm(pixels).mean((2, 3)))
            return logits

    data = images()
    data.images[:, 0, 0, 0] = 9
    data.images[5, 0, 0, 0] = 0
    found = abnormal_features(Dividing(), data)
    assert np.flatnonzero(~np.isfinite(found.values).all(1)).tolist() == [5]


def test_no_half_written_file_stays(tmp_path: Path) -> None:
    """It would block the next search."""
    path = tmp_path / "x.npy"

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    net = nn.Sequential(nn.GroupNorm(1, 3), nn.Flatten(), nn.LazyLinear(2))
    net(torch.zeros(1, *images()[0][0].shape))
    with pytest.raises(KeyboardInterrupt):
        abnormal_features(net, images(), FeatureConfig(spill=path), progress=stop)
    assert not list(tmp_path.iterdir())
    abnormal_features(net, images(), FeatureConfig(spill=path))
    assert path.is_file()


@pytest.mark.parametrize("tokens", [4, 30])
def test_layers_whose_first_axis_is_no_sample_are_refused(tokens: int) -> None:
    """Of as many tokens as images in a batch, too: samples and tokens would change places."""

    class TokensFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.head = nn.LayerNorm(3), nn.Linear(3, 3)

        def forward(self, pixels: Tensor) -> Tensor:
            sequence = pixels.flatten(2)[..., :tokens].permute(2, 0, 1)
            return self.head(self.norm(sequence).mean(0))

    with pytest.raises(InputError, match=r"one sample for each of \d+ images.*batch_first=True"):
        abnormal_features(TokensFirst(), images(), FeatureConfig(batch_size=30))
