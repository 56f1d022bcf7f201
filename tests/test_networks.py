from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from base_residual.acoustics.framing import echo_frames
from base_residual.config.resolve import make_config
from base_residual.errors import ShapeError
from base_residual.losses import low_pass
from base_residual.models.code import EchoCode
from base_residual.models.decoders import GridDecoder, MapDecoder, spline_basis
from base_residual.models.factory import create_base_residual_model
from base_residual.models.mirror import HalfMapConv
from base_residual.models.time_encoder import LatentNorm, TimeEncoder
from base_residual.models.unet import UNetDecoder, UNetEncoder, unet_widths


@pytest.mark.parametrize(("grid", "size"), [(2, 16), (4, 64), (8, 64), (8, 256), (16, 32)])
def test_spline_weights_are_a_mean_and_symmetric(grid: int, size: int) -> None:
    basis = spline_basis(grid, size)
    assert basis.min() >= 0
    torch.testing.assert_close(basis.sum(dim=1), torch.ones(size))
    torch.testing.assert_close(basis.flip(0).flip(1), basis)


def test_a_spline_through_points_on_a_line_is_that_line_inside() -> None:
    basis = spline_basis(8, 64)
    line = basis @ torch.arange(8.0)
    expected = (torch.arange(64) + 0.5) / 64 * 8 - 0.5
    torch.testing.assert_close(line[12:-12], expected[12:-12])


def test_the_grid_decoder_is_smooth_whatever_its_weights() -> None:
    torch.manual_seed(0)
    decoder = GridDecoder(16, grid=4, output_size=64)
    surface = decoder(EchoCode(10 * torch.randn(8, 16), ())).raw
    detail = (surface - low_pass(surface, 4)).square().sum()
    spread = (surface - surface.mean(dim=(2, 3), keepdim=True)).square().sum()
    assert detail < 0.01 * spread


@pytest.mark.parametrize("size", [16, 48, 64, 80, 112, 256])
def test_the_map_decoder_reaches_every_size(size: int) -> None:
    decoder = MapDecoder(8, base_channels=4, output_size=size).eval()
    assert decoder(EchoCode(torch.randn(4, 8), ())).raw.shape == (2, 1, size, size)


@pytest.mark.parametrize("decoder", ["lookup", "map"])
def test_an_untrained_residual_is_no_checkerboard(decoder: str) -> None:
    torch.manual_seed(0)
    config = make_config({"data": {"output_size": 32}, "model": {"base_channels": 4, "decoder": decoder}})
    model = create_base_residual_model(config).eval()
    residual = model.predict(torch.randn(3, 2, echo_frames(config.data.max_depth))).residual
    energy = torch.fft.fft2(residual - residual.mean(dim=(2, 3), keepdim=True)).abs().square()
    assert energy.sum() > 0
    assert energy[..., 16, :].sum() + energy[..., :, 16].sum() < 1e-6 * energy.sum()


def test_a_large_map_begins_with_more_stages_of_the_most_channels() -> None:
    decoder = MapDecoder(8, base_channels=2, output_size=256)
    assert [layer.in_channels for layer in decoder.stages if isinstance(layer, HalfMapConv)] == [16, 16, 16, 8, 6]


@pytest.mark.parametrize("frames", [300, 1001, 3112])
def test_the_time_encoder_takes_any_length_that_it_was_made_for(frames: int) -> None:
    encoder = TimeEncoder([(1, 1), (0, 1)], base_channels=4, latent_size=16, steps=frames)
    code = encoder(torch.randn(1, 2, frames))
    assert code.latent is not None
    assert code.latent.shape == (2, 16)
    assert encoder.symmetric  # unless it is told otherwise


def test_one_echo_in_training_is_judged_by_what_is_known_of_others() -> None:
    norm = LatentNorm(3)
    norm.running_mean.fill_(2.0)
    norm.running_var.fill_(4.0)
    echo_and_image = torch.tensor([[1.0, 2.0, 3.0], [5.0, 6.0, 7.0]])
    torch.testing.assert_close(norm.train()(echo_and_image), (echo_and_image - 2) / 2, rtol=1e-4, atol=1e-4)
    assert norm.running_mean.tolist() == [2.0, 2.0, 2.0]
    norm(torch.randn(4, 3))
    assert norm.running_mean.tolist() != [2.0, 2.0, 2.0]


def test_a_u_net_says_that_it_cannot_learn_from_one_number_per_channel() -> None:
    encoder, image = UNetEncoder(2, 4, bilinear=True), torch.zeros(1, 2, 16, 16)
    with pytest.raises(ShapeError, match=r"^A U-Net cannot learn from one image of 16 x 16 at a time\. Raise trainer"):
        encoder(image)
    assert encoder(image.expand(2, -1, -1, -1))
    for size in ((16, 32), (32, 16), (32, 32)):
        assert encoder(torch.zeros(1, 2, *size))
    assert encoder.eval()(image)


def test_a_u_net_names_the_size_that_an_image_should_have() -> None:
    encoder = UNetEncoder(1, 4, bilinear=True)
    with pytest.raises(ShapeError, match=r"is 32 x 40; expected .* divisible by 16\. Pad or resize it to 32 x 48\.$"):
        encoder(torch.zeros(2, 1, 32, 40))
    with pytest.raises(ShapeError, match=r"is 8 x 16; expected .* divisible by 16\. Pad or resize it to 16 x 16\.$"):
        encoder(torch.zeros(2, 1, 8, 16))


@pytest.mark.parametrize("bilinear", [True, False])
@pytest.mark.parametrize("size", [(32, 64), (64, 32), (64, 64), (32, 32)])
def test_a_u_net_brings_its_map_to_the_size_that_is_asked_for(bilinear: bool, size: tuple[int, int]) -> None:
    encoder, decoder = UNetEncoder(1, 4, bilinear).eval(), UNetDecoder(4, bilinear, output_size=32).eval()
    raw: list[torch.Tensor] = []
    decoder.head.register_forward_hook(lambda module, inputs, found: raw.append(found))
    with torch.no_grad():
        found = decoder(encoder(torch.randn(2, 1, *size))).raw
    assert raw[0].shape == (2, 1, *size)
    torch.testing.assert_close(found, F.interpolate(raw[0], (32, 32), mode="bilinear", antialias=True))


def test_each_stage_of_a_u_net_passes_on_the_channels_that_the_next_one_takes() -> None:
    assert [unet_widths(4, bilinear) for bilinear in (True, False)] == [[4, 8, 16, 32, 32], [4, 8, 16, 32, 64]]
    for bilinear, expected in (
        (True, [((64, 32), (32, 16)), ((32, 16), (16, 8)), ((16, 8), (8, 4)), ((8, 4), (4, 4))]),
        (False, [((64, 32), (32, 32)), ((32, 16), (16, 16)), ((16, 8), (8, 8)), ((8, 4), (4, 4))]),
    ):
        stages = UNetDecoder(4, bilinear, output_size=32).stages
        assert [tuple((c.in_channels, c.out_channels) for c in (s[0], s[3])) for s in stages] == expected
