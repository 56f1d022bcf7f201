"""What two ears hear of a compressed echo: levels, their difference, and how alike the ears are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from base_residual.acoustics.matched_filter import Pair

FLOOR = 1e-4  # of the reference, -80 dB: fainter sound is noise
ROUNDING = 1e-5  # of the reference, -100 dB: how alike the ears are in fainter sound is chance
STEP = 4  # neighbouring samples whose features go together: 3 cm of the echo's way, there and back
PERIODS = 3  # of a band's width, over which energy and coherence are averaged in it
BETWEEN_EARS = ((0, 1), (1, -1), (2, 1), (3, -1))  # what swapping the ears does to `between_ears`: channels and signs


def between_ears(pulse: Pair, near: int, until: int | None) -> Tensor:
    """Return what the ears hear alike and apart.

    Args:
        pulse: real and imaginary part of a compressed echo, (B, 2, T) each.
        near: number of samples to average over, an odd one.
        until: number of samples that hold the direct sound, whose level is 1; None: the loudest sound has level 1.

    Returns:
        (B, 4, T): the mean of the levels, four times their difference, and the complex coherence. Its angle is the
        phase difference of the ears, and its magnitude how reliable that angle is.
    """
    real, imag = pulse
    local = moving_mean(real.square() + imag.square(), near)  # (B, 2, T)
    along = real[:, 0] * real[:, 1] + imag[:, 0] * imag[:, 1]
    across = imag[:, 0] * real[:, 1] - real[:, 0] * imag[:, 1]
    coherence = moving_mean(torch.stack([along, across], dim=1), near)
    level = log_level(local.sqrt(), local[..., :until].sqrt())
    noise = ROUNDING**2 * local[..., :until].flatten(1).amax(dim=1)[:, None, None]
    coherence = coherence / (local + noise).prod(dim=1, keepdim=True).sqrt().clamp(min=1e-20)
    return torch.cat([level.mean(dim=1, keepdim=True), 4 * (level[:, :1] - level[:, 1:]), coherence], dim=1)


def log_level(magnitude: Tensor, reference: Tensor) -> Tensor:
    """Turn magnitudes (B, ...) into levels, linear in dB: 1 at the loudest of the reference, -1 at 80 dB below it."""
    loudest = reference.flatten(1).amax(dim=1).clamp(min=1e-9)
    relative = magnitude / loudest.reshape(-1, *[1] * (magnitude.ndim - 1))
    return 1 - 2 * torch.log(relative + FLOOR) / math.log(FLOOR)


def moving_mean(signal: Tensor, near: int) -> Tensor:
    """Return the mean over the `near` samples around each one, an odd number of them, (B, C, T)."""
    return F.avg_pool1d(signal, near, stride=1, padding=near // 2, count_include_pad=False)


def audible_edges(edges: Sequence[float], sample_rate: int) -> Sequence[float]:
    """Return the edges in Hz of the bands that a recording of that rate holds, or a part of them."""
    below = sum(edge < sample_rate / 2 for edge in edges)
    return edges[: below + 1] if below else ()


def steps_to_average(low: float, high: float, sample_rate: int) -> int:
    """Return the odd number of steps over which to average in a band with these edges in Hz."""
    return 2 * round((PERIODS * sample_rate / (high - low) / STEP - 1) / 2) + 1


def in_steps(series: Tensor) -> Tensor:
    """Give neighbouring samples of a series (B, C, T) as channels, (B, C * STEP, ceil(T / STEP))."""
    series = F.pad(series, (0, -series.shape[-1] % STEP))
    return series.unflatten(2, (-1, STEP)).transpose(2, 3).flatten(1, 2)


def swapped_in_steps(swapped: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return what swapping the ears does to channels and signs after `in_steps`."""
    return tuple((STEP * place + sample, sign) for place, sign in swapped for sample in range(STEP))
