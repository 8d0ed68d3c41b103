"""Stages of an image tower, and their activations by hooks; the same for all kinds of tower."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from invertune_plugin.errors import InputError

RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")
BLOCK_LISTS = (
    "transformer.resblocks",
    "trunk.blocks",
    "trunk.stages",
    "encoder.layers",
    "blocks",
    "stages",
)


def tower_stages(visual: nn.Module) -> dict[str, nn.Module]:
    """The stages of an image tower, in order, by name.

    Residual stages of a ResNet, blocks of a vision transformer, stages or blocks of a timm trunk;
    of any other network its outermost parts that hold convolutions or linear layers.

    Raises:
        InputError: the tower has none of these, or its maps have their channels last (Swin).
    """
    trunk = getattr(visual, "trunk", visual)
    if str(getattr(trunk, "output_fmt", "")).endswith("NHWC"):
        raise InputError(
            f"Expected an image tower whose maps are [N, C, H, W], got {type(trunk).__name__}, "
            "which has channels last. Such towers are not supported."
        )
    stages = _stages(visual)
    if stages:
        return stages
    raise InputError(
        "Expected an image tower with layer1 to layer4 or a list of blocks, got "
        f"{type(visual).__name__} with {', '.join(n for n, _ in visual.named_children())}. "
        "Other networks can be tuned where two parts or more hold convolutions or linear layers."
    )


def _stages(tower: nn.Module) -> dict[str, nn.Module]:
    modules = dict(tower.named_modules())
    for prefix in ("", "trunk."):
        names = [f"{prefix}{name}" for name in RESNET_STAGES]
        if all(name in modules for name in names):
            return {name: modules[name] for name in names}
    for name in BLOCK_LISTS:
        if name in modules:
            return {f"{name}.{i}": block for i, block in modules[name].named_children()}
    parts = {
        name: child
        for name, child in _parts(tower)
        if any(written_parameters(writer) for writer in writers(child).values())
    }
    if len(parts) == 1:
        name, part = parts.popitem()
        return {f"{name}.{inner}": stage for inner, stage in _stages(part).items()}
    blocks = {name: part for name, part in parts.items() if re.fullmatch(r"block\d+", name)}
    return blocks or parts


def _parts(tower: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The children of a network; of lists of modules, which do not run themselves, theirs."""
    for name, child in tower.named_children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from ((f"{name}.{inner}", part) for inner, part in _parts(child))
        else:
            yield name, child


def writers(stage: nn.Module) -> dict[str, nn.Module]:
    """The modules of a stage that hold weights and whose output channels are its units.

    An attention module stands for its output projection.
    """
    found: dict[str, nn.Module] = {}
    inside_attention: set[int] = set()
    for name, module in stage.named_modules():
        if isinstance(module, nn.MultiheadAttention):
            inside_attention.update(id(child) for child in module.modules())
            found[name] = module
        elif (
            isinstance(module, (nn.Conv2d, nn.Linear, nn.BatchNorm2d))
            and id(module) not in inside_attention
        ):
            found[name] = module
    return found


def written_parameters(writer: nn.Module) -> list[nn.Parameter]:
    """The parameters of a writer whose first axis is its output channels."""
    owner = writer.out_proj if isinstance(writer, nn.MultiheadAttention) else writer
    return list(owner.parameters())


@contextmanager
def head_inputs(model: nn.Module, wanted: bool = True) -> Iterator[list[Tensor]]:
    """Record what the head takes in while the context lasts; each forward pass replaces the last.

    In a classifier the head is the last linear layer that is called, which gives the logits; in a
    ``ZeroShotClassifier`` it is the class texts, which take in image embeddings.

    Args:
        model: any network.
        wanted: False records nothing.

    Yields:
        Its input, ``[N, D]``, of a CLIP of unit length; nothing where no linear layer was called.
    """
    seen: list[Tensor] = []

    def record(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        seen[:] = [inputs[0].detach().flatten(1)]

    def record_embedding(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        pooled: Tensor = output[0] if isinstance(output, tuple) else output
        seen[:] = [F.normalize(pooled.detach(), dim=-1)]

    visual = getattr(model, "visual", None) if hasattr(model, "encode_image") else None
    if not wanted:
        handles = []
    elif visual is not None:
        handles = [visual.register_forward_hook(record_embedding)]
    else:
        layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
        handles = [layer.register_forward_pre_hook(record) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def activations(
    modules: Mapping[str, nn.Module], kept: Callable[[Tensor], Tensor] | None = None
) -> Iterator[dict[str, Tensor]]:
    """Record what modules put out while the context lasts; each forward pass replaces the last.

    Args:
        modules: by name.
        kept: what to keep of an output, taken before a layer behind the module, such as a ReLU,
            changes it in place; None keeps the output itself, with gradients.

    Yields:
        name -> output, channels on the last axis: ``[N, H, W, C]`` or ``[N, L, C]``; of vectors
        ``[N, 1, C]``.
    """
    seen: dict[str, Tensor] = {}

    def recorder(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def record(module: nn.Module, _: tuple[Any, ...], output: Any) -> None:
            tensor: Tensor = output[0] if isinstance(output, tuple) else output
            if tensor.ndim == 4 and not isinstance(module, nn.Linear):
                tensor = tensor.permute(0, 2, 3, 1)
            tensor = tensor[:, None] if tensor.ndim == 2 else tensor
            seen[name] = tensor if kept is None else kept(tensor)

        return record

    handles = [m.register_forward_hook(recorder(name)) for name, m in modules.items()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
