"""The remainder: how far off a prediction may be, pixel by pixel, as the term that bounds a Taylor series."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base_residual.models.decomposition import DepthDecomposition, raw_of
from base_residual.models.mirror import DoublingHead, HalfMapConv, left_halves, whole_maps

HIDDEN = 16  # channels between the features and the scale
KNOWN = 4  # channels of what the parts say: base, final and residual
NEAREST = 0.05  # metres; below, depths and residuals are taken for as small
USUAL = 0.05  # of the largest depth: an error to begin with
LEAST = 0.01  # metres, which the scale stays above
FACTORS = torch.logspace(-2, 3, 2001).tolist()  # remainders over scales that are tried, 0.6 % apart
KINDS = ("room", "location", "recording")  # what a place may be


class Calibration(NamedTuple):
    """The promise of a network's remainder, and what it was set by.

    Attributes:
        level: share of the measured pixels that lie within final +- remainder, on average over places.
        factor: remainder over scale.
        places: number of places that it was set by.
        kind: what a place is: "room", "location" or "recording".
        data: whose they are, in words.
    """

    level: float
    factor: float
    places: int
    kind: str
    data: str

    def check(self) -> None:
        """Raise a ValueError that names a figure such as no calibration has."""
        sane = {
            "level": 0 < self.level < 1,
            "factor": FACTORS[0] <= self.factor <= FACTORS[-1],
            "places": 0 < self.places < 10**9,
            "kind": self.kind in KINDS,
        }
        wrong = [name for name, fine in sane.items() if not fine]
        if wrong:
            raise ValueError(f"a calibration that cannot be, with {wrong[0]}={getattr(self, wrong[0])!r}")

    def __str__(self) -> str:
        kinds = self.kind if self.places == 1 else f"{self.kind}s"
        return f"{100 * self.level:.4g}% of the pixels, set by {self.places:,} {kinds} ({self.data})"


class Remainder(nn.Module):
    """A head that gives each pixel a scale: the mean absolute error that is to be expected there.

    It sees what the last decoder draws from, and base, residual and final, in logarithms since errors grow with depth.
    No gradient reaches them: the prediction is the same with it and without.

    Args:
        channels: of the decoder's features.
        half_maps: the features are left halves, as those of `mirror`.
        max_depth: in metres, which the scale stays below as well.
    """

    def __init__(self, channels: int, half_maps: bool, max_depth: float) -> None:
        super().__init__()
        self.half_maps, self.max_depth = half_maps, max_depth
        seen = channels + KNOWN
        self.body = HalfMapConv(seen, HIDDEN, bias=True) if half_maps else nn.Conv2d(seen, HIDDEN, 3, padding=1)
        self.head = DoublingHead(HIDDEN) if half_maps else nn.Conv2d(HIDDEN, 1, 1)
        with torch.no_grad():
            self.head.weight.mul_(0.1)
            assert self.head.bias is not None
            self.head.bias.fill_(raw_of(USUAL))

    def forward(self, features: Tensor, parts: DepthDecomposition) -> Tensor:
        """Return the scale, (B, 1, S, S) in metres, above a centimetre.

        Args:
            features: what the last decoder draws from: (2B, C, S / 2, S / 4) of left halves, or (B, C, H, W).
            parts: the prediction.
        """
        size, known = parts.final.shape[-1], self._known(parts).detach()
        if self.half_maps:
            known = left_halves(F.avg_pool2d(known, 2))
        elif known.shape[-2:] != features.shape[-2:]:
            known = F.interpolate(known, features.shape[-2:], mode="bilinear", antialias=True)
        raw = self.head(F.relu(self.body(torch.cat([features.detach(), known.to(features.dtype)], dim=1))))
        if self.half_maps:
            raw = whole_maps(raw)
        elif raw.shape[-1] != size or raw.shape[-2] != size:
            raw = F.interpolate(raw, (size, size), mode="bilinear", antialias=True)
        return LEAST + torch.sigmoid(raw.float()) * (self.max_depth - LEAST)

    def _known(self, parts: DepthDecomposition) -> Tensor:
        """Return what the parts say, (B, 4, S, S), each around 0 and of the order of 1."""
        base, final, off = (
            (part.abs().clamp(min=NEAREST) / self.max_depth).log() for part in (parts.base, parts.final, parts.residual)
        )
        return torch.cat([base + 1.5, final + 1.5, off / 2 + 1.5, 20 * parts.residual / self.max_depth], dim=1)
