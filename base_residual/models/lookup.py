"""The residual's decoder: it looks up the echo around the moments that belong to the base's depths."""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base_residual.acoustics.front_end import interpolate_at
from base_residual.models.code import Drawn, EchoCode
from base_residual.models.mirror import DoublingHead, HalfMapConv, MirrorLinear, left_halves, whole_maps
from base_residual.models.time_encoder import TIME_STAGES

LOOKUP_SCALE = 1  # stage of the time encoder that is listened to: a step is 16 samples, 6 cm of range
MOST_CELLS = 16  # per side of the grid of directions, if it can be halved so far: two ears tell no finer ones apart
BEAMS = 8  # features that a column of the map takes from each moment
TAPS = 25  # moments around the base's own


class EchoLookup(nn.Module):
    """A lookup of an echo's features around the moments that belong to given depths, for a grid of directions.

    Each column of the grid, and so each azimuth, has beams of its own: the ears tell columns apart and not rows. The
    moments are spread evenly over the depths that the residual can reach. After the lookups of RAFT (Teed and Deng,
    ECCV 2020), with time in the place of a second image.

    Args:
        channels: C of the encoder's features.
        columns: of the left half of the grid, M.
        reach: how far before and after a depth to listen, as a share of the largest depth.
    """

    def __init__(self, channels: int, columns: int, reach: float) -> None:
        super().__init__()
        self.columns = columns
        self.beams = MirrorLinear(partial(nn.Conv1d, channels, columns * BEAMS, 1))
        self.register_buffer("around", torch.linspace(-reach, reach, TAPS), persistent=False)

    around: Tensor

    def forward(self, features: Tensor, share: Tensor) -> Tensor:
        """Look up features at depths.

        Args:
            features: (2B, C, T); their last moment belongs to the largest depth.
            share: (2B, 1, N, M) depths as shares of the largest one.

        Returns:
            (2B, BEAMS * TAPS, N, M); moments before the first and after the last step give the values of those steps.
        """
        beams = self.beams(features).unflatten(1, (self.columns, BEAMS)).flatten(0, 1)  # (2B * M, BEAMS, T)
        share = share.nan_to_num()  # a base at fault leaves the features' gradients finite
        columns = share[:, 0].transpose(1, 2).flatten(0, 1)  # (2B * M, N): the rows of each column
        found = interpolate_at(beams, columns[:, :, None] + self.around)  # (2B * M, BEAMS, N, TAPS)
        cells: Tensor = found.unflatten(0, (-1, self.columns)).permute(0, 3, 1, 2, 4)  # (2B, N, M, BEAMS, TAPS)
        return cells.flatten(3).permute(0, 3, 1, 2)  # channels last in memory, as the convolution after it likes them


class LookupDecoder(nn.Module):
    """The residual's decoder, from the latent and from the echo around the base's depth in each direction.

    Args:
        latent_size: D of the latent.
        base_channels: of the time encoder.
        output_size: side S of the map, in pixels.
        reach: largest residual, as a share of the largest depth.
    """

    def __init__(self, latent_size: int, base_channels: int, output_size: int, reach: float) -> None:
        super().__init__()
        doublings, cells = 1, output_size // 2
        while cells % 4 == 0 and cells > MOST_CELLS:  # so that half of them is left
            doublings, cells = doublings + 1, cells // 2
        columns = cells // 2  # of the left half
        narrow, wide = 2 * base_channels, 4 * base_channels
        self.cells, self.lookup = cells, EchoLookup(base_channels * TIME_STAGES[LOOKUP_SCALE], columns, reach)
        self.mix = nn.Sequential(
            nn.Conv2d(BEAMS * TAPS, wide, 1, bias=False), nn.BatchNorm2d(wide), nn.ReLU(inplace=True)
        )
        coarse = narrow, (cells + 1) // 2, (columns + 1) // 2
        self.start = nn.Sequential(
            MirrorLinear(partial(nn.Linear, latent_size, math.prod(coarse))),
            nn.Unflatten(1, coarse),
            nn.ReLU(inplace=True),
            nn.Upsample((cells, columns), mode="nearest"),
        )
        self.direction = nn.Parameter(0.5 * torch.randn(1, base_channels, cells, columns))  # an embedding of each cell
        between = 3 * base_channels
        stages = [*_conv(wide + narrow + base_channels + 1, wide), *_conv(wide, between)]
        for place in range(doublings - 1):
            stages += [nn.Upsample(scale_factor=2, mode="nearest"), *_conv(narrow if place else between, narrow)]
        self.stages = nn.Sequential(*stages)
        self.head = DoublingHead(narrow if doublings > 1 else between)

    def forward(self, code: EchoCode) -> Drawn:
        """Return the raw map, and left halves (2B, C, S / 2, S / 4); no gradient reaches the base."""
        assert code.latent is not None
        assert code.base is not None
        share = left_halves(F.avg_pool2d(code.base.detach(), code.base.shape[-1] // self.cells))  # (2B, 1, N, M)
        found = self.mix(self.lookup(code.scales[LOOKUP_SCALE], share))
        direction = self.direction.expand(share.shape[0], -1, -1, -1)  # len would fix it in an export
        known = torch.cat([found, self.start(code.latent), direction, 4 * share - 1], dim=1)
        features = self.stages(known)
        return Drawn(whole_maps(self.head(features)), features)


def _conv(inside: int, outside: int) -> tuple[nn.Module, ...]:
    return (
        HalfMapConv(inside, outside),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
    )
