"""The 2-D encoder and decoder: a U-Net over a spectrogram."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base_residual.errors import ShapeError
from base_residual.models.code import Drawn, EchoCode

UNET_HALVINGS = 4


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
        """Return the code of an image (B, C, H, W): five maps, each half the side of the one before.

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

    def forward(self, code: EchoCode) -> Drawn:
        """Return the raw map, and features as large as the encoder's image."""
        x = code.scales[-1]
        for enlarge, stage, skip in zip(self.enlarge, self.stages, code.scales[-2::-1], strict=True):
            x = stage(torch.cat([skip, enlarge(x)], dim=1))
        raw = self.head(x)
        if raw.shape[-1] != self.output_size or raw.shape[-2] != self.output_size:
            raw = F.interpolate(raw, (self.output_size, self.output_size), mode="bilinear", antialias=True)
        return Drawn(raw, x)


def unet_widths(base_channels: int, bilinear: bool) -> list[int]:
    """Return the channels of a U-Net's stages, finest first."""
    widths = [base_channels * 2**stage for stage in range(UNET_HALVINGS + 1)]
    if bilinear:
        widths[-1] //= 2
    return widths
