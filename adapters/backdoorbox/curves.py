"""A curve twin for any model: what MCR trains between two end points.

Upstream ships hand-written twins of its ResNet and VGG. Here the model itself runs, with weights
taken from a point of the curve, by ``torch.func.functional_call``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from invertune_plugin.errors import InputError


class CurveTwin(nn.Module):
    """A model whose every weight is a weighted sum of ``num_bends`` points.

    Parameters stand in the order that MCR asks for: all points of the first weight, all points of
    the second, ... BatchNorm statistics belong to the twin and follow the point last run in
    training mode.

    Args:
        model: gives the architecture and the value that all points start with.
        fix_points: one per bend; weights of a fixed point get no gradient.
    """

    def __init__(self, model: nn.Module, fix_points: Sequence[bool]) -> None:
        nn.Module.__init__(self)
        self.fix_points = list(fix_points)
        self.num_bends = len(self.fix_points)
        self.weight_names = [name for name, _ in model.named_parameters()]
        self.parameter_names = tuple(name.replace(".", "/") for name in self.weight_names)
        self.l2: Tensor | float = 0.0
        for name, (_, parameter) in zip(
            self.parameter_names, model.named_parameters(), strict=True
        ):
            for bend, fixed in enumerate(self.fix_points):
                point = nn.Parameter(parameter.detach().clone(), requires_grad=not fixed)
                self.register_parameter(f"{name}_{bend}", point)
        self.template = _without_parameters(model)

    def forward(self, images: Tensor, coeffs_t: Tensor) -> Tensor:
        """Logits ``[N, K]`` of the model at a point of the curve.

        Args:
            images: ``[N, 3, H, W]``, as the model takes them.
            coeffs_t: weight of each bend, ``[num_bends]``.
        """
        weights = dict(zip(self.weight_names, self.compute_weights_t(coeffs_t), strict=True))
        logits: Tensor = functional_call(self.template, weights, (images,))
        return logits

    def compute_weights_t(self, coeffs_t: Tensor) -> list[Tensor]:
        """Weights at a point, in the order of the model's parameters; keeps their squared sum."""
        zero = torch.zeros(())
        weights = [
            sum((c * self.get_parameter(f"{name}_{i}") for i, c in enumerate(coeffs_t)), zero)
            for name in self.parameter_names
        ]
        self.l2 = torch.stack([weight.square().sum() for weight in weights]).sum()
        return weights


def curve_twin(
    model: nn.Module,
    fix_points: Sequence[bool] = (True, False, True),
    curve_module: type[nn.Module] = nn.Module,
) -> CurveTwin:
    """The ``base_model`` that MCR wants, for a model of any kind.

    Args:
        model: the architecture; MCR copies the end points into the twin itself.
        fix_points: one per bend, as in MCR.
        curve_module: ``core.models.curves.CurveModule`` of the loaded toolbox: MCR counts the L2
            term of instances of it only.

    Raises:
        InputError: fewer than three bends.
    """
    if len(fix_points) < 3:
        raise InputError(
            f"Expected three or more bends, got {len(fix_points)} in fix_points. "
            "Pass one bool per bend, such as (True, False, True)."
        )
    kind: Any = type("CurveTwin", (CurveTwin, curve_module), {})
    twin: CurveTwin = kind(model, fix_points)
    return twin


@torch.no_grad()
def model_at(curve: Any, t: float, like: nn.Module) -> nn.Module:
    """A plain model at a point of a trained curve: ``MCR.get_model()`` itself is a random one.

    Args:
        curve: what ``MCR.get_model()`` gives, over a twin.
        t: the point, 0 (start) to 1 (end).
        like: a model of the same architecture; it is copied.
    """
    twin: CurveTwin = curve.net
    model = copy.deepcopy(like)
    _copy_into(model.parameters(), twin.compute_weights_t(curve.coeff_layer(t)))
    _copy_into(model.buffers(), [twin.template.get_buffer(n) for n, _ in model.named_buffers()])
    return model


def _copy_into(targets: Iterable[Tensor], values: Iterable[Tensor]) -> None:
    for target, value in zip(targets, values, strict=True):
        target.copy_(value)


def _without_parameters(model: nn.Module) -> nn.Module:
    """A copy whose weights are buffers that are not saved: the curve brings its own."""
    template = copy.deepcopy(model)
    tied: dict[nn.Parameter, Tensor] = {}
    for module in template.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            delattr(module, name)
            buffer = tied.setdefault(parameter, parameter.detach())
            module.register_buffer(name, buffer, persistent=False)
    return template
