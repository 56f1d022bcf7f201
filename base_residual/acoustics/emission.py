"""Find the moment of emission in a recording, and the emitted sound in its direct sound."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ONSET = 0.1  # of the loudest sample: what is as loud for the first time is where the direct sound begins
LEAD = 0.001  # seconds before the direct sound's onset that aligning leaves: the chirp begins quietly


def align_onset(waveform: Tensor, lead: int) -> Tensor:
    """Shift echoes so that the direct sound's onset is at the same frame in all of them.

    Both ears of an echo are shifted alike. What was before is dropped, what is missing is silence.

    Args:
        waveform: (..., 2, T).
        lead: frame at which the onset comes to lie.

    Returns:
        The shifted echoes, (..., 2, T).
    """
    echoes, frames = waveform.reshape(-1, 2, waveform.shape[-1]), waveform.shape[-1]
    place = (find_onset(echoes) - lead)[:, None, None] + torch.arange(frames, device=waveform.device)  # (B, 1, T)
    shifted = echoes.gather(2, place.clamp(0, frames - 1).expand(-1, 2, -1))
    return torch.where((place >= 0) & (place < frames), shifted, 0).reshape(waveform.shape)


class DirectSound(NamedTuple):
    """The way from the loudspeaker straight to the ears: `onset` (B,) in samples, and the `sound` (B, N) itself."""

    onset: Tensor
    sound: Tensor


def find_onset(waveform: Tensor) -> Tensor:
    """Where the direct sound begins in echoes (B, 2, T): the first sample that is `ONSET` times the loudest, (B,)."""
    loudness = waveform.abs().amax(dim=1)  # (B, T)
    heard = loudness >= ONSET * loudness.amax(dim=1, keepdim=True)
    return heard.int().argmax(dim=1)  # the first of the largest is the first


def find_emission(waveform: Tensor, rate: int) -> Tensor:
    """Where echoes (B, 2, T) of `rate` Hz are emitted, (B,) in samples: `LEAD` before the direct sound's onset.

    That is up to a millisecond too early; 0 where the recording begins no earlier.
    """
    return (find_onset(waveform) - round(LEAD * rate)).clamp(min=0)


def direct_sound(waveform: Tensor, length: int) -> DirectSound:
    """The emitted sound as the recording itself holds it: what is heard first, at the ear that hears it louder.

    Args:
        waveform: (B, 2, T).
        length: N, in samples; what has been emitted is as long.
    """
    batch, onset = waveform.shape[0], find_onset(waveform)
    padded = F.pad(waveform, (0, length))
    place = onset[:, None, None] + torch.arange(length, device=waveform.device).expand(1, 2, -1)
    both = padded.gather(2, place.expand(batch, -1, -1))  # (B, 2, N)
    louder = both.square().sum(dim=2).argmax(dim=1)
    return DirectSound(onset, both[torch.arange(batch, device=both.device), louder])
