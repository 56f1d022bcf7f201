from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from base_residual.config.presets import Layer
from base_residual.config.resolve import make_config
from base_residual.models.decomposition import DepthDecomposition
from base_residual.models.factory import create_model
from base_residual.models.mirror import HalfMapConv, MirrorLinear, echoes_and_images, left_halves, whole_maps


def swapped(both: Tensor) -> Tensor:
    """Each echo in the place of its image."""
    own, image = echoes_and_images(both)
    return torch.cat([image, own])


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (MirrorLinear(partial(nn.Linear, 5, 3)), (4, 5)),
        (MirrorLinear(partial(nn.Conv1d, 5, 3, 3, padding=1)), (4, 5, 20)),
        (HalfMapConv(5, 3, bias=True), (4, 5, 8, 4)),
    ],
)
def test_a_layer_answers_a_swap_by_a_swap(layer: nn.Module, shape: tuple[int, ...]) -> None:
    both = torch.randn(shape)
    found = layer(both)
    torch.testing.assert_close(layer(swapped(both)), swapped(found))
    assert not torch.allclose(found, swapped(found))


def test_what_is_folded_unfolds_to_itself() -> None:
    maps = torch.randn(3, 2, 4, 8)
    assert torch.equal(whole_maps(left_halves(maps)), maps)


def test_a_folded_convolution_is_one_over_the_whole_map_with_the_mirrored_kernel_on_the_right() -> None:
    maps, conv = torch.randn(2, 3, 8, 8), HalfMapConv(3, 4, bias=True)
    found = whole_maps(conv(left_halves(maps)))
    left, right = (
        nn.functional.conv2d(maps, kernel, conv.bias, padding=1) for kernel in (conv.weight, conv.weight.flip(-1))
    )
    torch.testing.assert_close(found, torch.cat([left[..., :4], right[..., 4:]], dim=-1))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"model": {"decoder": "map", "base_decoder": "map"}},
        {"model": {"base_grid": 5}},
        {"model": {"name": "plain"}},
        {"audio": {"front_end": "waveform"}},
        {"data": {"output_size": 48}},
    ],
)
def test_swapping_the_ears_flips_the_map_and_nothing_else(settings: Layer) -> None:
    here, there = predictions(settings)
    for part, image in zip(here, there, strict=True):
        torch.testing.assert_close(image.flip(-1), part, rtol=0, atol=2e-3)
    assert (there.final - here.final).abs().max() > 0.05  # in metres: the map itself is not symmetric


def test_ears_that_differ_are_told_apart() -> None:
    here, there = predictions({"model": {"symmetric": False}})
    assert (there.final.flip(-1) - here.final).abs().max() > 0.05


def predictions(settings: Layer) -> tuple[DepthDecomposition, DepthDecomposition]:
    """What a network with random weights makes of echoes, and of the same with their ears swapped."""
    torch.manual_seed(0)
    model = create_model(make_config({"model": {"base_channels": 4}}, settings))
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(0.05 * torch.randn_like(weights))
    echoes = torch.randn(2, 2, 2000)
    return model.predict(echoes), model.predict(echoes.flip(1))
