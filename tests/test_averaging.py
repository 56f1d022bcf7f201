from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file

from base_residual.config.run_layout import STATE
from base_residual.config.schema import Config
from base_residual.models.factory import create_model
from base_residual.training.trainer import Trainer
from base_residual.training.weight_average import WeightAverage

MakeConfig = Callable[..., Config]


def test_the_mean_is_over_all_steps_at_first_and_over_its_span_later(tiny: MakeConfig) -> None:
    model = create_model(tiny()).requires_grad_(False)
    (weights, *_) = model.parameters()
    mean = WeightAverage(model, span=4)
    (ours, *_) = mean.model.parameters()
    expected = weights.clone()
    for step, keep in enumerate((1 / 10, 2 / 11, 3 / 12), start=1):  # less than 3/4 each
        weights.add_(step)
        expected = keep * expected + (1 - keep) * weights
        mean.update(step)
        torch.testing.assert_close(ours, expected)
    weights.add_(1)
    mean.update(1000)
    torch.testing.assert_close(ours, 0.75 * expected + 0.25 * weights)
    assert not mean.model.training


def test_a_span_below_one_step_is_the_network_itself(tiny: MakeConfig) -> None:
    model = create_model(tiny()).requires_grad_(False)
    mean = WeightAverage(model, span=0.5)
    for weights in model.parameters():
        weights.add_(1)
    mean.update(1000)
    for ours, weights in zip(mean.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(ours, weights)


@pytest.mark.parametrize("average", [0.0, 5.0])
def test_what_is_saved_and_tested_is_the_mean(tiny: MakeConfig, average: float) -> None:
    config = tiny({"trainer": {"average": average}})
    Trainer(config, trackers=[]).fit()
    state, saved = load_file(config.run_dir / STATE), load_file(config.run_dir / "last.safetensors")
    kept = "mean" if average else "model"
    assert any(name.startswith("mean.") for name in state) == bool(average)
    for name, weights in saved.items():
        assert torch.equal(weights, state[f"{kept}.{name}"])
    if average:
        assert any(not torch.equal(state[f"mean.{name}"], state[f"model.{name}"]) for name in saved)
