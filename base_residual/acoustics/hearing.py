"""Recordings as every network hears them: cleaned, and beginning with the direct sound, wherever that was."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from base_residual.acoustics.chirp import ChirpDesign
from base_residual.acoustics.framing import cut, resample
from base_residual.acoustics.matched_filter import Pair, compress
from base_residual.config.schema import AudioConfig

LEAD = 0.001  # seconds before the direct sound's arrival that an aligned echo begins
RUMBLE = 100.0  # Hz: what is slower is removed
FIRST = 0.1  # of the loudest arrival: the direct sound is the first that reaches it; an echo may be ten times as loud
SIDE = 0.0002  # seconds around a peak in which the matched filter's sidelobes are louder than `FIRST`
TAPS = 16  # of the filter that shifts by a part of a sample
AT_ONCE = 2**19  # samples that are searched at once: a minute of sound would take gigabytes


Pulse = Callable[[Tensor, Tensor], Pair]
MeanAround = Callable[[Tensor, int], Tensor]


class Heard(NamedTuple):
    """Echoes brought to their direct sound.

    Attributes:
        waveform: (B, 2, frames), the direct sound arriving `LEAD` seconds after the first sample, loudest sample 1.
        arrival: (B,) the direct sound's arrival in the recording, in samples.
        clean: (B, 2, T) all of the recording, without offset and rumble; its loudest sample is about 1.
    """

    waveform: Tensor
    arrival: Tensor
    clean: Tensor


def fit_echo(waveform: Tensor, rate: int, frames: int, audio: AudioConfig) -> Tensor:
    """Bring recordings (B, 2, T) of `rate` Hz to what a network with these settings takes, (B, 2, frames)."""
    brought = resample(waveform, rate, audio.sample_rate)
    return cut(brought, frames) if audio.emission == "first" else hear(brought, audio.sample_rate, frames).waveform


def hear(
    waveform: Tensor,
    rate: int,
    frames: int,
    pulse: Pulse | None = None,
    mean_around: MeanAround | None = None,
) -> Heard:
    """Find the direct sound in recordings and cut them to begin with it; their offset and rumble are removed.

    A recording without a chirp is cut where it is most like one; `base_residual.acoustics.doubts` tells it apart.

    Args:
        waveform: (B, 2, T) of `rate` Hz, of any level.
        rate: in Hz.
        frames: to keep, from `LEAD` before the arrival on; missing ones are zero.
        pulse, mean_around: in place of this module's own, for what is exported.
    """
    clean = remove_rumble(unit_peak(waveform), rate, mean_around or _mean_around)
    template = emitted_sound(rate).to(clean.device)
    arrival = find_arrival(clean, template, round(SIDE * rate), pulse or _pulse)
    return Heard(unit_peak(shift(clean, arrival - lead_frames(rate), frames)), arrival, clean)


def unit_peak(waveform: Tensor) -> Tensor:
    """Scale recordings (B, 2, T) so that the loudest sample of both ears is 1; silent ones stay silent."""
    peak = waveform.abs().amax(dim=(1, 2), keepdim=True)
    return waveform / torch.where(peak > 0, peak, 1)


def lead_frames(rate: int) -> int:
    """Return the sample at which the direct sound arrives in an aligned echo of `rate` Hz."""
    return round(LEAD * rate)


@lru_cache(maxsize=4)
def emitted_sound(rate: int) -> Tensor:
    """Return the samples of the emitted sound, as designed, float32 (N,)."""
    return torch.from_numpy(ChirpDesign().waveform(rate)).float()


def remove_rumble(waveform: Tensor, rate: int, mean_around: MeanAround | None = None) -> Tensor:
    """Subtract the mean, and what changes more slowly than `RUMBLE`, from recordings (B, 2, T)."""
    centred = waveform - waveform.mean(dim=-1, keepdim=True)
    return centred - (mean_around or _mean_around)(centred, round(rate / RUMBLE / 2))


def _mean_around(signal: Tensor, reach: int) -> Tensor:
    """Return the mean over each sample of (B, 2, T) and the `reach` ones on either side, as far as there are any."""
    samples = signal.shape[-1]
    sums = F.pad(F.pad(signal.double().cumsum(-1), (1, 0)), (reach, reach), mode="replicate")
    total = sums[..., 2 * reach + 1 :] - sums[..., :samples]
    return (total / count_around(samples, reach, signal.device)).to(signal.dtype)


def count_around(samples: int, reach: int, device: torch.device) -> Tensor:
    """Return how many of so many samples lie within `reach` of each one, (samples,)."""
    place = torch.arange(samples, device=device)
    return (place + reach + 1).clamp(max=samples) - (place - reach).clamp(min=0)


def find_arrival(waveform: Tensor, template: Tensor, side: int, pulse: Pulse) -> Tensor:
    """Find the direct sound: the first arrival of the emitted sound.

    The recording is compressed by correlation with the emitted sound. The direct sound is the first peak of at least
    `FIRST` times the highest, of both ears' energy together, so that one dead ear does not matter, nor an echo that is
    louder than the direct sound. Of several chirps it is that of the first. A parabola through the peak tells its place
    within a sample.

    Args:
        waveform: (B, 2, T).
        template: the emitted sound, (N,).
        side: samples to either side of a peak in which there is no higher one, so that it is no sidelobe of another.
        pulse: the matched filter, which gives real and imaginary part.

    Returns:
        The arrival in samples, float64 (B,).
    """
    envelope = _envelope(waveform, template, pulse)  # (B, T)
    enough = FIRST * envelope.amax(dim=1, keepdim=True)
    highest = F.max_pool1d(envelope[:, None], 2 * side + 1, stride=1, padding=side)[:, 0]
    peak = ((envelope >= enough) & (envelope == highest)).int().argmax(dim=1, keepdim=True)
    around = F.pad(envelope, (1, 1))
    low, here, high = (around.gather(1, peak + place) for place in range(3))
    bend = (2 * here - low - high).clamp(min=1e-20)
    return (peak.double() + ((high - low) / (2 * bend)).clamp(-0.5, 0.5))[:, 0]  # a float32 is coarse after seconds


def _pulse(waveform: Tensor, template: Tensor) -> Pair:
    """Return the real and the imaginary part of the compressed recordings (`compress`), (B, 2, T) each."""
    pulse = compress(waveform, template)
    return pulse.real, pulse.imag


def _envelope(waveform: Tensor, template: Tensor, pulse: Pulse) -> Tensor:
    """Return the level of recordings (B, 2, T) behind the matched filter, of both ears together, (B, T)."""
    parts = []
    for start in range(0, waveform.shape[-1], AT_ONCE):
        real, imag = pulse(waveform[..., start : start + AT_ONCE + len(template)], template)
        parts.append((real.square() + imag.square()).sum(dim=1).sqrt()[:, :AT_ONCE])
    return torch.cat(parts, dim=1)


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
    fraction = (start - whole).to(waveform.dtype)
    offset = torch.arange(TAPS, device=waveform.device) - (TAPS // 2 - 1) - fraction[:, None]  # (B, TAPS)
    window = torch.cos(torch.pi * offset / (TAPS + 2)).square()
    weights = torch.sinc(offset) * window
    weights = weights / weights.sum(dim=1, keepdim=True)
    count = frames + TAPS - 1
    place = whole.long()[:, None] - (TAPS // 2 - 1) + torch.arange(count, device=waveform.device)  # (B, count)
    inside = (place >= 0) & (place < waveform.shape[-1])
    found = waveform.gather(2, place.clamp(0, waveform.shape[-1] - 1)[:, None].expand(-1, 2, -1))
    found = torch.where(inside[:, None], found, 0)
    return sum(weights[:, tap, None, None] * found[..., tap : tap + frames] for tap in range(TAPS))  # type: ignore[return-value]
