"""Pulse compression: the correlation of an echo with the emitted sound."""

from __future__ import annotations

import torch
from torch import Tensor


def fast_length(samples: int) -> int:
    """Return the least length, at least that many samples, at which Fourier transforms are fast."""
    from scipy.fft import next_fast_len  # slow to import

    return int(next_fast_len(samples))


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
    samples = waveform.shape[-1]
    length = fast_length(samples + template.shape[-1])
    emitted = torch.fft.fft(template, length).unsqueeze(-2)  # one for both ears
    spectrum = torch.fft.fft(waveform, length) * emitted.conj()
    pulse: Tensor = torch.fft.ifft(spectrum * analytic_weights(length, waveform.device))[..., :samples]
    return pulse


def analytic_weights(length: int, device: torch.device) -> Tensor:
    """Return weights (length,) of a spectrum that make its signal analytic: 2 above 0 Hz, 0 below."""
    weights = torch.zeros(length, device=device, dtype=torch.float32)
    weights[1 : (length + 1) // 2] = 2
    weights[0] = 1
    if length % 2 == 0:
        weights[length // 2] = 1
    return weights
