"""One set of weights, several naming schemes: fit a state dict to an open_clip model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from open_clip.convert import convert_state_dict
from torch import Tensor, nn

from invertune_plugin.checkpoints import listed
from invertune_plugin.errors import InputError

OPENAI_KEYS = frozenset({"input_resolution", "context_length", "vocab_size"})
_NOT_WEIGHTS = OPENAI_KEYS | {
    "attn_mask",
    "text.attn_mask",
    "text.transformer.embeddings.position_ids",
}
_TEXT_TOWER = (
    "text_projection",
    "positional_embedding",
    "token_embedding.",
    "transformer.",
    "ln_final.",
)
_COUNTERS = ("total_ops", "total_params")
_TRANSFORMERS_LAYOUT = ("vision_model.", "text_model.")


def fitting_weights(
    model: nn.Module, state_dict: Mapping[str, Tensor], architecture: str, source: str
) -> dict[str, Tensor]:
    """Weights under the names of an open_clip model; every key and shape must fit.

    OpenAI's layout (also that of CleanCLIP, BadCLIP and PAR), open_clip's (also that of
    Detect-CLIP-Backdoor-Samples), and open_clip's with the text tower under ``text.`` are
    understood. The counters that thop leaves in a model are dropped.

    Args:
        model: what shall receive the weights; its own are not read.
        state_dict: name -> fp32 tensor.
        architecture: name of the model, for messages.
        source: where the weights came from, for messages.

    Returns:
        What the model's ``load_state_dict`` takes.

    Raises:
        InputError: keys or shapes differ; the message lists the differences.
    """
    expected = model.state_dict()
    fitted = _to_layout(model, state_dict, expected)
    missing = [name for name in expected if name not in fitted]
    unexpected = [name for name in fitted if name not in expected]
    shapes = [
        f"{name} is {list(fitted[name].shape)}, not {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in fitted and fitted[name].shape != tensor.shape
    ]
    differences = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    lines = [
        f"  {kind} ({len(names)}): {listed(names)}" for kind, names in differences.items() if names
    ]
    if lines:
        raise InputError(
            f"Expected the weights of {architecture} in {source}, got weights that do not fit:\n"
            + "\n".join(lines)
            + f"\n{_advice(state_dict, expected)}"
        )
    return fitted


def _to_layout(
    model: nn.Module, state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    converted: dict[str, Tensor] = convert_state_dict(model, dict(state_dict))
    fitted: dict[str, Tensor] = {}
    for key, tensor in converted.items():
        dropped = key in _NOT_WEIGHTS or key.rpartition(".")[2] in _COUNTERS
        if dropped and key not in expected:
            continue
        name = key
        bare = key.removeprefix("text.")
        if key not in expected and bare.startswith(_TEXT_TOWER):
            name = next(
                (n for n in (bare, f"text.{bare}") if n in expected and n not in converted), key
            )
        fitted[name] = tensor
    for name in {"logit_scale", "logit_bias"} & fitted.keys() & expected.keys():
        if fitted[name].numel() == 1:
            fitted[name] = torch.reshape(fitted[name], expected[name].shape)
    return fitted


def _advice(state_dict: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    if any(name.startswith(_TRANSFORMERS_LAYOUT) for name in state_dict):
        return "The keys look like a Hugging Face transformers model; convert it to open_clip's."
    if any(f"visual.{name}" in expected for name in state_dict):
        return (
            "The keys look like an image tower alone; a zero-shot model needs the text tower too."
        )
    return "The checkpoint may be of another architecture: name the one that it was made with."
