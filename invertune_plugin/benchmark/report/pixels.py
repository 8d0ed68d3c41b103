"""Pixels of a repair: triggers, and images as both models read them, enlarged without smoothing."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from invertune_plugin.benchmark.report.figures import Picture
from invertune_plugin.data import to_unit
from invertune_plugin.metrics import predict
from invertune_plugin.triggers import MaskedPattern, Trigger

LEAST_SIDE = 128
MOST_PAIRS = 6


@dataclass(frozen=True)
class Readings:
    """Class names that a model reads in the same images without and with the trigger."""

    clean: Sequence[str]
    triggered: Sequence[str]


@dataclass(frozen=True)
class Examples:
    """Images without and with a trigger, and what the models read in them.

    Attributes:
        clean: ``uint8 [n, 3, H, W]``.
        triggered: the same images with the trigger.
        attackers: whether it is the attacker's trigger; else it is the inverted one.
        suspect: readings of the suspect.
        repaired: readings of the repaired model; None where nothing was repaired.
        target: name of the class the trigger leads to, where it is known.
    """

    clean: Tensor
    triggered: Tensor
    attackers: bool
    suspect: Readings
    repaired: Readings | None = None
    target: str | None = None


@dataclass(frozen=True)
class Pair:
    """One image without and with the trigger, and rows of (model, reading, reading)."""

    clean: Picture
    triggered: Picture
    readings: list[tuple[str, str, str]]


def read_examples(
    suspect: Any,
    repaired: Any | None,
    images: Tensor,
    trigger: Trigger,
    *,
    attackers: bool,
    target: str | None = None,
) -> Examples:
    """Put a trigger on a few images and let both models read them.

    Args:
        suspect: the classifier with the backdoor; ``class_names`` names its classes.
        repaired: the repaired classifier, or None.
        images: ``uint8 [n, 3, H, W]``; the first six are used.
        trigger: the attacker's, where it is known, or the inverted one.
        attackers: whether it is the attacker's.
        target: name of the class it leads to.
    """
    clean = images[:MOST_PAIRS].cpu()
    triggered = trigger.on_bytes(clean)

    def read(model: Any) -> Readings:
        found = [predict(model, to_unit(part)).tolist() for part in (clean, triggered)]
        names = [
            ["no class" if label < 0 else model.class_names[label] for label in labels]
            for labels in found
        ]
        return Readings(*names)

    after = None if repaired is None else read(repaired)
    return Examples(clean, triggered, attackers, read(suspect), after, target)


def pairs(examples: Examples) -> list[Pair]:
    """Pictures of the examples with their readings; at most six."""
    models = [("suspect", examples.suspect)]
    if examples.repaired is not None:
        models.append(("repaired", examples.repaired))
    return [
        Pair(
            Picture(picture_uri(examples.clean[i], exact=False), f"Test image {i + 1}", "clean"),
            Picture(
                picture_uri(examples.triggered[i], exact=False),
                f"Test image {i + 1} with the trigger",
                "triggered",
            ),
            [(name, read.clean[i], read.triggered[i]) for name, read in models],
        )
        for i in range(min(len(examples.clean), MOST_PAIRS))
    ]


def inverted_trigger(trigger: MaskedPattern) -> list[Picture]:
    """Mask, pattern, their product, and the trigger on mid-grey."""
    mask, pattern, shown = inverted_parts(trigger)
    area = f"{float(mask.mean()):.1%}"
    return [
        Picture(picture_uri(mask), f"Inverted mask, mean {area}", "Mask"),
        Picture(picture_uri(pattern), "Inverted pattern", "Pattern"),
        Picture(picture_uri(mask * pattern), "Inverted mask times pattern", "Mask × pattern"),
        Picture(picture_uri(shown), "Inverted trigger on mid-grey", "On mid-grey"),
    ]


def inverted_parts(trigger: MaskedPattern) -> tuple[Tensor, Tensor, Tensor]:
    """Mask, pattern, and the trigger on mid-grey, ``[3, H, W]`` in [0, 1] each."""
    mask = trigger.mask.detach().cpu().float().expand(3, -1, -1)
    pattern = trigger.pattern.detach().cpu().float()
    return mask, pattern, mask * pattern + (1 - mask) * 0.5


def true_trigger(trigger: Trigger, size: tuple[int, int]) -> list[Picture]:
    """The attacker's trigger on mid-grey, and what it changes there.

    Args:
        trigger: the attacker's trigger.
        size: height and width of the images it is for.
    """
    grey = torch.full((1, 3, *size), 0.5)
    shown = trigger(grey)[0]
    change = (shown - 0.5).abs()
    most = float(change.max())
    told = f"|difference|, white = {most:.2f}" if most > 0 else "|difference|: none on plain grey"
    return [
        Picture(picture_uri(shown), "True trigger on mid-grey", "On mid-grey"),
        Picture(picture_uri(change / max(most, 1e-9)), "What the true trigger changes", told),
    ]


def picture_uri(image: Tensor, *, exact: bool = True) -> str:
    """An image as a data URI.

    Args:
        image: ``[3, H, W]``, ``uint8`` or in [0, 1]; small ones are enlarged pixel by pixel.
        exact: keep every pixel (PNG); else large images become JPEG of high quality.
    """
    drawn = as_image(image)
    factor = -(-LEAST_SIDE // min(drawn.size))
    kind = "PNG"
    options: dict[str, Any] = {"optimize": True}
    if factor > 1:
        drawn = drawn.resize(
            (drawn.width * factor, drawn.height * factor), Image.Resampling.NEAREST
        )
    elif not exact:
        kind = "JPEG"
        options = {"quality": 92, "subsampling": 0}
    out = io.BytesIO()
    drawn.save(out, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(out.getvalue()).decode()}"


def as_image(image: Tensor) -> Image.Image:
    """A picture of ``[3, H, W]``, ``uint8`` or in [0, 1]."""
    pixels = image if image.dtype == torch.uint8 else image.clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
