"""The golden cases of learning: updates, what they leave, and how rates and means go on; see `cases.py`."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from golden import inputs
from golden.inputs import LEARNING, filled, small, stream
from numpy.typing import NDArray
from torch import Tensor

from base_residual.config.presets import Layer
from base_residual.config.schema import Config
from base_residual.models.factory import create_model
from base_residual.models.network import DepthNet
from base_residual.training.batches import Batches
from base_residual.training.optimisation import generator, learning_rate, make_optimizer
from base_residual.training.step import TrainingStep, make_step
from base_residual.training.trainer import mean_depth
from base_residual.training.weight_average import WeightAverage

Values = dict[str, Any]
Array = NDArray[np.float64]


def updates() -> Values:
    """One update of each kind of run: the loss, its terms, the gradient's norm and the statistics that it leaves."""
    values: Values = {}
    _run.cache_clear()  # an update that an earlier test has made tells nothing of the code as it is now
    for name in RUNS:
        losses, gradients, statistics = _run(name)
        values |= {f"{name}, {term}": value for term, value in losses.items() if value}
        values[f"{name}, gradient's norm"] = np.linalg.norm([np.linalg.norm(part) for part in gradients.values()])
        values |= _by_tensor(f"{name}, statistics", statistics)
    return values


def gradients() -> Values:
    """The gradients of those updates; a ReLU that rounding turns on or off moves those of a few weights by percents."""
    return {key: value for name in RUNS for key, value in _by_tensor(name, _run(name).gradients).items()}


ADAPTIVE: Layer = {"loss": {"adaptive": True, "warmup_epochs": 1}}
RUNS: dict[str, tuple[Layer, int]] = {  # settings and epoch
    "default": ({}, 1),
    "adaptive, in the warm-up": (ADAPTIVE, 1),
    "adaptive, after the warm-up": (ADAPTIVE, 2),
    "rmse": ({"loss": {"recon": "rmse"}}, 1),
    "in two parts": ({"trainer": {"accumulate": 2}}, 1),
    "clipped": ({"trainer": {"grad_clip": 0.01}}, 1),
    "unet": ({"model": {"name": "unet"}}, 1),
}


class Run(NamedTuple):
    """What one update comes to: the loss and its terms, and each weight's gradient and each norm's statistics, flat."""

    losses: dict[str, float]
    gradients: dict[str, Array]
    statistics: dict[str, Array]


@cache
def _run(name: str) -> Run:
    layer, epoch = RUNS[name]
    model, updater, config = _updater({"trainer": {"grad_clip": 1e6, "optimizer": "AdamW"}}, layer)
    losses = updater.update(inputs.batch(config), epoch, 1).tolist()
    weights = {key: weight.grad for key, weight in model.named_parameters() if weight.grad is not None}
    statistics = {key: buffer for key, buffer in model.named_buffers() if "running" in key}
    return Run(
        dict(zip(("loss", "recon", "base", "sparse"), losses, strict=False)),
        *({key: part.double().flatten().numpy() for key, part in parts.items()} for parts in (weights, statistics)),
    )


def schedules() -> Values:
    """Learning rates of steps, the order of the samples, where a network starts, and random numbers of a step."""
    values: Values = {}
    for schedule in ("one_cycle", "constant"):
        settings = small({"trainer": {"lr_schedule": schedule}}).trainer
        values[f"{schedule}, rates"] = [learning_rate(step, 40, settings) for step in (0, 1, 4, 5, 6, 12, 20, 32, 39)]
    _, updater, config = _updater()
    updater.update(inputs.batch(config), 2, 1)
    return values | {
        "rate of an update": updater.optimizer.param_groups[0]["lr"],
        "order of samples": [index for batch in Batches(11, 4, seed=3) for index in batch],
        "mean depth": mean_depth(inputs.dataset(small()), 8.0),
        "random numbers": torch.rand(4, generator=generator(3, 1, 4)),
    }


def steps() -> Values:
    """How far weights go in three updates, in learning rates, and where their running mean is then."""
    values = {}
    decay = {"weight_decay": 5.0}
    ways: dict[str, Layer] = {
        "Muon": {},
        "Muon, strong decay": {"trainer": decay},
        "AdamW": {"trainer": {"optimizer": "AdamW"}},
        "AdamW, strong decay": {"trainer": {"optimizer": "AdamW"} | decay},
    }
    for name, layer in ways.items():
        model, updater, config = _updater(layer)
        before = {key: weight.clone() for key, weight in model.state_dict().items()}
        mean, rates = updater.eval_model, 0.0
        for step in range(3):
            updater.update(inputs.batch(config), 1, step)
            rates += updater.optimizer.param_groups[0]["lr"]
        start, end, between = (_joined(weights, model) for weights in (before, model.state_dict(), mean.state_dict()))
        moved = end - start
        values |= {
            f"{name}, mean distance in learning rates": moved.abs().mean() / rates,
            f"{name}, rms distance in learning rates": moved.square().mean().sqrt() / rates,
            f"{name}, share of the way that the mean has gone": (between - start) @ moved / (moved @ moved),
        }
        if "decay" in name:
            values[f"{name}, share of the weights that is gone"] = -(moved @ start) / (start @ start)
    return values


def running_means() -> Values:
    """The running mean of weights that are all as large as the number of their step."""
    values = {}
    for span in (0.5, 1.5, 100.0):
        model = create_model(small({"data": {"output_size": 16, "max_depth": 1.0}}))
        weight = next(model.parameters())
        with torch.no_grad():
            weight.zero_()
            mean, found = WeightAverage(model, span), []
            for step in range(8):
                weight.fill_(step + 1.0)
                mean.update(step + 1)
                found.append(float(next(mean.model.parameters()).double().mean()))
        values[f"span {span:g}"] = found
    return values


def _updater(*layers: Layer) -> tuple[DepthNet, TrainingStep, Config]:
    config = small(*layers)
    model = filled(create_model(config), LEARNING).train()
    return model, make_step(model, make_optimizer(model, config.trainer), config, steps=4, least=6), config


def _by_tensor(name: str, tensors: dict[str, Array]) -> Values:
    """Each tensor's share of the norm of all, and its product with a random direction, in which every number counts.

    What is next to nothing, such as the gradient of a bias that a batch norm takes away, counts as nothing.
    """
    norms = np.array([np.linalg.norm(numbers) for numbers in tensors.values()])
    products = np.array([stream(key).standard_normal(numbers.size) @ numbers for key, numbers in tensors.items()])
    total = np.linalg.norm(norms)
    return {
        f"{name}, shares as powers of ten": np.log10(norms / total + 1e-4),
        f"{name}, products": products / (norms + 1e-3 * total),
    }


def _joined(weights: dict[str, Tensor], model: DepthNet) -> Tensor:
    return torch.cat([weights[name].double().flatten() for name, _ in model.named_parameters()])
