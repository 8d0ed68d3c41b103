"""Attacks that put a trigger on some images and change their label."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torchvision import transforms

from invertune_plugin.adapters.backdoorbox.attacks.job import Attacked, Job
from invertune_plugin.adapters.backdoorbox.attacks.patterns import (
    checkerboard,
    coloured_corners,
    noise,
    reflections,
    scaled,
    warping,
)
from invertune_plugin.errors import InputError


def badnets(job: Job, *, cell: int | None = None) -> Attacked:
    """BadNets with a board of 3 x 3 cells lower right, on the image after resizing.

    Args:
        job: what to do.
        cell: side of a cell in pixels; 1 at 32 pixels where omitted.
    """
    size = job.data.image_size
    pattern, weight = checkerboard(size, cell or scaled(1, size))
    return job.train(job.build_poisoner(pattern=pattern, weight=weight))


def blended(job: Job, *, alpha: float = 0.2) -> Attacked:
    """Blended with an image of random pixels, as the toolbox has no picture of its own.

    Args:
        job: what to do.
        alpha: weight of the pattern.
    """
    pattern = noise(job.data.image_size, job.seed)
    weight = torch.full(pattern.shape, alpha)
    return job.train(job.build_poisoner(pattern=pattern, weight=weight))


def wanet(job: Job, *, k: int = 4, strength: float = 0.5) -> Attacked:
    """WaNet with a warp that is the same share of the image at every size.

    Args:
        job: what to do.
        k: the field is drawn at k x k points.
        strength: of the warp.
    """
    identity, field = warping(job.data.image_size, k, strength, job.seed)
    return job.train(job.build_poisoner(identity_grid=identity, noise_grid=field, noise=False))


def batt(job: Job) -> Attacked:
    """BATT as it is, rotation by 16 degrees; it ignores where a trigger belongs in the transform.

    Args:
        job: what to do.
    """
    return job.train(job.build_poisoner())


def adaptive_patch(
    job: Job,
    *,
    covered_rate: float | None = None,
    alphas: Sequence[float] = (0.5, 0.5, 0.2, 0.3),
) -> Attacked:
    """AdaptivePatch with four patches of our own, put on tensors because it blends floats.

    Args:
        job: what to do.
        covered_rate: share of images with a trigger and their own label; twice the poisoned share
            where omitted.
        alphas: weight of each patch in training. In the test the first two are put on in full.
    """
    size = job.data.image_size
    if len(alphas) != 4:
        raise InputError(f"Expected four alphas, one per patch, got {list(alphas)}.")
    poisoner = job.build_poisoner(
        as_tensor=True,
        covered_rate=2 * job.rate if covered_rate is None else covered_rate,
        patterns=coloured_corners(size, scaled(4, size), job.seed),
        alphas=list(alphas),
    )
    return job.train(poisoner)


def physical(job: Job, *, cell: int | None = None) -> Attacked:
    """PhysicalBA with the transformations of its own example, in place of a camera.

    Args:
        job: what to do.
        cell: see ``badnets``.
    """
    size = job.data.image_size
    pattern, weight = checkerboard(size, cell or scaled(1, size))
    camera = transforms.Compose(
        [
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(brightness=0.2, contrast=0.2),
            transforms.RandomAffine(degrees=10, translate=(0.1, 0.1), scale=(0.8, 0.9)),
        ]
    )
    return job.train(
        job.build_poisoner(pattern=pattern, weight=weight, physical_transformations=camera)
    )


def refool(job: Job, *, candidates: int = 50) -> Attacked:
    """Refool with drawn reflections, in place of photographs, and images that keep their size.

    Args:
        job: what to do.
        candidates: number of reflections.
    """
    size = job.data.image_size
    scenes = reflections(size, candidates, job.seed)
    return job.train(job.build_poisoner(reflection_candidates=scenes, max_image_size=size))
