"""Image classifiers trained from scratch: what purifiers of labelled sets read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet18
from torchvision.models.resnet import BasicBlock

from invertune_plugin.data import InMemory, to_unit
from invertune_plugin.errors import InputError
from invertune_plugin.modes import channels_last
from invertune_plugin.randomness import seeded
from invertune_plugin.resuming import load_state, save_state

Report = Callable[[int, int, float], None]


@dataclass(frozen=True)
class ClassifierTraining:
    """How to train: SGD with momentum 0.9, one cycle, cross-entropy.

    Attributes:
        epochs: passes over the images.
        batch_size: images per step; what is left of an epoch is not used.
        learning_rate: peak of the cycle.
        weight_decay: of all weights.
        bfloat16: compute products and convolutions in bfloat16; weights stay float32. Nearly twice
            as fast on CPUs that know it.
    """

    epochs: int = 30
    batch_size: int = 128
    learning_rate: float = 0.2
    weight_decay: float = 5e-4
    bfloat16: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that train nothing."""
        if self.epochs < 1 or self.batch_size < 2 or self.learning_rate <= 0:
            raise InputError(
                "Expected an epoch or more, batches of two or more and a positive learning rate, "
                f"got {self.epochs}, {self.batch_size} and {self.learning_rate}."
            )


def small_resnet18(classes: int) -> nn.Module:
    """ResNet-18 for images of 32 pixels: torchvision's, with a 3 x 3 stem and no first pooling."""
    model: nn.Module = resnet18(num_classes=classes)
    model.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    return model


def narrow_resnet18(classes: int, width: int = 16) -> nn.Module:
    """The same with a quarter of the channels, for two cores: 20 BatchNorm layers as well."""
    stages: list[nn.Module] = []
    channels = width
    for stage in range(4):
        wider = width * 2**stage
        for stride in (1 if wider == channels else 2, 1):
            shortcut = None if stride == 1 else _projection(channels, wider)
            stages.append(BasicBlock(channels, wider, stride, shortcut))
            channels = wider
    stem = nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
    )
    return nn.Sequential(
        stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
    )


def _projection(channels: int, wider: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(channels, wider, 1, 2, bias=False), nn.BatchNorm2d(wider))


def small_cnn(classes: int, width: int = 16) -> nn.Module:
    """Seven convolutions with BatchNorm, for trials on one core."""
    channels = [3, width, 2 * width, 2 * width, 4 * width, 4 * width, 8 * width, 8 * width]
    strides = (1, 2, 1, 2, 1, 2, 1)
    blocks = [
        nn.Sequential(nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())
        for i, o, stride in zip(channels, channels[1:], strides, strict=False)
    ]
    head = nn.Linear(channels[-1], classes)
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


TOWERS: Mapping[str, Callable[[int], nn.Module]] = {
    "resnet18": small_resnet18,
    "resnet18_narrow": narrow_resnet18,
    "cnn": small_cnn,
}


def trained_classifier(
    make: Callable[[], nn.Module],
    dataset: InMemory[int],
    config: ClassifierTraining,
    seed: int = 0,
    device: torch.device | str = "cpu",
    resume_path: Path | None = None,
    report: Report | None = None,
) -> nn.Module:
    """Train a new classifier on labelled images, half of them mirrored; it ends in eval mode.

    Args:
        make: gives the network, images in [0, 1] to logits.
        dataset: labelled images, all of one size.
        config: settings.
        seed: of weights, order and augmentation; the global random state comes back unchanged.
        device: where to train.
        resume_path: state after each epoch is kept here, and training goes on from it.
        report: called with (steps done, steps in all, loss) after each step.

    Raises:
        InputError: there are fewer images than a batch.
    """
    if len(dataset) < config.batch_size:
        raise InputError(
            f"Expected {config.batch_size} images or more to train on, got {len(dataset)}. Lower "
            "batch_size."
        )
    with seeded(seed):
        model = make().to(device)
    labels = torch.tensor(list(dataset.texts))
    per_epoch = len(dataset) // config.batch_size
    steps = config.epochs * per_epoch
    optimizer = torch.optim.SGD(
        model.parameters(),
        config.learning_rate,
        momentum=0.9,
        weight_decay=config.weight_decay,
        nesterov=True,
    )
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, steps)
    parts: dict[str, Any] = {"model": model, "optimizer": optimizer, "rates": rates}
    done = load_state(resume_path, **parts)
    with channels_last(model):
        model.train()
        for epoch in range(done // per_epoch, config.epochs):
            generator = torch.Generator().manual_seed(seed * 100_003 + epoch)
            order = torch.randperm(len(dataset), generator=generator)
            for chosen in order.split(config.batch_size)[:per_epoch]:
                images = mirrored(to_unit(dataset.images[chosen]), generator)
                with torch.autocast(
                    torch.device(device).type, torch.bfloat16, enabled=config.bfloat16
                ):
                    logits = model(images.to(device))
                loss = F.cross_entropy(logits.float(), labels[chosen].to(device))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                rates.step()
                done += 1
                if report is not None:
                    report(done, steps, float(loss.detach()))
            save_state(resume_path, done, **parts)
    model.zero_grad(set_to_none=True)
    return model.eval()


def mirrored(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images ``[N, 3, H, W]``, half of them mirrored."""
    mirror = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(mirror, images.flip(3), images)
