"""Defences that change the input: the model stays as it is, with something in front of it."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from invertune_plugin.adapters.backdoorbox.defenses.job import NEVER, Defended, Job
from invertune_plugin.adapters.backdoorbox.evaluator import device_of_model

Step = Callable[[Tensor], Tensor]


class Guarded(nn.Module):
    """A model behind an input defence: images ``[N, 3, H, W]`` in [0, 1] to logits ``[N, K]``.

    Args:
        model: the suspect.
        prepare: what the defence does to images; no gradient goes through the toolbox's networks.
        network: the defence's own network, which ``prepare`` uses, so that it moves with the model.
        relabel: what the defence does to logits.
    """

    def __init__(
        self,
        model: nn.Module,
        prepare: Step,
        network: nn.Module | None = None,
        relabel: Step | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.network = network
        self.prepare = prepare
        self.relabel = relabel
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the prepared images."""
        logits: Tensor = self.model(self.prepare(images))
        return logits if self.relabel is None else self.relabel(logits)


class PlacedByContent:
    """ShrinkPad image by image, at a place that is random but follows from the image.

    So a measurement can be repeated, does not depend on batches, and uses no global random state.

    Args:
        shrink: upstream's ``preprocess``.
        seed: other seeds give other places.
    """

    def __init__(self, shrink: Step, seed: int) -> None:
        self.shrink = shrink
        self.seed = seed

    def __call__(self, images: Tensor) -> Tensor:
        """The images ``[N, 3, H, W]``, shrunk and padded."""
        state = random.getstate()
        try:
            return torch.stack([self._placed(image) for image in images])
        finally:
            random.setstate(state)

    def _placed(self, image: Tensor) -> Tensor:
        random.seed(zlib.crc32(image.detach().cpu().numpy().tobytes(), self.seed))
        return self.shrink(image)


def shrink_pad(job: Job, *, pad: int | None = None) -> Defended:
    """ShrinkPad by an eighth of the side, as upstream's 4 of 32 pixels, in front of the model."""
    size = job.suspicion.image_size
    defense = job.core.ShrinkPad(
        size_map=size, pad=size // 8 if pad is None else pad, seed=job.seed
    )
    return Defended(Guarded(job.victim(), PlacedByContent(defense.preprocess, job.seed)))


def auto_encoder(job: Job, *, lr: float = 1e-3, epochs: int | None = None) -> Defended:
    """AutoEncoderDefense with upstream's network for 32 pixels, which takes all multiples of 8.

    It is trained on the clean images; upstream's example takes 100 epochs.
    """
    defense = job.core.AutoEncoderDefense(job.core.models.AutoEncoder((3, 32, 32)), seed=job.seed)
    clean = job.suspicion.clean
    defense.train_autoencoder(clean, clean, _adam(job, "AutoEncoderDefense", lr, epochs))
    network = defense.autoencoder.to(device_of_model(job.suspicion.model))
    return Defended(Guarded(job.victim(), defense.preprocess, network))


def refine(
    job: Job,
    *,
    lr: float = 0.01,
    epochs: int | None = None,
    first_channels: int = 32,
    lmd: float = 0.1,
) -> Defended:
    """REFINE: its U-Net in front of the model and its permutation of the classes behind it.

    The permutation is applied to logits instead of probabilities, so that logits come out; the
    U-Net is trained on the clean images, in upstream's example for 150 epochs.
    """
    unet = job.core.models.UNetLittle(
        args=None, n_channels=3, n_classes=3, first_channels=first_channels
    )
    model, clean = job.victim(), job.suspicion.clean
    defense = job.core.REFINE(
        unet, model, num_classes=len(job.suspicion.class_names), lmd=lmd, seed=job.seed
    )
    defense.train_unet(clean, clean, _adam(job, "REFINE", lr, epochs))
    del defense.X_adv, defense.Y_adv
    device = device_of_model(job.suspicion.model)
    guarded = Guarded(model, defense.preprocess, defense.unet, defense.label_shuffle)
    return Defended(guarded.to(device))


def _adam(job: Job, name: str, lr: float, epochs: int | None) -> dict[str, Any]:
    """The shared training by Adam; over epochs of its own the rate falls at the same shares."""
    shared = job.training
    epochs = shared.epochs if epochs is None else epochs
    return job.schedule(
        name,
        len(job.suspicion.clean),
        lr=lr,
        epochs=epochs,
        schedule=[round(at * epochs / shared.epochs) for at in shared.milestones],
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.0,
        amsgrad=False,
        test_epoch_interval=NEVER,
    )
