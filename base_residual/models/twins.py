"""Twins: second networks of the same weights, in another mode or with other statistics."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def evaluating(model: Module) -> Module:
    """Return a network in evaluation mode: itself, or a second one with the same weights if it is in training.

    A network that several threads use, one of them to train it perhaps, never changes its mode by this.
    """
    return twin_of(model, _evaluate) if any(part.training for part in model.modules()) else model


def twin_of(module: Module, change: Callable[[nn.Module], None]) -> Module:
    """Return a module of the same tensors, and so all modules in it, each of which is changed by `change`."""
    twin = copy.copy(module)
    twin._modules = {name: part and twin_of(part, change) for name, part in module._modules.items()}
    change(twin)
    return twin


def _evaluate(module: nn.Module) -> None:
    module.training = False
    module.__dict__.pop("forward", None)  # activation checkpointing, for gradients, calls the module in training
