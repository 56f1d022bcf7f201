"""Pulse compression: the correlation of an echo with the emitted sound."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from base_residual.config.schema import CROSSOVER

Pair = tuple[Tensor, Tensor]  # real and imaginary part


def fast_length(samples: int, step: int = 1) -> int:
    """Return a multiple of `step`, at least that many samples, at which Fourier transforms are fast."""
    from scipy.fft import next_fast_len  # slow to import

    return step * int(next_fast_len(-(-samples // step)))


def compress(waveform: Tensor, template: Tensor) -> Tensor:
    """Correlate echoes with the emitted sound (pulse compression), as an analytic signal.

    A sound that begins at sample t becomes a short pulse at t. The magnitude is the envelope of that pulse. Source:
    Turin, "An introduction to matched filters", IRE Trans. Information Theory 6(3), 1960.

    Args:
        waveform: (B, 2, T).
        template: the emitted sound, (N,), or one for each echo, (B, N).

    Returns:
        complex (B, 2, T).
    """
    spectrum, length = _cross_spectrum(waveform, template)
    return _whole(spectrum, length, waveform.shape[-1])


def compress_in_bands(
    waveform: Tensor, template: Tensor, edges: Sequence[float], sample_rate: int, step: int
) -> tuple[Tensor, Tensor]:
    """Do what `compress` does over all frequencies, and in each band, of which one sample of `step` is kept.

    Args:
        waveform: (B, 2, T).
        template: the emitted sound, (N,), or one for each echo, (B, N).
        edges: of the K bands in Hz, K + 1 of them, or none.
        sample_rate: in Hz.
        step: samples from one that is kept to the next.

    Returns:
        complex (B, 2, T) and (B, K, 2, ceil(T / step)).
    """
    samples, kept = waveform.shape[-1], -(-waveform.shape[-1] // step)
    spectrum, length = _cross_spectrum(waveform, template, step)
    whole, weights = _whole(spectrum, length, samples), band_weights(length, edges, sample_rate, waveform.device)
    if not len(weights):
        return whole, whole.new_empty(len(whole), 0, 2, kept)
    # Keeping one sample of `step` folds frequencies onto each other: their sum is transformed.
    folded = F.pad(spectrum[:, None] * weights[:, None], (0, length - spectrum.shape[-1]))
    folded = folded.unflatten(-1, (step, -1)).sum(dim=-2) / step
    return whole, torch.fft.ifft(folded)[..., :kept]


def _cross_spectrum(waveform: Tensor, template: Tensor, step: int = 1) -> tuple[Tensor, int]:
    """Return the spectrum of echoes times the conjugate one of the template, (B, 2, F), and the transforms' length."""
    length = fast_length(waveform.shape[-1] + template.shape[-1], step)
    emitted = torch.fft.rfft(template, length).unsqueeze(-2)  # one for both ears
    return torch.fft.rfft(waveform, length) * emitted.conj(), length


def _whole(spectrum: Tensor, length: int, samples: int) -> Tensor:
    """Return the analytic signal of all frequencies, complex (B, 2, samples)."""
    pulse: Tensor = torch.fft.ifft(spectrum * analytic_weights(length, spectrum.device), length)
    return pulse[..., :samples]


def analytic_weights(length: int, device: torch.device) -> Tensor:
    """Return weights (F,) of the frequencies from 0 Hz on, of `length` samples, that make their signal analytic."""
    weights = torch.full((length // 2 + 1,), 2.0, device=device, dtype=torch.float32)
    weights[0] = 1
    if length % 2 == 0:
        weights[-1] = 1
    return weights


def band_weights(length: int, edges: Sequence[float], sample_rate: int, device: torch.device) -> Tensor:
    """Return weights (K, F) of the frequencies from 0 Hz on, of `length` samples, that make each band analytic.

    Where one band gives way to the next, their weights add up to those of the whole.
    """
    frequency = torch.arange(length // 2 + 1, device=device, dtype=torch.float32) * (sample_rate / length)
    edge = torch.tensor(edges, device=device, dtype=torch.float32).unsqueeze(-1)
    octaves = torch.log2(frequency.clamp(min=1) / edge)
    begun = (octaves / CROSSOVER + 0.5).clamp(0, 1).mul(math.pi / 2).sin().square()  # (K + 1, F)
    return (begun[:-1] - begun[1:]) * analytic_weights(length, device)
