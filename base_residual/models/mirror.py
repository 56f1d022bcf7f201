"""Layers that know the mirror: who swaps the ears of an echo gets its depth map flipped from left to right.

A network of such layers takes every echo twice, as it is and with its ears swapped, in one batch (2B, ...): first all
echoes, then their images in the mirror. Each layer answers a swap of the two halves by a swap of its output's, and so
does the whole, exactly and without having to learn it (Cohen and Welling, "Group equivariant convolutional networks",
ICML 2016, for the group of one reflection). Most maps are drawn by their left half; the right one is that of the image.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


def halves(both: Tensor) -> tuple[Tensor, Tensor]:
    """Echoes and their images, (B, ...) each, of (2B, ...)."""
    own, image = both.unflatten(0, (2, -1))
    return own, image


def folded(maps: Tensor) -> Tensor:
    """The left halves of maps (B, C, H, W) and of their images, (2B, C, H, W / 2)."""
    half = maps.shape[-1] // 2
    return torch.cat([maps[..., :half], maps.flip(-1)[..., :half]])


def unfolded(left: Tensor) -> Tensor:
    """The maps (B, C, H, W) of which, and of whose images, these are the left halves, (2B, C, H, W / 2)."""
    own, image = halves(left)
    return torch.cat([own, image.flip(-1)], dim=-1)


class BothSides(nn.Module):
    """A linear layer that hears an echo and its image together, (2B, ...) to (2B, ...).

    What the two have in common and what sets them apart go through layers of their own, at half of the operations that
    one layer from both to both would need.

    Args:
        make: makes such a layer, `nn.Linear` or a convolution.
    """

    def __init__(self, make: Callable[[], nn.Linear | nn.Conv1d]) -> None:
        super().__init__()
        self.common, self.apart = make(), make()
        self.apart.bias = None  # it would tell an echo from its image

    def forward(self, both: Tensor) -> Tensor:
        """Echoes and images in, echoes and images out."""
        own, image = halves(both)
        common, apart = self.common(own + image), self.apart(own - image)
        return torch.cat([common + apart, common - apart])


class FoldedConv(nn.Conv2d):
    """A 3 x 3 convolution over left halves of maps, (2B, C, H, W / 2), which sees the right half across the middle."""

    def __init__(self, inside: int, outside: int, bias: bool = False) -> None:
        super().__init__(inside, outside, 3, padding=(1, 0), bias=bias)

    def forward(self, left: Tensor) -> Tensor:
        """To left halves of the same size."""
        own, image = halves(left[..., -1:])
        beyond = torch.cat([image, own])  # what lies right of the middle is the last column of the image's left half
        return super().forward(torch.cat([torch.zeros_like(beyond), left, beyond], dim=-1))
