from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from base_residual.acoustics.front_end import interpolate_at
from base_residual.config.schema import Config
from base_residual.models.code import EchoCode
from base_residual.models.factory import create_base_residual_model
from base_residual.models.lookup import BEAMS, TAPS, EchoLookup, LookupDecoder
from base_residual.models.time_encoder import TIME_STAGES


def lookup_that_hears(weights: torch.Tensor, reach: float) -> EchoLookup:
    """Columns whose beams all take the single feature of their own side times one of `weights` (columns,)."""
    lookup = EchoLookup(1, len(weights), reach)
    with torch.no_grad():
        for layer in (lookup.beams.common, lookup.beams.apart):
            layer.weight.copy_(weights.repeat_interleave(BEAMS)[:, None, None] / 2)
        lookup.beams.common.bias.zero_()  # type: ignore[union-attr]
    return lookup


def code_of(echoes: int, size: int) -> EchoCode:
    """What an encoder of 4 base channels may know of echoes and their images, and where their base lies."""
    scales = tuple(torch.randn(2 * echoes, 4 * factor, 40) for factor in TIME_STAGES)
    return EchoCode(torch.randn(2 * echoes, 8), scales, torch.rand(echoes, 1, size, size))


def test_a_lookup_finds_the_moment_that_belongs_to_a_depth_and_those_within_reach() -> None:
    steps, reach = 100, 0.2
    lookup = lookup_that_hears(torch.ones(3), reach)
    time = torch.arange(steps, dtype=torch.float32)
    features = torch.stack([time, 1000 + time])[:, None]  # a step says which one it is, of the echo and of its image
    share = torch.rand(2, 1, 6, 3, generator=torch.Generator().manual_seed(0))
    found = lookup(features, share).unflatten(1, (BEAMS, TAPS))  # (2, BEAMS, TAPS, 6, 3)
    around = torch.linspace(-reach, reach, TAPS)[:, None, None]
    expected = (steps * (share + around) - 0.5).clamp(0, steps - 1)  # (2, TAPS, 6, 3), from the middle of a step
    expected[1] += 1000
    torch.testing.assert_close(found, expected[:, None].expand_as(found), atol=1e-4, rtol=1e-5)


def test_each_column_listens_through_beams_of_its_own() -> None:
    columns = torch.tensor([1.0, 2.0, 3.0, 4.0])
    found = lookup_that_hears(columns, 0.1)(torch.ones(2, 1, 50), torch.full((2, 1, 8, 4), 0.5))
    torch.testing.assert_close(found, columns.expand_as(found))


@pytest.mark.parametrize("size", [16, 32, 48, 64, 80, 144, 176, 256])
def test_the_lookup_decoder_reaches_every_size(size: int) -> None:
    decoder = LookupDecoder(8, base_channels=4, output_size=size, reach=0.2).eval()
    assert decoder(code_of(2, size)).raw.shape == (2, 1, size, size)


def test_the_embedding_of_each_cell_begins_with_a_spread_of_one_half() -> None:
    direction = LookupDecoder(8, base_channels=32, output_size=64, reach=0.2).direction
    assert direction.shape == (1, 32, 16, 8)
    assert direction.std().item() == pytest.approx(0.5, rel=0.1)


def test_where_the_residual_listens_does_not_move_the_base(tiny: Callable[..., Config]) -> None:
    model = create_base_residual_model(tiny())
    assert model.front_end is not None
    x = torch.randn(3, model.front_end.channels, model.encoder.steps)  # type: ignore[arg-type]
    model(x).residual.square().sum().backward()
    assert all(weights.grad is None or not weights.grad.any() for weights in model.base_decoder.parameters())
    assert any(weights.grad is not None and weights.grad.any() for weights in model.residual_decoder.parameters())


def test_the_residual_depends_on_where_the_base_lies() -> None:
    decoder = LookupDecoder(8, base_channels=4, output_size=32, reach=0.2).eval()
    code = code_of(1, 32)
    near, far = (decoder(code._replace(base=torch.full((1, 1, 32, 32), at))).raw for at in (0.3, 0.6))
    assert not torch.allclose(near, far)


def test_a_base_that_is_not_finite_is_looked_up_without_harm() -> None:
    lookup = lookup_that_hears(torch.ones(1), 0.1)
    features = torch.ones(2, 1, 50, requires_grad=True)
    shares = torch.tensor([torch.nan, torch.inf, -torch.inf, 0.5]).view(2, 1, 2, 1)
    lookup(features, shares).sum().backward()
    assert features.grad is not None
    assert features.grad.isfinite().all()


def test_between_its_steps_a_series_is_interpolated_and_beyond_its_ends_it_stays() -> None:
    series = torch.tensor([[[1.0, 2.0, 4.0, 8.0]]])
    moments = torch.tensor([[[-1.0, 0.0, 0.125], [0.25, 0.375, 0.75], [0.875, 1.0, 2.0]]])
    found = interpolate_at(series, moments)
    assert found.tolist() == [[[[1.0, 1.0, 1.0], [1.5, 2.0, 6.0], [8.0, 8.0, 8.0]]]]
    assert interpolate_at(series.bfloat16(), moments).dtype == torch.bfloat16
    assert interpolate_at(series, torch.full((1, 1, 1), math.nan)).isnan().all()  # and no error
