"""The optimiser, the learning rate of each step, and the random generators of a run."""

from __future__ import annotations

import math

import numpy as np
import torch

from base_residual.config.schema import TrainerConfig
from base_residual.models.network import DepthNet

RISE = 0.15  # share of the steps in which the one-cycle schedule rises


def make_optimizer(model: DepthNet, settings: TrainerConfig) -> torch.optim.Optimizer:
    """Make the optimiser over all of a network's parameters."""
    kind = torch.optim.AdamW if settings.optimizer == "AdamW" else torch.optim.Adam
    return kind(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


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
