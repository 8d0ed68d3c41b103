"""CLIP as an image classifier whose classes are texts (Radford et al. 2021, section 3.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from invertune_plugin.errors import InputError
from invertune_plugin.files import replacing
from invertune_plugin.modes import evaluating
from invertune_plugin.prompt_templates import refuse_templates

Tokenizer = Callable[[list[str]], Tensor]
MODES = {"training", "grad_checkpointing", "output_dict"}


class ZeroShotClassifier(nn.Module):
    """Images in [0, 1] to class logits, with class-text embeddings as the weights of the head.

    It owns normalisation, class weights and logit scale, so that all that is above it (triggers,
    inversion, reports) works in pixel space.

    Args:
        clip: an open_clip model with ``encode_image``, ``encode_text`` and ``logit_scale``.
        tokenizer: texts to token ids ``[N, L]``.
        class_names: the K classes.
        templates: format strings with one ``{}``; a class weight is the mean over them.
        mean: channel means of the model's normalisation.
        std: channel standard deviations of it.
        image_size: side of the square input in pixels.
        cache_dir: where class weights are kept between runs, keyed by their content; None keeps
            nothing, nor does a folder that cannot be used.

    Raises:
        InputError: fewer than two classes, or a template does not name its class once.
    """

    mean: Tensor
    std: Tensor
    class_weights: Tensor

    def __init__(
        self,
        clip: nn.Module,
        tokenizer: Tokenizer,
        *,
        class_names: Sequence[str],
        templates: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int,
        cache_dir: Path | None = None,
    ) -> None:
        super().__init__()
        if len(class_names) < 2:
            raise InputError(f"Expected two or more classes, got {list(class_names)}. Add classes.")
        refuse_templates(templates)
        self.clip: Any = clip
        self.tokenizer = tokenizer
        self.class_names = list(class_names)
        self.templates = list(templates)
        self.image_size = image_size
        self.cache_dir = cache_dir
        device = next(clip.parameters()).device
        self.register_buffer("mean", torch.tensor(mean, device=device).view(1, 3, 1, 1), False)
        self.register_buffer("std", torch.tensor(std, device=device).view(1, 3, 1, 1), False)
        self.register_buffer("class_weights", self._class_weights(), False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, K]`` of images ``[N, 3, H, W]`` in [0, 1]."""
        return self.logits_of(self.encode_image(images))

    def logits_of(self, features: Tensor) -> Tensor:
        """Logits ``[N, K]`` of image embeddings ``[N, D]`` of unit length."""
        scale: Tensor = self.clip.logit_scale.exp().detach()
        return scale * features @ self.class_weights.T

    def encode_image(self, images: Tensor) -> Tensor:
        """Embeddings ``[N, D]`` of unit length of images ``[N, 3, H, W]`` in [0, 1]."""
        return F.normalize(self.clip.encode_image((images - self.mean) / self.std), dim=-1)

    def encode_text(self, texts: list[str]) -> Tensor:
        """Embeddings ``[N, D]`` of unit length of texts."""
        tokens = self.tokenizer(texts).to(self.mean.device)
        return F.normalize(self.clip.encode_text(tokens), dim=-1)

    def with_classes(
        self, class_names: Sequence[str], templates: Sequence[str] | None = None
    ) -> ZeroShotClassifier:
        """The same model (weights shared, not copied) with another set of classes."""
        made = ZeroShotClassifier(
            self.clip,
            self.tokenizer,
            class_names=class_names,
            templates=self.templates if templates is None else templates,
            mean=self.mean.flatten().tolist(),
            std=self.std.flatten().tolist(),
            image_size=self.image_size,
            cache_dir=self.cache_dir,
        )
        made.training = self.training
        return made

    def renew_class_weights(self) -> None:
        """Encode the class texts again, after the text tower has changed."""
        self.class_weights = self._class_weights()

    @property
    def visual(self) -> nn.Module:
        """The image tower."""
        tower: nn.Module = self.clip.visual
        return tower

    def class_index(self, name: str) -> int:
        """Index of a class by name.

        Raises:
            InputError: there is no such class.
        """
        if name not in self.class_names:
            raise InputError(
                f"Expected one of the {len(self.class_names)} classes, got {name!r}. "
                f"The first ones are {', '.join(self.class_names[:8])}."
            )
        return self.class_names.index(name)

    @torch.no_grad()
    def _class_weights(self) -> Tensor:
        cached = self.cache_dir / f"{self._text_key()}.safetensors" if self.cache_dir else None
        if cached is not None and (known := _kept(cached)) is not None:
            return known.to(self.mean.device)
        rows = []
        with evaluating(self.clip):
            for name in self.class_names:
                mean = self.encode_text([t.format(name) for t in self.templates]).mean(0)
                rows.append(F.normalize(mean, dim=0))
        weights = torch.stack(rows)
        if cached is not None:
            with suppress(OSError, InputError):
                cached.parent.mkdir(parents=True, exist_ok=True)
                with replacing(cached) as temporary:
                    save_file({"class_weights": weights.cpu().contiguous()}, temporary)
        return weights

    def _text_key(self) -> str:
        """Hash of all that shapes the class weights: text tower, tokens, class names, templates."""
        digest = hashlib.sha256(repr((self.class_names, self.templates)).encode())
        tokens = self.tokenizer([self.templates[0].format(name) for name in self.class_names])
        digest.update(tokens.to("cpu").numpy().tobytes())
        for name, module in self.clip.named_modules():
            if not name.startswith("visual"):
                digest.update(repr((name, type(module).__name__, _settings(module))).encode())
        for name, tensor in sorted(self.clip.state_dict().items()):
            if not name.startswith("visual."):
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().float().numpy().tobytes())
        return digest.hexdigest()


def _kept(path: Path) -> Tensor | None:
    """Class weights of a file; None where there are none that can be read."""
    with suppress(OSError, SafetensorError, KeyError):
        return load_file(path)["class_weights"]
    return None


def _settings(module: nn.Module) -> list[tuple[str, Any]]:
    """Plain values of a module, such as the number of its heads, that shape what it gives."""
    plain = (bool, int, float, str)
    return sorted((k, v) for k, v in vars(module).items() if k not in MODES and type(v) in plain)
