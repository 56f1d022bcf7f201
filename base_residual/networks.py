"""The encoders and decoders that the networks are made of, each chosen by its name.

An encoder turns the front end's features into an `EchoCode`; a decoder turns a code into one map of raw values at full
resolution. The configuration checks which of them fit together; nothing outside this module knows which is in use. The
1-D encoder and what goes with it know the mirror; see `symmetry`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base_residual.errors import ShapeError
from base_residual.symmetry import BothSides, FoldedConv, halves, unfolded

UNET_HALVINGS = 4
TIME_STEP = 4  # neighbouring samples that the 1-D encoder reads as one step: 3 cm of the echo's way, there and back
TIME_STAGES = (2, 3, 4, 6, 6)  # channels of its stages, in base channels; each halves time
MAP_STAGES = (8, 4, 3, 2)  # channels of the map decoder's finest stages, in base channels; coarser ones have 8


class EchoCode(NamedTuple):
    """What an encoder knows of an echo.

    Attributes:
        latent: (2B, D) one vector for each echo and for its image; None from an encoder that keeps a map.
        scales: feature maps, finest first: (B, C, H, W) of a 2-D, (2B, C, T) of a 1-D encoder.
        base: (B, 1, S, S) what the base decoder has made of it, as a share of the largest depth; None until it has.
    """

    latent: Tensor | None
    scales: tuple[Tensor, ...]
    base: Tensor | None = None


class DoubleConv(nn.Sequential):
    """Two 3 x 3 convolutions, each with batch norm and ReLU (Ronneberger et al., MICCAI 2015, with batch norm)."""

    def __init__(self, inside: int, outside: int, between: int | None = None) -> None:
        between = between or outside
        super().__init__(
            nn.Conv2d(inside, between, 3, padding=1, bias=False),
            nn.BatchNorm2d(between),
            nn.ReLU(inplace=True),
            nn.Conv2d(between, outside, 3, padding=1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(inplace=True),
        )


class UNetEncoder(nn.Module):
    """The contracting half of a U-Net.

    Args:
        input_channels: of the image.
        base_channels: of the first stage, doubled by each halving.
        bilinear: the decoder enlarges by interpolation, so that the last stage keeps its channels.
    """

    def __init__(self, input_channels: int, base_channels: int, bilinear: bool) -> None:
        super().__init__()
        widths = unet_widths(base_channels, bilinear)
        self.first = DoubleConv(input_channels, widths[0])
        self.stages = nn.ModuleList(DoubleConv(a, b) for a, b in pairwise(widths))

    def forward(self, image: Tensor) -> EchoCode:
        """Code of an image (B, C, H, W): five maps, each half the side of the one before.

        Raises:
            ShapeError: a side cannot be halved four times, or a batch to learn from leaves one number per channel.
        """
        step = 2**UNET_HALVINGS
        height, width = image.shape[-2:]
        if self.training and len(image) == 1 and height == width == step:
            raise ShapeError(
                f"A U-Net cannot learn from one image of {step} x {step} at a time. Raise trainer.batch_size, lower "
                "trainer.accumulate, or take a larger data.output_size."
            )
        if height % step or width % step:
            wanted = tuple(max(step, -(-side // step) * step) for side in (height, width))
            raise ShapeError(
                f"The input is {height} x {width}; expected are sides divisible by {step}. "
                f"Pad or resize it to {wanted[0]} x {wanted[1]}."
            )
        scales = [self.first(image)]
        for stage in self.stages:
            scales.append(stage(F.max_pool2d(scales[-1], 2)))
        return EchoCode(None, tuple(scales))


class UNetDecoder(nn.Module):
    """The expanding half of a U-Net, with skip connections and one output channel.

    Args:
        base_channels: of the encoder.
        bilinear: enlarge by interpolation rather than by transposed convolutions.
        output_size: side of the map, in pixels; an input of another size is brought to it at the end.
    """

    def __init__(self, base_channels: int, bilinear: bool, output_size: int) -> None:
        super().__init__()
        self.output_size = output_size
        deep = unet_widths(base_channels, bilinear)[::-1]
        # Interpolation leaves the channels as they are; a stage then passes on as many as the next skip has.
        self.enlarge = nn.ModuleList()
        self.stages = nn.ModuleList()
        below = deep[0]
        for place, skip in enumerate(deep[1:]):
            last = place == UNET_HALVINGS - 1
            after = skip if last or not bilinear else deep[place + 2]
            if bilinear:
                self.enlarge.append(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True))
                self.stages.append(DoubleConv(below + skip, after, (below + skip) // 2))
            else:
                self.enlarge.append(nn.ConvTranspose2d(below, skip, 2, stride=2))
                self.stages.append(DoubleConv(2 * skip, after))
            below = after
        self.head = nn.Conv2d(below, 1, 1)

    def forward(self, code: EchoCode) -> Tensor:
        """Raw map (B, 1, S, S)."""
        x = code.scales[-1]
        for enlarge, stage, skip in zip(self.enlarge, self.stages, code.scales[-2::-1], strict=True):
            x = stage(torch.cat([skip, enlarge(x)], dim=1))
        x = self.head(x)
        if x.shape[-1] != self.output_size or x.shape[-2] != self.output_size:
            x = F.interpolate(x, (self.output_size, self.output_size), mode="bilinear", antialias=True)
        return x


def unet_widths(base_channels: int, bilinear: bool) -> list[int]:
    """Channels of a U-Net's stages, finest first."""
    widths = [base_channels * 2**stage for stage in range(UNET_HALVINGS + 1)]
    if bilinear:
        widths[-1] //= 2
    return widths


class TimeStage(nn.Module):
    """A residual block over time that halves it (He et al., CVPR 2016, in one dimension)."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            BothSides(partial(nn.Conv1d, inside, outside, 5, stride=2, padding=2, bias=False)),
            nn.BatchNorm1d(outside),
            nn.ReLU(inplace=True),
            BothSides(partial(nn.Conv1d, outside, outside, 3, padding=1, bias=False)),
            nn.BatchNorm1d(outside),
        )
        self.short = BothSides(partial(nn.Conv1d, inside, outside, 2, stride=2, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(2B, inside, T) to (2B, outside, ceil(T / 2))."""
        return F.relu(self.body(x) + self.short(F.pad(x, (0, x.shape[-1] % 2))))


class LatentNorm(nn.BatchNorm1d):
    """Batch norm that takes its running statistics where a training batch holds one echo.

    Of it and its image alone, every feature would become 1 and -1.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(2B, D) to (2B, D)."""
        if not self.training or len(x) > 2:
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class TimeEncoder(nn.Module):
    """Convolutions over time, then one vector for the whole echo: time is range, and every pixel may need all of it.

    Args:
        swapped: for each channel, the one that it equals in the signal of the echo with its ears swapped, and the sign.
        base_channels: half of the first stage's.
        latent_size: D of the latent.
        frames: length T of the signal, in samples.
        symmetric: whether the ears are alike; if not, one more channel tells an echo from its image.
    """

    def __init__(
        self,
        swapped: Sequence[tuple[int, int]],
        base_channels: int,
        latent_size: int,
        frames: int,
        symmetric: bool = True,
    ) -> None:
        super().__init__()
        self.input_channels, self.frames, self.symmetric = len(swapped), frames, symmetric
        self.register_buffer("places", torch.tensor([place for place, _ in swapped]), persistent=False)
        self.register_buffer("signs", torch.tensor([[float(sign)] for _, sign in swapped]), persistent=False)
        channels = len(swapped) + (0 if symmetric else 1)
        widths = [channels * TIME_STEP, *(base_channels * factor for factor in TIME_STAGES)]
        self.stages = nn.ModuleList(TimeStage(a, b) for a, b in pairwise(widths))
        left = -(-frames // TIME_STEP)
        for _ in TIME_STAGES:
            left = (left + 1) // 2
        self.latent = nn.Sequential(
            BothSides(partial(nn.Linear, left * widths[-1], latent_size)),
            LatentNorm(latent_size),
            nn.ReLU(inplace=True),
        )

    places: Tensor
    signs: Tensor

    def forward(self, signal: Tensor) -> EchoCode:
        """Code of a signal (B, C, T): the latent (2B, D) and the scales on the way to it.

        Raises:
            ShapeError: the signal has another number of channels or samples.
        """
        if signal.shape[1:] != (self.input_channels, self.frames):
            raise ShapeError(
                f"The signal has shape {tuple(signal.shape)}; expected is (batch, {self.input_channels}, "
                f"{self.frames}). Cut or pad the echo to the frames that can come back from max_depth."
            )
        both = torch.cat([signal, signal[:, self.places] * self.signs])
        if not self.symmetric:
            side = torch.ones_like(signal[:, :1])
            both = torch.cat([both, torch.cat([side, -side])], dim=1)
        both = F.pad(both, (0, -self.frames % TIME_STEP))
        both = both.unflatten(2, (-1, TIME_STEP)).transpose(2, 3).flatten(1, 2)  # (2B, C * step, T / step)
        scales = []
        for stage in self.stages:
            both = stage(both)
            scales.append(both)
        return EchoCode(self.latent(both.flatten(1)), tuple(scales))


class MapDecoder(nn.Module):
    """From a latent vector to a map, by doubling a small map until it has full size.

    The last doubling is a rearrangement of channels (Shi et al., CVPR 2016): nothing is convolved at full size, where
    it costs most.

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
            BothSides(partial(nn.Linear, latent_size, widths[0] * side * side // 2)),
            nn.Unflatten(1, (widths[0], side, side // 2)),
        )
        stages: list[nn.Module] = []
        for inside, outside in pairwise(widths):
            stages += [
                nn.ReLU(inplace=True),
                nn.Upsample(scale_factor=2, mode="nearest"),
                FoldedConv(inside, outside),
                nn.BatchNorm2d(outside),
            ]
        self.stages = nn.Sequential(*stages, nn.ReLU(inplace=True))
        self.head = FoldedConv(widths[-1], 4, bias=True)

    def forward(self, code: EchoCode) -> Tensor:
        """Raw map (B, 1, S, S)."""
        assert code.latent is not None
        return unfolded(F.pixel_shuffle(self.head(self.stages(self.start(code.latent))), 2))


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
        self.body = nn.Sequential(BothSides(partial(nn.Linear, latent_size, latent_size)), nn.ReLU(inplace=True))
        self.head = nn.Linear(latent_size, grid * grid)
        self.register_buffer("basis", spline_basis(grid, output_size), persistent=False)

    basis: Tensor

    def forward(self, code: EchoCode) -> Tensor:
        """Raw map (B, 1, S, S)."""
        own, image = halves(self.head(self.body(code.latent)).unflatten(1, (1, self.grid, self.grid)))
        control = (own + image.flip(-1)) / 2  # each draws all points, which have no left half where they are odd
        raw: Tensor = self.basis @ control @ self.basis.T
        return raw


def spline_basis(grid: int, size: int) -> Tensor:
    """Weights of uniform cubic B-splines at pixel centres (de Boor, A Practical Guide to Splines, 1978, chapter X).

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
