"""The encoders and decoders by name, fitting a configuration."""

from __future__ import annotations

from torch import nn

from base_residual.acoustics.binaural import STEP
from base_residual.acoustics.framing import echo_frames
from base_residual.acoustics.front_end import EchoFrontEnd
from base_residual.config.schema import Config
from base_residual.models.decoders import GridDecoder, MapDecoder
from base_residual.models.lookup import LookupDecoder
from base_residual.models.time_encoder import TimeEncoder
from base_residual.models.unet import UNetDecoder, UNetEncoder

LATENT = 24  # length of an echo's latent vector, per base channel


def make_encoder(config: Config) -> nn.Module:
    """Make the encoder that a configuration names, with the channels of its front end."""
    audio, data, model = config.audio, config.data, config.model
    front_end = EchoFrontEnd(audio, data.output_size)
    if model.encoder == "unet":
        return UNetEncoder(front_end.channels, model.base_channels, model.bilinear)
    steps = -(-echo_frames(data.max_depth, audio.sample_rate) // STEP)
    return TimeEncoder(front_end.swapped, model.base_channels, LATENT * model.base_channels, steps, model.symmetric)


def make_decoder(name: str, config: Config) -> nn.Module:
    """Make the decoder of that name: grid, map, lookup or unet."""
    data, model = config.data, config.model
    latent_size = LATENT * model.base_channels
    match name:
        case "grid":
            return GridDecoder(latent_size, model.base_grid, data.output_size)
        case "map":
            return MapDecoder(latent_size, model.base_channels, data.output_size)
        case "lookup":
            return LookupDecoder(latent_size, model.base_channels, data.output_size, model.residual_bound)
        case _:
            return UNetDecoder(model.base_channels, model.bilinear, data.output_size)
