"""The decoders that draw a map from a latent vector: a doubling one and a grid of splines."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn

from base_residual.models.code import Drawn, EchoCode
from base_residual.models.mirror import DoublingHead, HalfMapConv, MirrorLinear, echoes_and_images, whole_maps

MAP_STAGES = (8, 4, 3, 2)  # channels of the map decoder's finest stages, in base channels; coarser ones have 8


class MapDecoder(nn.Module):
    """From a latent vector to a map, by doubling a small map until it has full size.

    The last doubling is a rearrangement of channels (`DoublingHead`): nothing is convolved at full size, where it costs
    most.

    Args:
        latent_size: D of the latent.
        base_channels: half of the finest stage's.
        output_size: side of the map, a multiple of 16 pixels.
    """

    def __init__(self, latent_size: int, base_channels: int, output_size: int) -> None:
        super().__init__()
        side, doublings = output_size, 0
        while side % 4 == 0 and side > 7:  # so that half of it is left
            side, doublings = side // 2, doublings + 1
        factors = (*[MAP_STAGES[0]] * (doublings - len(MAP_STAGES)), *MAP_STAGES)[-doublings:]
        widths = [base_channels * factor for factor in factors]
        self.start = nn.Sequential(
            MirrorLinear(partial(nn.Linear, latent_size, widths[0] * side * side // 2)),
            nn.Unflatten(1, (widths[0], side, side // 2)),
        )
        stages: list[nn.Module] = []
        for inside, outside in pairwise(widths):
            stages += [
                nn.ReLU(inplace=True),
                nn.Upsample(scale_factor=2, mode="nearest"),
                HalfMapConv(inside, outside),
                nn.BatchNorm2d(outside),
            ]
        self.stages = nn.Sequential(*stages, nn.ReLU(inplace=True))
        self.head = DoublingHead(widths[-1])

    def forward(self, code: EchoCode) -> Drawn:
        """Return the raw map, and left halves (2B, C, S / 2, S / 4)."""
        assert code.latent is not None
        features = self.stages(self.start(code.latent))
        return Drawn(whole_maps(self.head(features)), features)


class GridDecoder(nn.Module):
    """From a latent vector to the control points of a smooth surface: a layout, for want of degrees of freedom.

    Args:
        latent_size: D of the latent.
        grid: control points per side.
        output_size: side of the map, in pixels.
    """

    def __init__(self, latent_size: int, grid: int, output_size: int) -> None:
        super().__init__()
        self.grid = grid
        self.body = nn.Sequential(MirrorLinear(partial(nn.Linear, latent_size, latent_size)), nn.ReLU(inplace=True))
        self.head = nn.Linear(latent_size, grid * grid)
        self.register_buffer("basis", spline_basis(grid, output_size), persistent=False)

    basis: Tensor

    def forward(self, code: EchoCode) -> Drawn:
        """Return the raw map, and the control points (B, 1, G, G)."""
        own, image = echoes_and_images(self.head(self.body(code.latent)).unflatten(1, (1, self.grid, self.grid)))
        control = (own + image.flip(-1)) / 2  # each draws all points, which have no left half where they are odd
        return Drawn(self.basis @ control @ self.basis.T, control)


def spline_basis(grid: int, size: int) -> Tensor:
    """Return weights of uniform cubic B-splines at pixel centres (de Boor, A Practical Guide to Splines, 1978, ch. X).

    Args:
        grid: number of control points; the outermost are repeated beyond the border.
        size: number of pixels.

    Returns:
        float32 (size, grid), rows of non-negative weights that add up to 1.
    """
    place = (torch.arange(size, dtype=torch.float64) + 0.5) / size * grid - 0.5  # (size,) in control points
    control = torch.arange(-2, grid + 2, dtype=torch.float64)
    x = (place[:, None] - control).abs()
    weight = torch.where(x < 1, 2 / 3 - x**2 + x**3 / 2, (2 - x).clamp(min=0) ** 3 / 6)
    basis = weight[:, 2:-2].clone()
    basis[:, 0] += weight[:, :2].sum(dim=1)
    basis[:, -1] += weight[:, -2:].sum(dim=1)
    return basis.float()
