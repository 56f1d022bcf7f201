"""An optimiser's state as named tensors, and back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from base_residual.files.tensors import Tensors

ADAM = ("step", "exp_avg", "exp_avg_sq")  # what AdamW and Adam keep of each parameter
MUON = ("step", "exp_avg")  # what Muon keeps of each kernel


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """Return an optimiser's state as named tensors: `optimizer.PARAMETER.KEY`."""
    state: dict[int, dict[str, Any]] = optimizer.state_dict()["state"]
    return {
        f"optimizer.{number}.{key}": value
        for number, values in state.items()
        for key, value in values.items()
        if isinstance(value, Tensor)
    }


def optimizer_outline(optimizer: torch.optim.Optimizer) -> Tensors:
    """Return the names, and the shapes, of all that `optimizer_tensors` can give."""
    scalar = torch.zeros(())
    return {
        f"optimizer.{number}.{key}": scalar if key == "step" else parameter
        for number, (parameter, keys) in enumerate(_parameters(optimizer))
        for key in keys
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Give an optimiser the state that `optimizer_tensors` took from another one of the same parameters.

    Raises:
        ValueError: a part of a parameter's state is missing.
    """
    parameters = _parameters(optimizer)
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            # A fused step runs through memory, in which a parameter's state has to lie as the parameter does.
            like = tensor if key == "step" else torch.empty_like(parameters[int(number)][0]).copy_(tensor)
            state.setdefault(int(number), {})[key] = like
    if any(values.keys() != set(parameters[number][1]) for number, values in state.items()):
        raise ValueError("the optimiser's state is incomplete")
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _parameters(optimizer: torch.optim.Optimizer) -> list[tuple[Tensor, tuple[str, ...]]]:
    """Return an optimiser's parameters in their order, and what it keeps of each."""
    return [
        (parameter, MUON if group.get("kernels") else ADAM)
        for group in optimizer.param_groups
        for parameter in group["params"]
    ]
