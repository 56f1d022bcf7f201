"""The code that an encoder hands to the decoders."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class EchoCode(NamedTuple):
    """An encoder's output.

    Attributes:
        latent: (2B, D) one vector for each echo and for its image; None from an encoder that keeps a map.
        scales: feature maps, finest first: (B, C, H, W) of a 2-D, (2B, C, T) of a 1-D encoder.
        base: (B, 1, S, S) the base as a share of the largest depth; None before the base decoder has run.
    """

    latent: Tensor | None
    scales: tuple[Tensor, ...]
    base: Tensor | None = None
