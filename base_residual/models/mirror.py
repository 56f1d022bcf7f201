"""Layers for which swapping the ears flips the map, exactly.

A network of such layers gets every echo twice in one batch (2B, ...): first all echoes, then their mirror images, which
are the same echoes with the ears swapped. Each layer answers a swap of the two halves of the batch by a swap of the two
halves of its output, and so does the whole network, without having to learn it (Cohen and Welling, "Group equivariant
convolutional networks", ICML 2016, for the group of one reflection).

A map is drawn by its left half. Its right half is the left half of the mirror image's map, flipped.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def echoes_and_images(both: Tensor) -> tuple[Tensor, Tensor]:
    """Split a batch (2B, ...) into the echoes and their mirror images, (B, ...) each."""
    echoes, images = both.unflatten(0, (2, -1))
    return echoes, images


def left_halves(maps: Tensor) -> Tensor:
    """Return the left halves of maps (B, C, H, W), then those of the flipped maps, (2B, C, H, W / 2)."""
    half = maps.shape[-1] // 2
    return torch.cat([maps[..., :half], maps.flip(-1)[..., :half]])


def whole_maps(left: Tensor) -> Tensor:
    """Join left halves (2B, C, H, W / 2) to whole maps (B, C, H, W); this undoes `left_halves`."""
    echoes, images = echoes_and_images(left)
    return torch.cat([echoes, images.flip(-1)], dim=-1)


class MirrorLinear(nn.Module):
    """A linear layer or convolution over echoes and their mirror images, (2B, ...) to (2B, ...).

    The sum and the difference of an echo and its image go through one layer each. This takes half of the operations
    that one layer from both to both would take.

    Args:
        make: makes one such layer, `nn.Linear` or `nn.Conv1d`.
    """

    def __init__(self, make: Callable[[], nn.Linear | nn.Conv1d]) -> None:
        super().__init__()
        self.common, self.apart = make(), make()
        self.apart.bias = None  # pyrefly: ignore[bad-assignment] # a bias of the difference would tell an echo from its image

    def forward(self, both: Tensor) -> Tensor:
        """Apply the layer to echoes and images, (2B, ...)."""
        echoes, images = echoes_and_images(both)
        common, apart = self.common(echoes + images), self.apart(echoes - images)
        return torch.cat([common + apart, common - apart])


class HalfMapConv(nn.Conv2d):
    """A 3 x 3 convolution over left halves of maps, (2B, C, H, W / 2), that sees one column of the right halves."""

    def __init__(self, inside: int, outside: int, bias: bool = False) -> None:
        super().__init__(inside, outside, 3, padding=(1, 0), bias=bias)

    def forward(self, left: Tensor) -> Tensor:
        """Return left halves of the same size, (2B, C', H, W / 2)."""
        echoes, images = echoes_and_images(left[..., -1:])
        beyond = torch.cat([images, echoes])  # the first columns of the right halves
        return super().forward(torch.cat([torch.zeros_like(beyond), left, beyond], dim=-1))


class DoublingHead(HalfMapConv):
    """A convolution that draws a map of twice the side, (2B, C, H, W / 2) to (2B, 1, 2H, W).

    It draws the four pixels of each square as channels, which are rearranged (Shi et al., CVPR 2016). At first they are
    alike (ICNR: Aitken et al., arXiv:1707.02937, 2017). With four random kernels, 40 % of the energy of an untrained
    residual would be a checkerboard, of which training leaves a trace for epochs.
    """

    def __init__(self, inside: int) -> None:
        super().__init__(inside, 4, bias=True)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(parameter[:1].expand_as(parameter))

    def forward(self, left: Tensor) -> Tensor:
        """Return left halves of maps of twice the side."""
        return F.pixel_shuffle(super().forward(left), 2)
