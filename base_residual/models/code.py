"""What passes between an encoder, the decoders and the remainder."""

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


class Drawn(NamedTuple):
    """A decoder's output.

    Attributes:
        raw: (B, 1, S, S) the map, unbounded.
        features: what its last layer has drawn it from: (B, C, H, W), or (2B, C, H, W) of echoes and their images.
    """

    raw: Tensor
    features: Tensor
