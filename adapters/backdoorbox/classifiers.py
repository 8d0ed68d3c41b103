"""Any image classifier as a suspect of InverTune: the toolbox's ResNet, a staged CLIP, your own.

The three steps ask a suspect for logits, for an embedding in which images are compared, and for an
image tower whose stages can be watched and tuned. Here the tower is the model up to its last linear
layer, whose weights stand where CLIP has its class texts.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from invertune_plugin.adapters.backdoorbox.staged import StagedClassifier
from invertune_plugin.errors import InputError
from invertune_plugin.hooks import tower_stages
from invertune_plugin.modes import evaluating

_LENGTH = 1e-3


class Suspect(nn.Module, ABC):
    """A classifier with what InverTune asks of it; it shares all weights with ``model``.

    Attributes:
        model: the classifier itself, of its own class; in a repaired suspect, the repaired one.
        visual: the image tower, normalised images to features ``[N, D]``.
        class_names: the K classes.
        image_size: side of the square input in pixels.
    """

    mean: Tensor | None
    std: Tensor | None

    def __init__(
        self,
        model: nn.Module,
        visual: nn.Module,
        class_names: Sequence[str],
        image_size: int,
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
    ) -> None:
        super().__init__()
        self.model = model
        self.visual = visual
        self.class_names = list(class_names)
        self.image_size = image_size
        device = next(model.parameters()).device
        self.register_buffer("mean", _per_channel(mean, device))
        self.register_buffer("std", _per_channel(std, device))
        self.training = model.training

    @abstractmethod
    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, K]`` of images ``[N, 3, H, W]`` in [0, 1]."""

    @abstractmethod
    def encode_image(self, images: Tensor) -> Tensor:
        """Embeddings ``[N, E]`` of unit length of images ``[N, 3, H, W]`` in [0, 1]."""

    @abstractmethod
    def logits_of(self, features: Tensor) -> Tensor:
        """Logits ``[N, K]`` of embeddings ``[N, E]``."""

    def normalized(self, images: Tensor) -> Tensor:
        """What the model takes, of images in [0, 1]."""
        if self.mean is not None:
            images = images - self.mean
        return images if self.std is None else images / self.std


class LinearSuspect(Suspect):
    """A classifier that ends in a linear layer.

    An embedding is the feature vector and a small constant, scaled to unit length together: the
    cosine of two embeddings is that of the features, and the constant's share tells their length,
    which the logits depend on.

    Args:
        head: name of the linear layer in ``model``.
        model: see ``as_suspect``, as the others.
    """

    def __init__(self, head: str, model: nn.Module, *others: Any) -> None:
        super().__init__(model, _without(model, head), *others)
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, K]`` of images ``[N, 3, H, W]`` in [0, 1]."""
        return self._linear(self.visual(self.normalized(images)))

    def encode_image(self, images: Tensor) -> Tensor:
        """Embeddings ``[N, D + 1]`` of unit length of images ``[N, 3, H, W]`` in [0, 1]."""
        features = self.visual(self.normalized(images))
        return F.normalize(F.pad(features, (0, 1), value=_LENGTH), dim=-1)

    def logits_of(self, features: Tensor) -> Tensor:
        """Logits ``[N, K]`` of embeddings ``[N, D + 1]``."""
        return self._linear(features[:, :-1] * (_LENGTH / features[:, -1:]))

    def _linear(self, features: Tensor) -> Tensor:
        logits: Tensor = self.model.get_submodule(self.head)(features)
        return logits


class StagedSuspect(Suspect):
    """A staged CLIP: its embeddings are CLIP's."""

    model: StagedClassifier

    def __init__(self, model: StagedClassifier, *others: Any) -> None:
        super().__init__(model, nn.Sequential(OrderedDict(model.named_children())), *others)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[N, K]`` of images ``[N, 3, H, W]`` in [0, 1]."""
        return self.logits_of(self.encode_image(images))

    def encode_image(self, images: Tensor) -> Tensor:
        """Embeddings ``[N, D]`` of unit length of images ``[N, 3, H, W]`` in [0, 1]."""
        inputs = self.model.normalized(self.normalized(images))
        return F.normalize(self.visual(inputs), dim=-1)

    def logits_of(self, features: Tensor) -> Tensor:
        """Logits ``[N, K]`` of embeddings ``[N, D]``."""
        return self.model.logits_of(features)


def as_suspect(
    model: nn.Module,
    class_names: Sequence[str],
    image_size: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Suspect:
    """Give a classifier the protocol of InverTune's steps; ``Suspect.model`` is the way back.

    Args:
        model: images ``[N, 3, image_size, image_size]`` to logits ``[N, K]``. Its weights are
            shared, not copied.
        class_names: the K classes.
        image_size: side of the square input in pixels.
        mean: channel means, where the model does not take pixels in [0, 1] but normalised ones.
        std: channel standard deviations, likewise.

    Raises:
        InputError: the model is not a classifier of these classes at this size, does not end in a
            linear layer, or has no stages.
    """
    if len(class_names) < 2:
        raise InputError(f"Expected two or more classes, got {list(class_names)}. Add classes.")
    if (mean is not None and len(mean) != 3) or (
        std is not None and (len(std) != 3 or min(std) <= 0)
    ):
        raise InputError(
            f"Expected three means and three positive standard deviations, got {mean} and {std}. "
            "Leave both out for a model that takes pixels in [0, 1]."
        )
    if next(model.parameters(), None) is None:
        raise InputError(
            f"Expected a model with weights, got {type(model).__name__} without any. "
            "Pass the network itself."
        )
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, image_size, image_size, generator=generator)
    images = images.to(next(model.parameters()).device)
    with _linear_outputs(model) as outputs:
        logits = _run(model, images)
    shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != [len(images), len(class_names)]:
        raise InputError(
            f"Expected logits of shape {[len(images), len(class_names)]} for {len(images)} images "
            f"and {len(class_names)} classes, got {shape} from {type(model).__name__}. "
            "Pass a classifier, and a name for each of its classes."
        )
    if isinstance(model, StagedClassifier):
        return StagedSuspect(model, class_names, image_size, mean, std)
    heads = [name for name, output in outputs.items() if torch.equal(output, logits)]
    if not heads:
        raise _no_head(model)
    suspect = LinearSuspect(heads[-1], model, class_names, image_size, mean, std)
    parts = nn.Sequential(suspect.visual, model.get_submodule(heads[-1]))
    if not torch.allclose(_run(parts, images), logits, rtol=1e-4, atol=1e-5):
        raise _no_head(model)
    tower_stages(suspect.visual)
    return suspect


def _no_head(model: nn.Module) -> InputError:
    return InputError(
        "Expected a model whose logits are what its last nn.Linear makes of features [N, D], got "
        f"{type(model).__name__}, where they are not. Take off what comes behind that layer, such "
        "as a softmax, or wrap the model in one that ends so."
    )


def _run(model: nn.Module, images: Tensor) -> Any:
    """What a model puts out in eval mode."""
    try:
        with evaluating(model), torch.no_grad():
            return model(images)
    except Exception as error:
        raise InputError(
            f"Expected a model that takes images {list(images.shape)}, got {type(model).__name__}, "
            f"which fails on them: {error}. Correct image_size, or wrap the model."
        ) from error


@contextmanager
def _linear_outputs(model: nn.Module) -> Iterator[dict[str, Tensor]]:
    """Record what the linear layers put out, by name, in the order in which they last ran."""
    outputs: dict[str, Tensor] = {}

    def recorder(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        def record(_: nn.Module, __: tuple[Any, ...], output: Tensor) -> None:
            outputs.pop(name, None)
            outputs[name] = output

        return record

    linear = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    handles = [module.register_forward_hook(recorder(name)) for name, module in linear.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()


def _per_channel(values: Sequence[float] | None, device: torch.device) -> Tensor | None:
    if values is None:
        return None
    found = torch.tensor(values, device=device, dtype=torch.float32)
    return found.view(1, -1, 1, 1)


def _without(model: nn.Module, head: str) -> nn.Module:
    """The model's structure with an identity in place of its head; the weights are shared."""
    shared: dict[int, Any] = {id(t): t for t in chain(model.parameters(), model.buffers())}
    body = copy.deepcopy(model, shared)
    parent, _, name = head.rpartition(".")
    setattr(body.get_submodule(parent), name, nn.Identity())
    return body
