"""Muon's steps: as far in every direction that a gradient has, and AdamW's for everything that is no kernel."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from base_residual.config.resolve import make_config
from base_residual.config.schema import Config
from base_residual.models.factory import create_model
from base_residual.training.muon import BLOCK, Muon, orthogonal
from base_residual.training.optimisation import make_optimizer

MakeConfig = Callable[..., Config]


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (8, 8), (1, 5), (BLOCK, BLOCK)])
def test_directions_stay_and_count_alike(shape: tuple[int, int]) -> None:
    matrix = draw(*shape) @ torch.diag(torch.logspace(0, -1, shape[1]))  # some directions of a tenth of the size
    (found,) = orthogonal([matrix])
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    turned = left.T @ found @ right.T
    singular = turned.diagonal()
    assert singular.min() > 0.6
    assert singular.max() < 1.25
    torch.testing.assert_close(turned, torch.diag(singular), rtol=0, atol=2e-3)


def test_large_matrices_are_taken_in_blocks_of_the_shorter_side() -> None:
    wide, tall, small = draw(2 * BLOCK + 3, 5 * BLOCK), draw(4 * BLOCK, BLOCK + 1), draw(3, 9)
    together = orthogonal([wide, tall, small])
    for matrix, found in zip((wide, tall, small), together, strict=True):
        assert found.shape == matrix.shape
        torch.testing.assert_close(found, orthogonal([matrix])[0], rtol=0, atol=1e-5)
    for place in range(0, len(wide), BLOCK):
        block = wide[place : place + BLOCK]
        torch.testing.assert_close(together[0][place : place + BLOCK], orthogonal([block])[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(together[1][:, :BLOCK], orthogonal([tall[:, :BLOCK]])[0], rtol=0, atol=1e-5)
    assert not orthogonal([torch.zeros(4, 6)])[0].any()


def stepped(decay: float, fault: float | None = None, steps: int = 1) -> tuple[nn.Parameter, nn.Parameter, Muon]:
    """A kernel and a bias after steps with a rate of 0.1."""
    kernel, bias = nn.Parameter(draw(6, 4, 5)), nn.Parameter(draw(7))
    optimizer = Muon([kernel], [bias], lr=0.1, weight_decay=decay)
    if fault is not None:
        optimizer.found_inf = torch.tensor(fault)
    for step in range(steps):
        kernel.grad, bias.grad = draw(6, 4, 5 + step)[..., :5].contiguous(), draw(7)
        if fault:
            kernel.grad[0, 0, 0], bias.grad[0] = torch.nan, torch.nan
        optimizer.step()
    return kernel, bias, optimizer


def test_a_step_of_a_kernel_is_as_large_as_adamw_says() -> None:
    kernel, _, _ = stepped(0.0)
    moved = kernel.detach() - draw(6, 4, 5)
    assert float(moved.square().mean().sqrt()) == pytest.approx(0.1 * 0.2, rel=0.15)
    assert float((moved * draw(6, 4, 5)).sum()) < 0  # the gradient is drawn as the kernel is
    decayed, _, _ = stepped(0.5)
    torch.testing.assert_close(kernel - decayed, 0.1 * 0.5 * draw(6, 4, 5))


def test_a_later_step_goes_along_the_mean_of_the_gradients() -> None:
    kernel, _, optimizer = stepped(0.0, steps=2)
    first, second = draw(6, 4, 5), draw(6, 4, 6)[..., :5]
    mean = 0.95 * 0.05 * first + 0.05 * second
    torch.testing.assert_close(optimizer.state[kernel]["exp_avg"], mean)
    (direction,) = orthogonal([(0.05 * second + 0.95 * mean).flatten(1)])
    after_one, _, _ = stepped(0.0)
    torch.testing.assert_close(after_one - kernel, 0.1 * 0.2 * 20**0.5 * direction.view(6, 4, 5))


def test_what_is_no_kernel_moves_as_by_adamw() -> None:
    _, bias, _ = stepped(0.3, steps=3)
    other = nn.Parameter(draw(7))
    optimizer = torch.optim.AdamW([other], lr=0.1, weight_decay=0.3)
    for _ in range(3):
        other.grad = draw(7)
        optimizer.step()
    torch.testing.assert_close(bias, other)


def test_a_step_at_fault_changes_nothing() -> None:
    kernel, bias, optimizer = stepped(0.5, fault=1.0)
    assert torch.equal(kernel, draw(6, 4, 5))
    assert torch.equal(bias, draw(7))
    assert not optimizer.state[kernel]["exp_avg"].any()
    assert optimizer.state[kernel]["step"] == 0
    good, plain = stepped(0.5, fault=0.0, steps=2), stepped(0.5, steps=2)
    assert good[2].state[good[0]]["step"] == 2
    assert torch.equal(good[0], plain[0])
    assert torch.equal(good[1], plain[1])


def test_very_large_kernels_stay_with_adamw() -> None:
    config = make_config()
    network = create_model(config)
    hidden = {id(part) for part in make_optimizer(network, config.trainer).param_groups[0]["params"]}
    sizes = {name: (part.numel(), id(part) in hidden) for name, part in network.named_parameters() if part.ndim > 1}
    assert sizes["encoder.latent.0.common.weight"] == (384 * 2400, False)
    assert sizes["residual_decoder.start.0.common.weight"] == (1024 * 384, True)


@pytest.mark.parametrize("model", ["base_residual", "unet"])
def test_all_kernels_but_those_that_draw_a_map_are_hidden(tiny: MakeConfig, model: str) -> None:
    config = tiny({"model": {"name": model}, "trainer": {"optimizer": "Muon"}})
    network = create_model(config)
    hidden, others = (group["params"] for group in make_optimizer(network, config.trainer).param_groups)
    assert {id(part) for part in (*hidden, *others)} == {id(part) for part in network.parameters()}
    names = {id(part): name for name, part in network.named_parameters()}
    assert all(names[id(part)].endswith("weight") and part.ndim > 1 for part in hidden)
    left = [names[id(part)] for part in others if part.ndim > 1]
    assert all("head" in name or "direction" in name for name in left), left
    assert any("head" in name for name in left)
