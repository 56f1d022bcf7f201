"""The front ends, which make features for a network out of a batch of echoes, on the device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from base_residual.acoustics.binaural import (
    STEP,
    SWAPPED_CUES,
    binaural_cues,
    edges_below_nyquist,
    energy_of,
    in_steps,
    local_energy,
    log_level,
    moving_mean,
    rounding_energy,
    steps_to_average,
    swapped_in_steps,
)
from base_residual.acoustics.chirp import ChirpDesign
from base_residual.acoustics.emission import direct_sound, loudest_ear
from base_residual.acoustics.framing import cut
from base_residual.acoustics.hearing import lead_frames, unit_peak
from base_residual.acoustics.matched_filter import Pair, compress_in_bands
from base_residual.config.schema import AudioConfig
from base_residual.errors import ShapeError

SMOOTHED = 9  # samples over which energy and coherence are averaged: 0.2 ms, 3.5 cm of range
ARRIVAL = 8  # samples around the direct sound's arrival in which it is loudest
GATE = (-0.0002, 0.0007)  # seconds around the arrival that are the direct sound's; later ones may be near walls


class EchoFrontEnd(nn.Module):
    """The step from waveforms to the features that a network sees.

    Both ears share one normalisation. It keeps the level difference between them, which tells left from right. Levels
    are relative to the direct sound, or to the loudest moment where recordings begin without one
    (`audio.emission=first`).

    - `spectrogram`: log magnitude of the short-time Fourier transform, (B, 2, S, S), frequency upward.
    - `mel`: the same in mel bands.
    - `waveform`: the samples, `STEP` of them at a time, (B, 8, ceil(T / STEP)). The direct sound at the louder ear has
      a mean square of 1; with `emission=first`, the whole echo has.
    - `matched`: the echo compressed by correlation with the emitted sound (the matched filter of every sonar), as the
      log envelope of each ear and `binaural_cues` (mean level, level difference, real and imaginary coherence), `STEP`
      samples at a time, and the cues of each of K bands once a step, (B, 24 + 4 K, ceil(T / STEP)).
      The emitted sound is the chirp as designed, or each recording's own direct sound.

    Args:
        config: the front end and its window.
        image_size: side of the spectrogram image S, in pixels.
    """

    def __init__(self, config: AudioConfig, image_size: int) -> None:
        super().__init__()
        self.config = config
        self.image_size = image_size
        self.edges = edges_below_nyquist(config.bands, config.sample_rate) if config.front_end == "matched" else ()
        self.register_buffer("window", torch.hann_window(config.win_length, dtype=torch.float32), persistent=False)
        template = ChirpDesign().waveform(config.sample_rate)
        self.register_buffer("template", torch.from_numpy(template).float(), persistent=False)
        gate = gating(template, config.sample_rate)
        self.register_buffer("gate", torch.from_numpy(gate).float(), persistent=False)
        if config.front_end == "mel":
            filters = mel_filters(config.n_mels, config.n_fft, config.sample_rate)
            self.register_buffer("filters", filters, persistent=False)

    window: Tensor
    template: Tensor
    gate: Tensor
    filters: Tensor

    def _apply(self, change: Any, recurse: bool = True) -> Self:
        """Move the front end with its network; it stays in full precision when that changes its type."""

        def moved(tensor: Tensor) -> Tensor:
            changed: Tensor = change(tensor)
            return changed if changed.dtype == tensor.dtype else tensor.to(changed.device)

        super()._apply(moved, recurse)  # type: ignore[no-untyped-call]
        return self

    @property
    def channels(self) -> int:
        """Return the number of channels that the network gets."""
        return len(self.swapped)

    @property
    def swapped(self) -> tuple[tuple[int, int], ...]:
        """Return the channel, and its sign, that each channel equals once the ears are swapped."""
        ears = ((1, 1), (0, 1))
        if self.config.front_end in ("spectrogram", "mel"):
            return ears
        if self.config.front_end == "waveform":
            return swapped_in_steps(ears)
        swapped = list(swapped_in_steps((*ears, *_moved(SWAPPED_CUES, len(ears)))))
        for _ in pairwise(self.edges):
            swapped += _moved(SWAPPED_CUES, len(swapped))
        return tuple(swapped)

    def forward(self, waveform: Tensor) -> Tensor:
        """Return the features of a batch of echoes.

        Args:
            waveform: float32 (B, 2, T).

        Returns:
            float32 (B, C, S, S) for spectrogram and mel, (B, C, ceil(T / STEP)) for waveform and matched.

        Raises:
            ShapeError: the input is not (B, 2, T).
        """
        if waveform.ndim != 3 or waveform.shape[1] != 2 or not waveform.numel():
            raise ShapeError(
                f"Echoes have shape {tuple(waveform.shape)}; expected is (batch, 2 ears, samples), none of them 0."
            )
        waveform = unit_peak(waveform)
        match self.config.front_end:
            case "spectrogram" | "mel":
                return self._spectrogram(waveform)
            case "waveform":
                heard = loudest_ear(self._direct(waveform))[:, None] if self._aligned else waveform
                energy = heard.square().mean(dim=(1, 2), keepdim=True)
                return in_steps(waveform * energy.clamp(min=1e-12).rsqrt())
            case "matched":
                return self._matched(waveform)

    @property
    def template_frames(self) -> int:
        """Return the length of the matched filter's template, in samples."""
        own = self._aligned and self.config.template == "direct"
        return len(self.gate if own else self.template)

    @property
    def _aligned(self) -> bool:
        return self.config.emission == "found"

    def _direct(self, waveform: Tensor) -> Tensor:
        """Return the direct sound in aligned echoes (B, 2, T), (B, 2, N), as long as the emitted sound."""
        lead = lead_frames(self.config.sample_rate)
        return waveform[..., lead : lead + len(self.template)]

    def _own_template(self, waveform: Tensor) -> tuple[Tensor, Tensor]:
        """Return each recording's own emitted sound (B, N), and the echoes (B, 2, T) that it is to be found in.

        It is the direct sound at the ear that hears it louder. In an aligned echo, that sound is gated: what comes more
        than `GATE` later is no part of it. The template then begins before the arrival, and the echoes as much later.
        """
        if not self._aligned:
            return loudest_ear(direct_sound(waveform, len(self.template))), waveform
        early = -round(GATE[0] * self.config.sample_rate)
        start = lead_frames(self.config.sample_rate) - early
        sound = loudest_ear(cut(waveform[..., start:], len(self.gate)))
        return sound @ self.gate, F.pad(waveform, (early, -early))

    def magnitude(self, waveform: Tensor) -> Tensor:
        """Return the magnitude of the short-time Fourier transform of (B, 2, T), (B, 2, n_fft // 2 + 1, frames)."""
        config = self.config
        spectrum = torch.stft(
            waveform.flatten(0, 1),
            n_fft=config.n_fft,
            win_length=config.win_length,
            hop_length=config.hop_length,
            window=self.window,
            pad_mode="constant",
            return_complex=True,
        )  # (2B, n_fft // 2 + 1, frames)
        magnitude: Tensor = spectrum.abs().unflatten(0, (-1, 2))
        return magnitude

    def pulses(self, waveform: Tensor, template: Tensor) -> tuple[Pair, list[Pair]]:
        """Return compressed echoes of all frequencies, (B, 2, T), and of each band, (B, 2, ceil(T / STEP))."""
        whole, bands = compress_in_bands(waveform, template, self.edges, self.config.sample_rate, STEP)
        return (whole.real, whole.imag), [(band.real, band.imag) for band in bands.unbind(1)]

    def _spectrogram(self, waveform: Tensor) -> Tensor:
        """Return the log-magnitude spectrogram of (B, 2, T), in linear or mel bands, as an image (B, 2, S, S)."""
        magnitude = self.magnitude(waveform)
        if self.config.front_end == "mel":
            magnitude = self.filters @ magnitude  # (B, 2, n_mels, frames)
        magnitude = magnitude.flip(2)  # high frequencies on top
        direct = lead_frames(self.config.sample_rate) + len(self.template)
        reference = magnitude[..., : 1 + direct // self.config.hop_length] if self._aligned else magnitude
        return F.interpolate(log_level(magnitude, reference), (self.image_size, self.image_size), mode="bilinear")

    def _matched(self, waveform: Tensor) -> Tensor:
        """Return what `matched` makes of echoes (B, 2, T), (B, C, ceil(T / STEP))."""
        template, rate = self.template, self.config.sample_rate
        if self.config.template == "direct":
            template, waveform = self._own_template(waveform)
        direct = lead_frames(rate) + ARRIVAL if self._aligned else None
        direct_steps = -(-direct // STEP) if direct else None
        whole, bands = self.pulses(waveform, template)
        energy = energy_of(whole)
        level = log_level(energy.sqrt(), energy[..., :direct].sqrt())
        smooth = moving_mean(energy, SMOOTHED)
        rounding = rounding_energy(smooth, direct)
        end = "replicate" if self.edges else "constant"  # networks without bands have learned zeros
        parts = [in_steps(torch.cat([level, binaural_cues(whole, smooth, SMOOTHED, direct, rounding)], dim=1), end)]
        for band, edges in zip(bands, pairwise(self.edges), strict=True):
            window = steps_to_average(*edges, rate)
            parts.append(binaural_cues(band, local_energy(band, window) + rounding, window, direct_steps))
        return torch.cat(parts, dim=1)


def _moved(swapped: Iterable[tuple[int, int]], by: int) -> Iterator[tuple[int, int]]:
    """Yield channels and signs, with the channels moved behind others."""
    return ((by + place, sign) for place, sign in swapped)


def interpolate_at(series: Tensor, moments: Tensor) -> Tensor:
    """Interpolate series over time linearly.

    Args:
        series: (B, C, T); each value stands at the middle of its time step.
        moments: (B, H, W) from 0, the beginning of the series, to 1, its end.

    Returns:
        (B, C, H, W); before the first value it equals the first, and after the last value the last.
    """
    last = series.shape[-1] - 1
    place = (moments.flatten(1).float() * (last + 1) - 0.5).clamp(0, last)[:, None]  # (B, 1, H * W) in steps
    whole = place.long().clamp(0, last)  # NaN becomes any number, which would index memory outside the series
    before, after = (
        series.gather(2, step.expand(-1, series.shape[1], -1)) for step in (whole, (whole + 1).clamp(max=last))
    )
    between = before + (place - whole) * (after - before)
    return between.to(series.dtype).unflatten(2, moments.shape[1:])


def gating(template: NDArray[np.float64], sample_rate: int) -> NDArray[np.float64]:
    """Return the matrix (N, N) that leaves of a recording of N samples what arrives within `GATE`.

    The recording is compressed by the emitted sound, cut around the arrival with soft edges, and what is left becomes
    sound again. So a loudspeaker's response is kept, and the echo of a near wall is not, though both overlap.

    Args:
        template: the emitted sound, (M,).
        sample_rate: in Hz.
    """
    early, late = (round(abs(bound) * sample_rate) for bound in GATE)
    count = early + late + 1
    edge = np.clip((np.abs(np.linspace(-1, 1, count)) - 0.6) / 0.4, 0, 1)
    soft = np.cos(np.pi / 2 * edge) ** 2
    shifted = np.stack([np.pad(template, (delay, count - 1 - delay)) for delay in range(count)])  # (count, N)
    gate: NDArray[np.float64] = shifted.T @ (soft[:, None] * shifted) / (template**2).sum()
    return gate


def mel_filters(bands: int, n_fft: int, sample_rate: int) -> Tensor:
    """Return triangular filters, equally spaced on the mel scale.

    The scale is O'Shaughnessy's (Speech Communication, 1987, section 4.3).

    Args:
        bands: number of filters.
        n_fft: length of the Fourier transform.
        sample_rate: in Hz.

    Returns:
        float32 (bands, n_fft // 2 + 1), each filter with weights that add up to 1.
    """
    top = 2595 * math.log10(1 + sample_rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2, dtype=torch.float64) / 2595) - 1)  # Hz
    bins = torch.linspace(0, sample_rate / 2, n_fft // 2 + 1, dtype=torch.float64)
    step = sample_rate / n_fft  # no filter is narrower than that, or it could fall between two bins
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2]).clamp(min=step)[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1]).clamp(min=step)[:, None]
    filters = torch.minimum(rise, fall).clamp(min=0)
    return (filters / filters.sum(dim=1, keepdim=True).clamp(min=1e-12)).float()
