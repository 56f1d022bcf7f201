"""Recordings as every network hears them: cleaned, and beginning with the direct sound, wherever that was."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from base_residual.acoustics.chirp import ChirpDesign
from base_residual.acoustics.framing import cut, resample
from base_residual.acoustics.matched_filter import compress
from base_residual.config.schema import AudioConfig

LEAD = 0.001  # seconds before the direct sound's arrival that an aligned echo begins
RUMBLE = 100.0  # Hz: what is slower is removed
FIRST = 0.15  # of the loudest arrival: the direct sound is the first that reaches it; an echo may be six times as loud
QUIET_SHARE = 0.1  # share of the time in which a recording is taken to be quiet
CLEAR = 12.0  # times the quiet level that the loudest arrival of a chirp reaches; noise alone stays below 7
ABOVE_NOISE = 8.0  # times the quiet level below which nothing is taken for the direct sound
TAPS = 16  # of the filter that shifts by a part of a sample


class Heard(NamedTuple):
    """Echoes brought to their direct sound.

    Attributes:
        waveform: (B, 2, frames), the direct sound arriving `LEAD` seconds after the first sample, loudest sample 1.
        arrival: (B,) the direct sound's arrival in the recording, in samples.
        clarity: (B,) the loudest arrival's level over the quiet level; a chirp reaches `CLEAR`.
    """

    waveform: Tensor
    arrival: Tensor
    clarity: Tensor

    @property
    def found(self) -> Tensor:
        """Return which recordings hold a chirp, bool (B,)."""
        return self.clarity >= CLEAR


def fit_echo(waveform: Tensor, rate: int, frames: int, audio: AudioConfig) -> Tensor:
    """Bring recordings (B, 2, T) of `rate` Hz to what a network with these settings takes, (B, 2, frames)."""
    brought = resample(waveform, rate, audio.sample_rate)
    return cut(brought, frames) if audio.emission == "first" else hear(brought, audio.sample_rate, frames).waveform


def hear(waveform: Tensor, rate: int, frames: int, chirp: ChirpDesign | None = None) -> Heard:
    """Find the direct sound in recordings and cut them to begin with it; their offset and rumble are removed.

    Where no chirp is found, a recording is cut from its first sample on.

    Args:
        waveform: (B, 2, T) of `rate` Hz, of any level.
        rate: in Hz.
        frames: to keep, from `LEAD` before the arrival on; missing ones are zero.
        chirp: the emitted sound.
    """
    clean = remove_rumble(unit_peak(waveform), rate)
    arrival, clarity = find_arrival(clean, _template(chirp or ChirpDesign(), rate))
    lead = lead_frames(rate)
    arrival = torch.where(clarity >= CLEAR, arrival, lead)
    return Heard(unit_peak(shift(clean, arrival - lead, frames)), arrival, clarity)


def unit_peak(waveform: Tensor) -> Tensor:
    """Scale recordings (B, 2, T) so that the loudest sample of both ears is 1; silent ones stay silent."""
    peak = waveform.abs().amax(dim=(1, 2), keepdim=True)
    return waveform / torch.where(peak > 0, peak, 1)


def lead_frames(rate: int) -> int:
    """Return the sample at which the direct sound arrives in an aligned echo of `rate` Hz."""
    return round(LEAD * rate)


@lru_cache(maxsize=4)
def _template(chirp: ChirpDesign, rate: int) -> Tensor:
    return torch.from_numpy(chirp.waveform(rate)).float()


def remove_rumble(waveform: Tensor, rate: int) -> Tensor:
    """Subtract the mean, and what changes more slowly than `RUMBLE`, from recordings (B, 2, T)."""
    width = 2 * round(rate / RUMBLE / 2) + 1
    centred = waveform - waveform.mean(dim=-1, keepdim=True)
    around = F.pad(centred, (width // 2, width // 2))
    sums = F.pad(around.double().cumsum(-1), (1, 0))
    return centred - ((sums[..., width:] - sums[..., :-width]) / width).to(centred.dtype)


def find_arrival(waveform: Tensor, template: Tensor) -> tuple[Tensor, Tensor]:
    """Find the direct sound: the first arrival of the emitted sound that is clearly more than noise.

    The recording is compressed by correlation with the emitted sound. The direct sound is the first peak of at least
    `FIRST` times the highest, of both ears' energy together, so that one dead ear does not matter, nor an echo that is
    louder than the direct sound. A parabola through the peak tells its place within a sample.

    Args:
        waveform: (B, 2, T).
        template: the emitted sound, (N,).

    Returns:
        The arrival in samples, (B,), and the highest peak's level over the quiet level, (B,).
    """
    pulse = compress(waveform, template)
    envelope = pulse.abs().square().sum(dim=1).sqrt()  # (B, T)
    loudest = envelope.amax(dim=1, keepdim=True)
    quiet = envelope.kthvalue(max(1, round(QUIET_SHARE * envelope.shape[1])), dim=1, keepdim=True).values
    enough = torch.maximum(FIRST * loudest, (ABOVE_NOISE * quiet).clamp(max=0.99 * loudest))
    before, after = F.pad(envelope, (1, 0))[:, :-1], F.pad(envelope, (0, 1))[:, 1:]
    peak = ((envelope >= enough) & (envelope >= before) & (envelope > after)).int().argmax(dim=1, keepdim=True)
    low, here, high = (series.gather(1, peak) for series in (before, envelope, after))
    bend = (2 * here - low - high).clamp(min=1e-20)
    place = peak + ((high - low) / (2 * bend)).clamp(-0.5, 0.5)
    return place[:, 0], (loudest / quiet.clamp(min=1e-9 * loudest).clamp(min=1e-30))[:, 0]


def shift(waveform: Tensor, start: Tensor, frames: int) -> Tensor:
    """Cut recordings from a moment on, which may lie between two samples, by a windowed sinc.

    Args:
        waveform: (B, 2, T).
        start: (B,) in samples, may be negative.
        frames: to keep; those outside of the recording are zero.

    Returns:
        (B, 2, frames).
    """
    whole = start.floor()
    offset = torch.arange(TAPS, device=waveform.device) - (TAPS // 2 - 1) - (start - whole)[:, None]  # (B, TAPS)
    window = torch.cos(torch.pi * offset / (TAPS + 2)).square()
    weights = torch.sinc(offset) * window
    weights = weights / weights.sum(dim=1, keepdim=True)
    count = frames + TAPS - 1
    place = whole.long()[:, None] - (TAPS // 2 - 1) + torch.arange(count, device=waveform.device)  # (B, count)
    inside = (place >= 0) & (place < waveform.shape[-1])
    found = waveform.gather(2, place.clamp(0, waveform.shape[-1] - 1)[:, None].expand(-1, 2, -1))
    found = torch.where(inside[:, None], found, 0)
    return sum(weights[:, tap, None, None] * found[..., tap : tap + frames] for tap in range(TAPS))  # type: ignore[return-value]
