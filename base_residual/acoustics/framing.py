"""Echoes brought to the rate and the number of samples that a network takes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from base_residual.acoustics.chirp import SAMPLE_RATE
from base_residual.acoustics.recordings import as_waveform
from base_residual.config.schema import NOMINAL_SOUND
from base_residual.errors import ShapeError


def echo_frames(max_depth: float, sample_rate: int = SAMPLE_RATE) -> int:
    """Return the number of samples after which an echo from `max_depth` metres is back."""
    return int(2 * max_depth / NOMINAL_SOUND * sample_rate)


def resample(waveform: Tensor, rate: int, sample_rate: int) -> Tensor:
    """Bring echoes (..., T) from `rate` Hz to `sample_rate` Hz, by a polyphase filter."""
    if rate == sample_rate:
        return waveform
    from scipy.signal import resample_poly  # slow to import

    common = math.gcd(rate, sample_rate)
    resampled = resample_poly(waveform.cpu().numpy(), sample_rate // common, rate // common, axis=-1)
    return torch.from_numpy(resampled.astype(np.float32)).to(waveform.device)


def cut(waveform: Tensor, frames: int) -> Tensor:
    """Cut or zero-pad echoes (..., T) to their first `frames` samples."""
    return F.pad(waveform[..., :frames], (0, max(0, frames - waveform.shape[-1])))


def as_echo_batch(waveform: Tensor | NDArray[Any]) -> Tensor:
    """Return one echo (2, T) or a batch of echoes as float32 (B, 2, T) in full scale 1; see `as_waveform`.

    Raises:
        ShapeError: it is neither, or empty.
        DataError: samples are no real numbers, not finite or too large.
    """
    echoes = as_waveform(waveform, "The waveform")
    if echoes.ndim == 2:
        echoes = echoes[None]
    if echoes.ndim != 3 or echoes.shape[1] != 2 or not echoes.numel():
        raise ShapeError(
            f"Echoes have shape {tuple(echoes.shape)}; expected is (2 ears, samples) or (batch, 2, samples), none of "
            "them 0."
        )
    return echoes
