"""What two ears hear of a compressed echo: its level, and how the ears differ."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from base_residual.acoustics.matched_filter import Pair

FLOOR = 1e-4  # of the loudest, -80 dB: fainter sound is noise
ROUNDING = 1e-5  # of the loudest of all frequencies, -100 dB: fainter sound is rounding
STEP = 4  # neighbouring samples whose features go together: 3 cm of the echo's way, there and back, at 44.1 kHz
AVERAGED = 3.0  # over the width of a band: the time in seconds over which cues are averaged in it
SHORTEST = 3  # steps to average over: a single one is always coherent
SWAPPED_CUES = ((0, 1), (1, -1), (2, 1), (3, -1))  # channel and sign of each of `binaural_cues` once ears are swapped


def binaural_cues(
    pulse: Pair, energy: Tensor, window: int, direct: int | None, rounding: Tensor | float = 0.0
) -> Tensor:
    """Return the level of a compressed echo, the level difference of the ears, and their coherence.

    Args:
        pulse: real and imaginary part, (B, 2, T) each.
        energy: its `local_energy` over that window, (B, 2, T), to which that of rounding may be added.
        window: number of samples to average over, an odd one.
        direct: number of samples that hold the direct sound, whose level is 1; None: the loudest sound has level 1.
        rounding: energy (B, 1, 1) that keeps rounding from being coherent.

    Returns:
        (B, 4, T): the mean of the levels, four times their difference, and real and imaginary part of the interaural
        coherence. Its angle is the phase difference of the ears, and its magnitude how reliable that angle is.
    """
    real, imag = pulse
    cross = [real[:, 0] * real[:, 1] + imag[:, 0] * imag[:, 1], imag[:, 0] * real[:, 1] - real[:, 0] * imag[:, 1]]
    both = (energy + rounding).prod(dim=1, keepdim=True).sqrt()
    coherence = moving_mean(torch.stack(cross, dim=1), window) / both.clamp(min=1e-20)
    level = log_level(energy.sqrt(), energy[..., :direct].sqrt())
    return torch.cat([level.mean(dim=1, keepdim=True), 4 * (level[:, :1] - level[:, 1:]), coherence], dim=1)


def energy_of(pulse: Pair) -> Tensor:
    """Return the energy of each sample of a compressed echo, (B, 2, T)."""
    real, imag = pulse
    return real.square() + imag.square()


def local_energy(pulse: Pair, window: int) -> Tensor:
    """Return the energy of a compressed echo, averaged over `window` samples, (B, 2, T)."""
    return moving_mean(energy_of(pulse), window)


def rounding_energy(energy: Tensor, direct: int | None) -> Tensor:
    """Return the energy (B, 1, 1) below which the energies (B, 2, T) of compressed echoes are rounding."""
    return ROUNDING**2 * energy[..., :direct].flatten(1).amax(dim=1)[:, None, None]


def log_level(magnitude: Tensor, reference: Tensor) -> Tensor:
    """Turn magnitudes (B, ...) into levels, 1 at the loudest of the reference, -1 for silence.

    Between the two they are linear in dB, but for the lowest: 80 dB below the loudest are -0.85.
    """
    loudest = reference.flatten(1).amax(dim=1).clamp(min=1e-9)
    relative = magnitude / loudest.reshape(-1, *[1] * (magnitude.ndim - 1))
    return 1 - 2 * torch.log(relative + FLOOR) / math.log(FLOOR)


def moving_mean(signal: Tensor, window: int) -> Tensor:
    """Return the mean over the `window` samples around each one, an odd number of them, (B, C, T)."""
    return F.avg_pool1d(signal, window, stride=1, padding=window // 2, count_include_pad=False)


def edges_below_nyquist(edges: Sequence[float], sample_rate: int) -> Sequence[float]:
    """Return the edges in Hz of the bands of which a recording of that rate holds at least a part."""
    below = sum(edge < sample_rate / 2 for edge in edges)
    return edges[: below + 1] if below else ()


def steps_to_average(low: float, high: float, sample_rate: int) -> int:
    """Return the odd number of steps over which to average in a band with these edges in Hz."""
    seconds = AVERAGED / (min(high, sample_rate / 2) - low)
    return max(SHORTEST, 2 * round((seconds * sample_rate / STEP - 1) / 2) + 1)


def in_steps(series: Tensor, end: str = "constant") -> Tensor:
    """Give neighbouring samples of a series (B, C, T) as channels, (B, C * STEP, ceil(T / STEP)).

    Where the series ends within a step, that is filled up with zeros or, for an `end` of "replicate", the last sample.
    """
    series = F.pad(series, (0, -series.shape[-1] % STEP), mode=end)
    return series.unflatten(2, (-1, STEP)).transpose(2, 3).flatten(1, 2)


def swapped_in_steps(swapped: Iterable[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    """Return channel and sign of each channel, after `in_steps`, once the ears are swapped."""
    return tuple((STEP * place + sample, sign) for place, sign in swapped for sample in range(STEP))
