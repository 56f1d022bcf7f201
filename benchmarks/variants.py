"""The default with another kind of base or residual, as entrants of the contest.

- `planes`: the base is the nearest of a few planes.
- `inverse`: the base is a surface of splines over inverse depth.
- `one-sided`: the residual only brings surfaces nearer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base_residual.config.schema import Config
from base_residual.models.code import Drawn, EchoCode
from base_residual.models.decomposition import raw_of
from base_residual.models.mirror import MirrorLinear, echoes_and_images
from base_residual.models.network import BaseResidualNet, start_head
from base_residual.models.parts import LATENT


class PlanesDecoder(nn.Module):
    """The base's decoder in the entrant `planes`: the nearest of a few planes, as a room has walls and a floor.

    The inverse depth of a plane is linear over the image, and where several planes stand, the largest is seen. The
    maximum is a soft one, so that all planes learn. An echo draws one half of the planes, and its image the mirrored
    other half.

    Args:
        latent_size: D of the latent.
        output_size: side of the map, in pixels.
    """

    COUNT = 12  # planes that an echo draws
    SOFTNESS = 0.3  # of the corners between planes, in largest depths over depth

    def __init__(self, latent_size: int, output_size: int) -> None:
        super().__init__()
        self.size = output_size
        self.body = nn.Sequential(MirrorLinear(partial(nn.Linear, latent_size, latent_size)), nn.ReLU(inplace=True))
        self.head = nn.Linear(latent_size, 3 * self.COUNT)
        place = (2 * torch.arange(output_size) + 1 - output_size) / output_size  # of the pixels, from -1 to 1
        down, right = torch.meshgrid(place, place, indexing="ij")
        self.register_buffer("pixels", torch.stack([right, down, torch.ones_like(down)]).flatten(1), persistent=False)

    pixels: Tensor

    def forward(self, code: EchoCode) -> Drawn:
        """Return the raw map, and the planes (2B, 1, K, 3): slopes and value of largest depth over depth, less 1."""
        planes = self.head(self.body(code.latent)).float().unflatten(1, (-1, 3))  # (2B, K, 3)
        with torch.autocast(planes.device.type, enabled=False):
            each = (planes @ self.pixels / self.SOFTNESS).logsumexp(dim=1).unflatten(1, (1, self.size, self.size))
            own, image = echoes_and_images(each)
            both = torch.stack([own, image.flip(-1), torch.zeros_like(own)])  # nothing lies beyond the largest depth
            raw = -(self.SOFTNESS * both.logsumexp(dim=0)).clamp(min=1e-6).log()
        return Drawn(raw, planes[:, None])

    @torch.no_grad()
    def surround(self, raw: float) -> None:
        """Begin with planes about a camera, of which the nearest is everywhere near a raw value."""
        ahead, floor, ceiling, side = [0.0, 0.0, 0.9], [0.0, 0.7, 0.3], [0.0, -0.7, 0.3], [0.7, 0.0, 0.3]
        kinds = torch.tensor([ahead, floor, ceiling, side]).repeat(self.COUNT // 4, 1)
        self.head.bias.copy_(math.exp(-raw) * kinds.flatten())


def with_planes(config: Config, depth: float) -> BaseResidualNet:
    """Make the default with planes as its base, which begins with `depth` metres."""
    model = BaseResidualNet.from_config(config)
    model.base_decoder = decoder = PlanesDecoder(LATENT * config.model.base_channels, model.output_size)
    model.initialise_depth(depth)
    decoder.surround(raw_of(depth / model.max_depth))
    return model


class Redrawn(nn.Module):
    """A decoder whose raw map is a function of what another one draws."""

    def __init__(self, decoder: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.decoder, self.change = decoder, change

    @property
    def head(self) -> nn.Module:
        """Return the layer that draws the map."""
        head: nn.Module = self.decoder.head
        return head

    def forward(self, code: EchoCode) -> Drawn:
        """Return the changed map, and the features that it was drawn from."""
        drawn: Drawn = self.decoder(code)
        return drawn._replace(raw=self.change(drawn.raw.float()))


def nearer(raw: Tensor) -> Tensor:
    """Return the raw map of a residual that is minus its bound times the sigmoid of `raw`: no surface moves away."""
    return -torch.atanh(0.999 * torch.sigmoid(raw))


def inverse(raw: Tensor) -> Tensor:
    """Return the raw map of a base whose largest depth over depth is 1 + softplus(`raw`)."""
    return -F.softplus(raw).clamp(min=1e-6).log()


def with_one_side(config: Config, depth: float) -> BaseResidualNet:
    """Make the default with a residual that only brings surfaces nearer, as furniture does in a closed room."""
    model = BaseResidualNet.from_config(config)
    model.initialise_depth(depth)
    start_head(model.residual_decoder, -4.0)
    model.residual_decoder = Redrawn(model.residual_decoder, nearer)
    return model


def with_inverse_depth(config: Config, depth: float) -> BaseResidualNet:
    """Make the default with splines over inverse depth as its base, which begins with `depth` metres."""
    model = BaseResidualNet.from_config(config)
    model.initialise_depth(depth)
    start_head(model.base_decoder, math.log(math.expm1(model.max_depth / depth - 1)))
    model.base_decoder = Redrawn(model.base_decoder, inverse)
    return model


VARIANTS = {"planes": with_planes, "one-sided": with_one_side, "inverse": with_inverse_depth}
