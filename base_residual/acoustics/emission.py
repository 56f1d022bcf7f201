"""The direct sound in a recording: its onset, the moment of emission, and the emitted sound itself."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ONSET_LEVEL = 0.1  # of the loudest sample: the direct sound begins at the first sample that reaches it
ONSET_LEAD = 0.001  # seconds that are kept before the onset, because the chirp begins quietly


def align_onset(waveform: Tensor, lead: int) -> Tensor:
    """Shift echoes so that the direct sound's onset is at the same frame in all of them.

    Both ears of an echo are shifted by the same number of frames. Frames shifted past the beginning are dropped, and
    missing ones are zero.

    Args:
        waveform: (..., 2, T).
        lead: frame at which the onset lies afterwards.

    Returns:
        The shifted echoes, (..., 2, T).
    """
    echoes, frames = waveform.reshape(-1, 2, waveform.shape[-1]), waveform.shape[-1]
    place = (find_onset(echoes) - lead)[:, None, None] + torch.arange(frames, device=waveform.device)  # (B, 1, T)
    shifted = echoes.gather(2, place.clamp(0, frames - 1).expand(-1, 2, -1))
    return torch.where((place >= 0) & (place < frames), shifted, 0).reshape(waveform.shape)


class DirectSound(NamedTuple):
    """The sound that goes straight from the loudspeaker to the ears: its `onset` (B,) in samples, `sound` (B, N)."""

    onset: Tensor
    sound: Tensor


def find_onset(waveform: Tensor) -> Tensor:
    """Return the sample at which the direct sound begins in each of the echoes (B, 2, T), as (B,).

    It is the first sample that reaches `ONSET_LEVEL` times the loudest one, in either ear.
    """
    loudness = waveform.abs().amax(dim=1)  # (B, T)
    loud = loudness >= ONSET_LEVEL * loudness.amax(dim=1, keepdim=True)
    return loud.int().argmax(dim=1)  # of equal values, argmax returns the first


def find_emission(waveform: Tensor, rate: int) -> Tensor:
    """Return the sample at which each of the echoes (B, 2, T) of `rate` Hz was emitted, as (B,).

    It is taken to be `ONSET_LEAD` before the direct sound's onset, or the recording's first sample. The estimate is up
    to a millisecond too early.
    """
    return (find_onset(waveform) - round(ONSET_LEAD * rate)).clamp(min=0)


def direct_sound(waveform: Tensor, length: int) -> DirectSound:
    """Cut the direct sound out of echoes, at the ear that hears it louder.

    Args:
        waveform: (B, 2, T).
        length: of the emitted sound, N samples.

    Returns:
        Its onset, (B,) in samples, and the `length` samples from there on, (B, N).
    """
    batch, onset = waveform.shape[0], find_onset(waveform)
    padded = F.pad(waveform, (0, length))
    place = onset[:, None, None] + torch.arange(length, device=waveform.device).expand(1, 2, -1)
    both = padded.gather(2, place.expand(batch, -1, -1))  # (B, 2, N)
    louder = both.square().sum(dim=2).argmax(dim=1)
    return DirectSound(onset, both[torch.arange(batch, device=both.device), louder])
