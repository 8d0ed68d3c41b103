"""CLIP as a toolbox model: the zero-shot classifier cut into stages that are its children.

Toolbox defences take a model apart by the names of its top-level children and treat what comes out
of them as ``[N, C, H, W]``. So the stages of the image tower are the children here, and a vision
transformer's tokens travel between them as ``[N, D, L, 1]``.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import AbstractContextManager
from itertools import chain
from typing import Any

import torch
from open_clip.modified_resnet import ModifiedResNet
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from invertune_plugin.errors import InputError
from invertune_plugin.hooks import RESNET_STAGES
from invertune_plugin.zero_shot import ZeroShotClassifier

_STEM = ("conv1", "bn1", "act1", "conv2", "bn2", "act2", "conv3", "bn3", "act3", "avgpool")


class StagedClassifier(nn.Module):
    """Images ``[N, 3, H, W]`` in [0, 1] to logits ``[N, K]``, stage by stage.

    Parameters are those of the image tower and nothing else, so that each gets a gradient; what
    only belongs to the classes and the pixels is held in buffers.

    Args:
        stages: name -> module, in order; each takes what the one before puts out.
        mean: channel means, ``[1, 3, 1, 1]``.
        std: channel standard deviations, ``[1, 3, 1, 1]``.
        class_weights: class-text embeddings of unit length, ``[K, D]``.
        scale: logit scale, a scalar.
    """

    mean: Tensor
    std: Tensor
    class_weights: Tensor
    scale: Tensor

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        mean: Tensor,
        std: Tensor,
        class_weights: Tensor,
        scale: Tensor,
    ) -> None:
        super().__init__()
        for name, stage in stages.items():
            self.add_module(name, stage)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.register_buffer("class_weights", class_weights)
        self.register_buffer("scale", scale)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, K]`` of images ``[N, 3, H, W]`` in [0, 1]."""
        carried = self.normalized(images)
        for stage in self.children():
            carried = stage(carried)
        return self.logits_of(F.normalize(carried, dim=-1))

    def normalized(self, images: Tensor) -> Tensor:
        """What the first stage takes, of images in [0, 1]."""
        return (images - self.mean) / self.std

    def logits_of(self, features: Tensor) -> Tensor:
        """Logits ``[N, K]`` of image embeddings ``[N, D]`` of unit length."""
        return self.scale * features @ self.class_weights.T


class Embed(nn.Module):
    """Patches, class token and positions of a vision transformer, as a token map."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.conv1 = tower.conv1
        self.class_embedding = tower.class_embedding
        self.positional_embedding: Tensor
        if tower.class_embedding.requires_grad and not tower.positional_embedding.requires_grad:
            self.register_buffer("positional_embedding", tower.positional_embedding.detach())
        else:
            self.positional_embedding = tower.positional_embedding
        self.patch_dropout = tower.patch_dropout
        self.ln_pre = tower.ln_pre

    def forward(self, images: Tensor) -> Tensor:
        """Token map ``[N, D, L, 1]`` of normalised images ``[N, 3, H, W]``."""
        patches = _tokens(self.conv1(images).flatten(2)[..., None])
        first = self.class_embedding.expand(len(images), 1, -1).to(patches.dtype)
        tokens = torch.cat([first, patches], 1) + self.positional_embedding.to(patches.dtype)
        return _token_map(self.ln_pre(self.patch_dropout(tokens)))


class Block(nn.Module):
    """One block of a vision transformer, from token map to token map."""

    def __init__(self, block: nn.Module, batch_first: bool) -> None:
        super().__init__()
        self.block = block
        self.batch_first = batch_first

    def forward(self, token_map: Tensor) -> Tensor:
        """Token map ``[N, D, L, 1]`` to another one."""
        tokens = _tokens(token_map)
        if self.batch_first:
            return _token_map(self.block(tokens))
        return _token_map(self.block(tokens.transpose(0, 1).contiguous()).transpose(0, 1))


class Head(nn.Module):
    """Pooling, final normalisation and projection of a vision transformer."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.attn_pool = tower.attn_pool
        self.ln_post = tower.ln_post
        self.proj = tower.proj
        self.average = tower.pool_type == "avg"
        self.pool_first = tower.final_ln_after_pool and tower.attn_pool is None

    def forward(self, token_map: Tensor) -> Tensor:
        """Image embeddings ``[N, D]``, of any length, of a token map ``[N, D', L, 1]``."""
        tokens = _tokens(token_map)
        if self.attn_pool is not None:
            tokens = self.attn_pool(tokens)
        pooled = (
            self.ln_post(self._pool(tokens))
            if self.pool_first
            else self._pool(self.ln_post(tokens))
        )
        return pooled if self.proj is None else pooled @ self.proj

    def _pool(self, tokens: Tensor) -> Tensor:
        return tokens[:, 1:].mean(1) if self.average else tokens[:, 0]


def staged(classifier: ZeroShotClassifier) -> StagedClassifier:
    """The classifier as a toolbox model; its weights are shared and not copied.

    Children are ``stem, layer1, ..., layer4, attnpool`` for a ModifiedResNet and ``embed, block0,
    block1, ..., head`` for a vision transformer.

    Raises:
        InputError: the image tower cannot be cut into stages.
    """
    scale: Tensor = classifier.clip.logit_scale.exp().detach()
    model = StagedClassifier(
        _stages(classifier.visual),
        classifier.mean,
        classifier.std,
        classifier.class_weights.detach(),
        scale,
    )
    model.training = classifier.training
    return model


def unstage(model: nn.Module, classifier: ZeroShotClassifier) -> ZeroShotClassifier:
    """The way back: the zero-shot classifier whose image tower has the weights of a staged model.

    It shares the tower's weights with ``model`` and the rest (text tower, classes) with
    ``classifier``, which itself keeps its weights.

    Args:
        model: what ``staged`` made of this classifier, or a trained copy of it.
        classifier: where it came from.

    Raises:
        InputError: the model is not staged, or its stages are not those of this classifier.
    """
    if not isinstance(model, StagedClassifier):
        raise InputError(
            f"Expected a StagedClassifier, got {type(model).__name__}. "
            "Pass the model that staged() made, or a copy of it."
        )
    weights, origin = _weights(model), _weights(staged(classifier))
    shapes = [{name: t.shape for name, t in found.items()} for found in (weights, origin)]
    if shapes[0] != shapes[1]:
        odd = sorted(dict(shapes[0].items() ^ shapes[1].items()))
        raise InputError(
            f"Expected the stages of this classifier, got others: {', '.join(odd[:4])} differ. "
            "Pass the classifier it was staged from; a layer that was masked has no place in it."
        )
    shared: dict[int, Any] = {
        id(t): t for t in chain(classifier.parameters(), classifier.buffers())
    }
    shared.update({id(old): weights[name] for name, old in origin.items()})
    shared[id(classifier.tokenizer)] = classifier.tokenizer
    return copy.deepcopy(classifier, shared)


def math_attention() -> AbstractContextManager[None]:
    """Attention that can be differentiated twice, inside; the faster kernels cannot on a CPU."""
    return sdpa_kernel(SDPBackend.MATH)


def _stages(tower: Any) -> dict[str, nn.Module]:
    if isinstance(tower, ModifiedResNet):
        stem = nn.Sequential(OrderedDict((name, getattr(tower, name)) for name in _STEM))
        rest = {name: getattr(tower, name) for name in (*RESNET_STAGES, "attnpool")}
        return {"stem": stem, **rest}
    if isinstance(tower, VisionTransformer) and tower.pool_type in ("tok", "avg"):
        transformer = tower.transformer
        blocks = {
            f"block{i}": Block(block, transformer.batch_first)
            for i, block in enumerate(transformer.resblocks)
        }
        return {"embed": Embed(tower), **blocks, "head": Head(tower)}
    pooling = getattr(tower, "pool_type", None)
    raise InputError(
        "Expected an open_clip ModifiedResNet, or a VisionTransformer that pools one embedding, "
        f"got {type(tower).__name__}{f' with pool_type {pooling!r}' if pooling else ''}. Use the "
        "classifier itself where a toolbox method takes any model."
    )


def _weights(model: StagedClassifier) -> dict[str, Tensor]:
    """Parameters and buffers of the stages, by name."""
    return {
        f"{stage}.{name}": tensor
        for stage, module in model.named_children()
        for name, tensor in chain(
            module.named_parameters(remove_duplicate=False),
            module.named_buffers(remove_duplicate=False),
        )
    }


def _tokens(token_map: Tensor) -> Tensor:
    return token_map[..., 0].transpose(1, 2)


def _token_map(tokens: Tensor) -> Tensor:
    return tokens.transpose(1, 2)[..., None]
