"""The optimiser, the learning rate of each step, and the random generators of a run."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from base_residual.config.schema import TrainerConfig
from base_residual.models.network import DepthNet
from base_residual.training.muon import Muon

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)  # with kernels
LARGEST = 2**19  # numbers in a kernel that Muon moves; on larger ones it costs more than it brings
RISE = 0.15  # share of the steps in which the one-cycle schedule rises


def make_optimizer(model: DepthNet, settings: TrainerConfig) -> torch.optim.Optimizer:
    """Make the optimiser over all of a network's parameters."""
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "Muon":
        hidden = _hidden_kernels(model)
        kernels = [weights for name, weights in model.named_parameters() if name in hidden]
        others = [weights for name, weights in model.named_parameters() if name not in hidden]
        return Muon(kernels, others, rate, decay)
    kind = torch.optim.AdamW if settings.optimizer == "AdamW" else torch.optim.Adam
    return kind(model.parameters(), lr=rate, weight_decay=decay, fused=True)


def _hidden_kernels(model: DepthNet) -> set[str]:
    """Return the names of the kernels that Muon moves: not those that draw a map, and none of more than `LARGEST`."""
    layers = ((name, layer) for name, layer in model.named_modules() if isinstance(layer, LAYERS))
    return {f"{name}.weight" for name, layer in layers if not name.endswith("head") and layer.weight.numel() <= LARGEST}


def learning_rate(step: int, steps: int, settings: TrainerConfig) -> float:
    """Return the rate of a step, from 0: a linear rise, then half a cosine (Smith and Topin, 2018), or constant."""
    if settings.lr_schedule == "constant":
        return settings.learning_rate
    part = (step + 1) / steps
    if part < RISE:
        return settings.learning_rate * part / RISE
    return settings.learning_rate * (0.5 + 0.5 * math.cos(math.pi * (part - RISE) / (1 - RISE))) + 1e-7


def generator(*numbers: int) -> torch.Generator:
    """Make a random generator that those numbers decide."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint32)[0]))
