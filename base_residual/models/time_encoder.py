"""The 1-D encoder: convolutions over the time of an echo and its image in the mirror."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from base_residual.errors import ShapeError
from base_residual.models.code import EchoCode
from base_residual.models.mirror import MirrorLinear

TIME_STAGES = (2, 3, 4, 6, 6)  # channels of its stages, in base channels; each stage halves the number of moments


class TimeStage(nn.Module):
    """A residual block that halves the number of moments (He et al., CVPR 2016, in one dimension)."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            MirrorLinear(partial(nn.Conv1d, inside, outside, 5, stride=2, padding=2, bias=False)),
            nn.BatchNorm1d(outside),
            nn.ReLU(inplace=True),
            MirrorLinear(partial(nn.Conv1d, outside, outside, 3, padding=1, bias=False)),
            nn.BatchNorm1d(outside),
        )
        self.short = MirrorLinear(partial(nn.Conv1d, inside, outside, 2, stride=2, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """Turn (2B, inside, T) into (2B, outside, ceil(T / 2))."""
        return F.relu(self.body(x) + self.short(F.pad(x, (0, x.shape[-1] % 2))))


class LatentNorm(nn.BatchNorm1d):
    """Batch norm that takes its running statistics where a training batch holds one echo.

    Of it and its image alone, every feature would become 1 and -1.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise latents (2B, D)."""
        if not self.training or len(x) > 2:
            return super().forward(x)
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class TimeEncoder(nn.Module):
    """Convolutions over time, then one vector for the whole echo: time is range, and every pixel may need all of it.

    Args:
        swapped: for each channel, the one that it equals in the signal of the echo with its ears swapped, and the sign.
        base_channels: half of the first stage's.
        latent_size: D of the latent.
        steps: length T of the signal.
        symmetric: whether the ears are alike; if not, one more channel tells an echo from its image.
    """

    def __init__(
        self,
        swapped: Sequence[tuple[int, int]],
        base_channels: int,
        latent_size: int,
        steps: int,
        symmetric: bool = True,
    ) -> None:
        super().__init__()
        self.input_channels, self.steps, self.symmetric = len(swapped), steps, symmetric
        self.register_buffer("places", torch.tensor([place for place, _ in swapped]), persistent=False)
        self.register_buffer("signs", torch.tensor([[float(sign)] for _, sign in swapped]), persistent=False)
        channels = len(swapped) + (0 if symmetric else 1)
        widths = [channels, *(base_channels * factor for factor in TIME_STAGES)]
        self.stages = nn.ModuleList(TimeStage(a, b) for a, b in pairwise(widths))
        left = steps
        for _ in TIME_STAGES:
            left = (left + 1) // 2
        self.latent = nn.Sequential(
            MirrorLinear(partial(nn.Linear, left * widths[-1], latent_size)),
            LatentNorm(latent_size),
            nn.ReLU(inplace=True),
        )

    places: Tensor
    signs: Tensor

    def forward(self, signal: Tensor) -> EchoCode:
        """Return the code of a signal (B, C, T): the latent (2B, D) and the feature maps on the way to it.

        Raises:
            ShapeError: the signal has another number of channels or steps.
        """
        if signal.shape[1:] != (self.input_channels, self.steps):
            raise ShapeError(
                f"The features have shape {tuple(signal.shape)}; expected is (batch, {self.input_channels}, "
                f"{self.steps}). Cut or pad the echo to the samples that can come back from max_depth."
            )
        both = torch.cat([signal, signal[:, self.places] * self.signs])
        if not self.symmetric:
            side = torch.ones_like(signal[:, :1])
            both = torch.cat([both, torch.cat([side, -side])], dim=1)
        scales = []
        for stage in self.stages:
            both = stage(both)
            scales.append(both)
        return EchoCode(self.latent(both.flatten(1)), tuple(scales))
