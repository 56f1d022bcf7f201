"""Doubts about recordings: why a prediction for one is not to be trusted, and what of it is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from base_residual.acoustics.chirp import ChirpDesign
from base_residual.acoustics.framing import cut, resample
from base_residual.acoustics.hearing import emitted_sound, hear, lead_frames, shift
from base_residual.acoustics.matched_filter import compress, fast_length
from base_residual.acoustics.recordings import SILENT_PEAK
from base_residual.config.schema import NOMINAL_SOUND, AudioConfig

CHIRP_LIKE = 1.35  # likeness of a chirp; noise stays below 1.1, and 99 of 100 claps below this
LISTENED = 0.05  # seconds after the arrival in which a chirp and its echoes are told from other sounds
SHARPNESS = 8  # exponent of the norm that tells sharp peaks from the same energy spread out
EVENED = 1000.0  # Hz over which the spectrum is averaged before it is made even
FAINTEST = 1e-5  # of the strongest energy in the spectrum: what is weaker is not raised further
DEAD = 0.01  # of the other ear's loudest sample, -40 dB: no head shades an ear that much
ALIKE = 0.001  # of the loudest sample: ears that differ less hear the same
LATE = 0.1  # seconds before the chirp that go without saying
UNUSED = 1.0  # seconds after what is used that go without saying
ENOUGH = 0.99  # of the time in which an echo can come back
ENOUGH_BAND = 0.75  # of the rate that holds all of the chirp
FULL, CLIPPED = 0.99, 8  # of full scale; samples in a row at which a recording is clipped


class Examined(NamedTuple):
    """Recordings as a network takes them, and what is to be said about each.

    Attributes:
        waveform: (B, 2, frames).
        emission: seconds at which the direct sound arrives in each; None where no chirp is found.
        doubts: for each, ends of sentences that say why a prediction is not to be trusted; empty in the normal case.
        remarks: for each, what was done, where that is not the normal case; else empty.
    """

    waveform: Tensor
    emission: list[float | None]
    doubts: list[list[str]]
    remarks: list[str]


def examine(waveform: Tensor, rate: int, frames: int | None, audio: AudioConfig) -> Examined:
    """Bring recordings to what a network takes, as `fit_echo` does, and say what is doubtful about each.

    Args:
        waveform: (B, 2, T) of `rate` Hz, full scale 1.
        rate: in Hz.
        frames: that the network takes, at its own rate; None where no network is meant: then `LISTENED` seconds, of
            which all need not be there.
        audio: the network's settings.
    """
    own_rate, brought = audio.sample_rate, resample(waveform, rate, audio.sample_rate)
    kept = frames or round(LISTENED * own_rate)
    heard = hear(brought, own_rate, kept)
    lead, aligned = lead_frames(own_rate), audio.emission == "found"
    slow = rate < ENOUGH_BAND * min(own_rate, 2 * ChirpDesign().end_hz)
    near = shift(heard.clean, heard.arrival - lead, round(LISTENED * own_rate))
    found = (likeness(near, own_rate) >= CHIRP_LIKE).tolist()
    emissions, doubts, remarks = [], [], []
    for index, moment in enumerate((heard.arrival / own_rate).tolist()):
        emission = round(moment, 6) if found[index] else None
        begin = moment - lead / own_rate if aligned and found[index] else 0.0
        there, used = brought.shape[-1] / own_rate - begin, kept / own_rate
        own = list(_of_the_sound(waveform[index], heard.clean[index], found[index] or slow or not aligned))
        if emission is not None and emission > LATE and not aligned:
            own.append(f"has its chirp at {emission:.3f} s, where the network takes recordings that begin with it")
        if slow:
            own.append(f"has {rate} Hz, too few for a chirp that goes up to {ChirpDesign().end_hz / 1000:g} kHz")
        if frames and there < ENOUGH * used:
            after = " after its chirp" if begin else ""
            farthest = used * NOMINAL_SOUND / 2
            own.append(f"ends {there:.3f} s{after}, and an echo from {farthest:.3g} m is back after {used:.3f} s")
        unusual = emission is not None and aligned and (emission > LATE or there > used + UNUSED)
        whole = waveform.shape[-1] / rate
        remark = f"chirp found at {emission:.3f} s; {used:.3f} s of {whole:.3g} s are used" if unusual else ""
        emissions.append(emission)
        doubts.append(own)
        remarks.append(remark)
    return Examined(heard.waveform if aligned else cut(brought, kept), emissions, doubts, remarks)


def joined(parts: Sequence[Examined]) -> Examined:
    """Return several batches as one."""
    return Examined(
        torch.cat([part.waveform for part in parts]),
        [moment for part in parts for moment in part.emission],
        [own for part in parts for own in part.doubts],
        [remark for part in parts for remark in part.remarks],
    )


def _of_the_sound(recorded: Tensor, clean: Tensor, chirps: bool) -> Iterator[str]:
    """Yield the doubts that the sound of one recording (2, T) raises.

    Args:
        recorded: as it came.
        clean: without its offset and rumble, loudest sample about 1.
        chirps: whether a chirp is in it, or need not be.
    """
    ears = clean.abs().amax(dim=1)
    if float(ears.max()) < SILENT_PEAK or (not chirps and float(recorded.abs().max()) < SILENT_PEAK):
        yield "is silent"
        return
    if float(ears.min()) < DEAD * float(ears.max()):
        yield f"is silent in its {'left' if ears[0] < ears[1] else 'right'} ear"
    elif float((clean[0] - clean[1]).abs().max()) < ALIKE * float(ears.max()):
        yield "has the same in both ears, which then cannot tell left from right"
    if not chirps:
        yield "holds no chirp that could be found"
    peak = recorded.abs().max()
    if float(peak) >= FULL and recorded.shape[1] >= CLIPPED:
        flat = (recorded.abs() >= 0.999 * peak).float()
        if float(F.avg_pool1d(flat, CLIPPED, stride=1).max()) == 1:
            yield "is clipped"


def likeness(echoes: Tensor, rate: int) -> Tensor:
    """Return how much more sharply echoes stand out behind the filter for the chirp than behind that for its reverse.

    A filter that is matched to a sweep compresses it and its echoes to short pulses, and spreads the same sweep played
    backwards. Noise, speech, clicks and claps are as sharp behind both. The spectrum is made even first, because a
    loudspeaker may emit most of the sweep at a few frequencies.

    Args:
        echoes: (B, 2, T) around the arrival, without offset and rumble.
        rate: in Hz.

    Returns:
        (B,), about 1 for all that is no chirp.
    """
    template = emitted_sound(rate).to(echoes.device)
    even = F.pad(_evened(echoes, rate), (len(template), len(template)))
    forward, backward = (compress(even, sound).abs().square().sum(dim=1) for sound in (template, template.flip(0)))
    most = torch.maximum(forward.amax(dim=1), backward.amax(dim=1)).clamp(min=1e-30)[:, None]
    sharp, spread = ((energy / most).pow(SHARPNESS / 2).sum(dim=1) for energy in (forward, backward))
    return (sharp / spread.clamp(min=1e-30)).pow(1 / SHARPNESS)


def ear_delay(echoes: Tensor, rate: int) -> Tensor:
    """Return by how much later the direct sound comes to the right ear, in seconds, (B,).

    Args:
        echoes: aligned ones, (B, 2, T).
        rate: in Hz.
    """
    reach = lead_frames(rate)
    direct = F.pad(echoes, (0, 2 * reach))[..., : 2 * reach + round(ChirpDesign().duration * rate)]
    spectrum = torch.fft.rfft(direct, 2 * direct.shape[-1])
    alike = torch.fft.irfft(spectrum[:, 0].conj() * spectrum[:, 1], 2 * direct.shape[-1])  # (B, lags)
    return (torch.cat([alike[:, -reach:], alike[:, : reach + 1]], dim=1).argmax(dim=1) - reach) / rate


def _evened(echoes: Tensor, rate: int) -> Tensor:
    """Return echoes (B, 2, T) with an even spectrum: each frequency is divided by the mean level around it."""
    samples = echoes.shape[-1]
    length = fast_length(samples)
    spectrum = torch.fft.rfft(echoes, length)
    energy = spectrum.abs().square().sum(dim=1, keepdim=True)  # (B, 1, F)
    reach = max(1, round(EVENED / rate * length / 2))
    around = F.avg_pool1d(energy, 2 * reach + 1, stride=1, padding=reach, count_include_pad=False)
    floor = FAINTEST * around.amax(dim=-1, keepdim=True)
    even: Tensor = torch.fft.irfft(spectrum / torch.maximum(around, floor).clamp(min=1e-30).sqrt(), length)[
        ..., :samples
    ]
    return even
