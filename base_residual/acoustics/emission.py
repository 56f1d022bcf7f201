"""The direct sound in a recording that no chirp was looked for in: its onset, by level alone, and the sound itself."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

ONSET_LEVEL = 0.1  # of the loudest sample: the direct sound begins at the first sample that reaches it
ONSET_LEAD = 0.001  # seconds that are kept before the onset, because the chirp begins quietly


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


def direct_sound(waveform: Tensor, length: int) -> Tensor:
    """Cut the `length` samples from the onset on out of echoes (B, 2, T), (B, 2, length)."""
    padded = F.pad(waveform, (0, length))
    place = find_onset(waveform)[:, None, None] + torch.arange(length, device=waveform.device)
    return padded.gather(2, place.expand(-1, 2, -1))


def loudest_ear(sound: Tensor) -> Tensor:
    """Return the sound (B, N) at the ear that hears it louder, of both ears' (B, 2, N)."""
    louder = sound.square().sum(dim=2).argmax(dim=1)
    return sound[torch.arange(len(sound), device=sound.device), louder]
