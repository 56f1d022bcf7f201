"""From a recording to what the network hears: reading echoes, and the front ends, batched on the device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from base_residual.arrays import read_array
from base_residual.chirp import SAMPLE_RATE, ChirpDesign
from base_residual.config import AudioConfig
from base_residual.errors import DataError, ShapeError

SLOWEST_SOUND = 340.0  # m/s; the field's own figure, on the safe side of 343
SLOWEST_RATE, FASTEST_RATE = 8_000, 192_000  # Hz; a filter that resamples from any other would have no end
MAX_SECONDS = 60.0  # of a recording that is read; a longer file is no echo
COHERENT = 9  # samples over which energy and coherence are averaged: 0.2 ms, 3.5 cm of range
ONSET = 0.1  # of the loudest sample: what is as loud for the first time is where the direct sound begins
LEAD = 0.001  # seconds before the direct sound's onset that aligning leaves: the chirp begins quietly
LOUDEST_NUMBER = 2**15  # of an ear's stored samples; what is larger is no waveform that half precision can hold
SILENT = 1e-6  # a recording whose loudest sample is below this heard nothing
FLOOR = 1e-4  # -80 dB under the loudest sample: below it there is only noise


class EchoHeader(NamedTuple):
    """What a sound file says of itself."""

    sample_rate: int
    channels: int
    frames: int
    subtype: str


def echo_frames(max_depth: float, sample_rate: int = SAMPLE_RATE) -> int:
    """Number of samples in which an echo from `max_depth` metres can come back."""
    return int(2 * max_depth / SLOWEST_SOUND * sample_rate)


def echo_header(path: Path) -> EchoHeader:
    """Rate in Hz, channels, frames and sample format of a sound file.

    Raises:
        DataError: the file is missing or no sound file.
    """
    with _opened(path) as file:
        return _header(file)


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    """A sound file; whatever goes wrong while it is open is said in one sentence."""
    try:
        if not path.is_file():
            raise DataError(f"The recording {path} {'is a folder' if path.is_dir() else 'does not exist'}.")
        with soundfile.SoundFile(str(path)) as file:
            yield file
    except (soundfile.LibsndfileError, RuntimeError, TypeError, OSError, UnicodeError) as error:
        raise DataError(f"The recording {path} is not a readable sound file.") from error


def check_echo(path: Path) -> None:
    """Look whether a file says that it holds a two-eared recording, without reading the sound.

    Raises:
        DataError: it does not, or is missing.
    """
    _check(echo_header(path), path)


def _header(file: soundfile.SoundFile) -> EchoHeader:
    return EchoHeader(file.samplerate, file.channels, file.frames, file.subtype)


def read_echo(path: Path) -> tuple[EchoHeader, Tensor]:
    """Read a two-eared recording as it is.

    Args:
        path: WAV (PCM 16, 24, 32 or float) or another format that libsndfile knows.

    Returns:
        What the file says of itself, and float32 (2, T) in [-1, 1], left ear first.

    Raises:
        DataError: the file is missing, broken, empty, too long, not two-channel, of a rate that no echo has, or its
            samples are no waveform.
    """
    with _opened(path) as file:
        header = _header(file)
        _check(header, path)
        samples = file.read(dtype="float32", always_2d=True)
    if len(samples) != header.frames:
        raise DataError(
            f"The recording {path} says that it has {header.frames} frames, and {len(samples)} can be read."
        )
    _check_samples(samples, path)
    return header, torch.from_numpy(samples.T.copy())


def _check(header: EchoHeader, path: Path) -> None:
    """Raise a DataError where a file says that it holds no echo."""
    if header.channels != 2:
        raise DataError(
            f"The recording {path} has {header.channels} channel{'s'[: header.channels != 1]}; expected are 2, left "
            "and right ear. One ear cannot tell left from right."
        )
    checked_rate(header.sample_rate, f"The recording {path}")
    if not 0 < header.frames <= MAX_SECONDS * header.sample_rate:
        raise DataError(
            f"The recording {path} has {header.frames} frames; expected are 1 frame to {MAX_SECONDS:.0f} s."
        )


def checked_rate(rate: float, what: str) -> int:
    """A rate in Hz as a whole number.

    Raises:
        DataError: no echo is recorded at such a rate.
    """
    if not SLOWEST_RATE <= rate <= FASTEST_RATE or rate != int(rate):
        raise DataError(f"{what} has {rate} Hz; expected are {SLOWEST_RATE} to {FASTEST_RATE} Hz.")
    return int(rate)


def as_float32(values: Any) -> Tensor:
    """A tensor as it is, or a copy of an array of any order, on the CPU; float32 either way."""
    if isinstance(values, Tensor):
        return values.float()
    return torch.from_numpy(np.array(values, np.float32, order="C"))


def read_ears(left: Path, right: Path) -> tuple[EchoHeader, Tensor]:
    """Read a recording that is stored as an `.npy` file per ear; such a file says no rate, and 44,100 Hz are assumed.

    Args:
        left: (T,) integers, which are scaled by their type's range, or floats, which are taken as they are.
        right: as many samples of the other ear.

    Returns:
        As `read_echo`.

    Raises:
        DataError: a file is missing, is no `.npy` of one dimension, holds NaN, or the two differ in length.
    """
    ears = [_read_ear(path) for path in (left, right)]
    if len(ears[0]) != len(ears[1]):
        raise DataError(
            f"The recording {left} has {len(ears[0])} frames and {right} has {len(ears[1])}; "
            "expected are as many for both ears."
        )
    return EchoHeader(SAMPLE_RATE, 2, len(ears[0]), "NPY"), torch.from_numpy(np.stack(ears))


def _read_ear(path: Path) -> NDArray[np.float32]:
    stored = read_array(path, "recording")
    if stored.ndim != 1 or stored.dtype.kind not in "if" or not 0 < len(stored) <= MAX_SECONDS * SAMPLE_RATE:
        raise DataError(
            f"The recording {path} has shape {stored.shape} and type {stored.dtype}; expected is one dimension of "
            f"numbers, 1 frame to {MAX_SECONDS:.0f} s."
        )
    samples = stored.astype(np.float32)
    if stored.dtype.kind == "i":
        samples /= -float(np.iinfo(stored.dtype).min)
    _check_samples(samples, path)
    return samples


def _check_samples(samples: NDArray[np.float32], path: Path) -> None:
    """Raise a DataError where samples are no waveform."""
    if not np.abs(samples).max() <= LOUDEST_NUMBER:  # NaN is not, either
        raise DataError(f"The recording {path} holds NaN, infinite samples or some beyond {LOUDEST_NUMBER}.")


def fit_echo(waveform: Tensor, rate: int, sample_rate: int, frames: int, align: bool = False) -> Tensor:
    """Bring echoes (..., T) from `rate` Hz to `sample_rate` Hz, and cut or zero-pad them to `frames` samples.

    With `align`, echoes (..., 2, T) begin with their direct sound, as `align_onset` says, before they are cut.
    """
    if align:
        waveform = align_onset(waveform, round(LEAD * rate))
    if rate != sample_rate:
        from scipy.signal import resample_poly

        common = math.gcd(rate, sample_rate)
        resampled = resample_poly(waveform.cpu().numpy(), sample_rate // common, rate // common, axis=-1)
        waveform = torch.from_numpy(resampled.astype(np.float32)).to(waveform.device)
    return F.pad(waveform[..., :frames], (0, max(0, frames - waveform.shape[-1])))


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


class EchoFrontEnd(nn.Module):
    """What is made of a waveform before the network sees it.

    Both ears share one normalisation, so that the level difference between them, which says left or right, survives.

    - `spectrogram`: log magnitude of the short-time Fourier transform, (B, 2, S, S), frequency upward.
    - `mel`: the same in mel bands.
    - `waveform`: the samples, scaled to unit energy, (B, 2, T).
    - `matched`: the echo compressed by correlation with the emitted sound (the matched filter of every sonar), as the
      log envelope of each ear, their mean and their difference, and the complex coherence between them, (B, 6, T).
      The emitted sound is the chirp as designed, or what each recording's direct sound says it was.

    Args:
        config: the front end and its window.
        image_size: side of the spectrogram image S, in pixels.
        chirp: the emitted sound, the template of the matched filter.
    """

    def __init__(self, config: AudioConfig, image_size: int, chirp: ChirpDesign | None = None) -> None:
        super().__init__()
        self.config = config
        self.image_size = image_size
        self.register_buffer("window", torch.hann_window(config.win_length), persistent=False)
        template = (chirp or ChirpDesign()).waveform(config.sample_rate)
        self.register_buffer("template", torch.from_numpy(template).float(), persistent=False)
        if config.front_end == "mel":
            filters = mel_filters(config.n_mels, config.n_fft, config.sample_rate)
            self.register_buffer("filters", filters, persistent=False)

    window: Tensor
    template: Tensor
    filters: Tensor

    @property
    def channels(self) -> int:
        """Number of channels that the network gets."""
        return len(self.swapped)

    @property
    def swapped(self) -> tuple[tuple[int, int], ...]:
        """What swapping the ears does: for each channel, which one it then equals, and with which sign."""
        swapped_ears = ((1, 1), (0, 1))
        if self.config.front_end != "matched":
            return swapped_ears
        return (*swapped_ears, (2, 1), (3, -1), (4, 1), (5, -1))

    def forward(self, waveform: Tensor) -> Tensor:
        """Features of a batch of echoes.

        Args:
            waveform: float32 (B, 2, T).

        Returns:
            float32 (B, 2, S, S) for spectrogram and mel, (B, 2, T) for waveform, (B, 6, T) for matched.

        Raises:
            ShapeError: the input is not (B, 2, T).
        """
        if waveform.ndim != 3 or waveform.shape[1] != 2:
            raise ShapeError(f"Echoes have shape {tuple(waveform.shape)}; expected is (batch, 2 ears, samples).")
        match self.config.front_end:
            case "spectrogram" | "mel":
                return self._spectrogram(waveform)
            case "waveform":
                energy = waveform.square().mean(dim=(1, 2), keepdim=True)
                return waveform * energy.clamp(min=1e-12).rsqrt()
            case "matched":
                return self._matched(waveform)

    def magnitude(self, waveform: Tensor) -> Tensor:
        """Magnitude of the short-time Fourier transform, (B, 2, T) to (B, 2, n_fft // 2 + 1, frames)."""
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

    def pulse(self, waveform: Tensor, template: Tensor) -> tuple[Tensor, ...]:
        """What `compress` makes of the echoes, as its real and its imaginary part, (B, 2, T) each."""
        pulse = compress(waveform, template)
        return pulse.real, pulse.imag

    def _spectrogram(self, waveform: Tensor) -> Tensor:
        magnitude = self.magnitude(waveform)
        if self.config.front_end == "mel":
            magnitude = self.filters @ magnitude  # (B, 2, n_mels, frames)
        magnitude = magnitude.flip(2)  # high frequencies on top
        return F.interpolate(_log_level(magnitude), (self.image_size, self.image_size), mode="bilinear")

    def _matched(self, waveform: Tensor) -> Tensor:
        template = self.template
        if self.config.template == "direct":
            template = direct_sound(waveform, len(template)).sound
        real, imag = self.pulse(waveform, template)  # (B, 2, T) each
        energy = real.square() + imag.square()
        local = _moving_mean(energy)  # (B, 2, T)
        # The coherence of the ears: its angle is their phase difference, its length says how far to trust it.
        along = real[:, 0] * real[:, 1] + imag[:, 0] * imag[:, 1]
        across = imag[:, 0] * real[:, 1] - real[:, 0] * imag[:, 1]
        coherence = _moving_mean(torch.stack([along, across], dim=1))
        coherence = coherence / local.prod(dim=1, keepdim=True).sqrt().clamp(min=1e-20)
        level = _log_level(local.sqrt())
        difference = level[:, :1] - level[:, 1:]
        return torch.cat([_log_level(energy.sqrt()), level.mean(dim=1, keepdim=True), 4 * difference, coherence], dim=1)


def at_moments(series: Tensor, moments: Tensor) -> Tensor:
    """Values of series over time (B, C, T) at moments (B, H, W) between 0, their beginning, and 1, their end.

    Returns:
        (B, C, H, W), linear between the steps, at whose middles the values are; beyond the outermost like those.
    """
    place = torch.stack([2 * moments - 1, torch.zeros_like(moments)], dim=3)  # a series is an image of one row
    return F.grid_sample(series[:, :, None], place, padding_mode="border", align_corners=False)


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


def fast_length(samples: int) -> int:
    """The least length, no less than that many samples, at which Fourier transforms are fast."""
    from scipy.fft import next_fast_len  # takes as long to import as the package

    return int(next_fast_len(samples))


def compress(waveform: Tensor, template: Tensor) -> Tensor:
    """Pulse compression: the correlation of echoes with the emitted sound, as an analytic signal.

    A sound that begins with sample t becomes a short pulse at t, and its magnitude the envelope of that pulse.
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
    """Weights (length,) of a spectrum that make its signal analytic: positive frequencies twice, negative ones not."""
    weights = torch.zeros(length, device=device)
    weights[1 : (length + 1) // 2] = 2
    weights[0] = 1
    if length % 2 == 0:
        weights[length // 2] = 1
    return weights


def _moving_mean(signal: Tensor) -> Tensor:
    """Mean over the `COHERENT` samples around each one, (B, C, T)."""
    return F.avg_pool1d(signal, COHERENT, stride=1, padding=COHERENT // 2, count_include_pad=False)


def _log_level(magnitude: Tensor) -> Tensor:
    """Magnitudes (B, ...) as levels, linear in dB: 1 at the loudest of both ears, -1 at 80 dB below it."""
    loudest = magnitude.flatten(1).amax(dim=1).clamp(min=1e-9)
    relative = magnitude / loudest.reshape(-1, *[1] * (magnitude.ndim - 1))
    return 1 - 2 * torch.log(relative + FLOOR) / math.log(FLOOR)


def mel_filters(bands: int, n_fft: int, sample_rate: int) -> Tensor:
    """Triangular filters, equally spaced on the mel scale (O'Shaughnessy, Speech Communication, 1987, section 4.3).

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
    step = sample_rate / n_fft  # a filter narrower than the distance between bins would see none of them
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2]).clamp(min=step)[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1]).clamp(min=step)[:, None]
    filters = torch.minimum(rise, fall).clamp(min=0)
    return (filters / filters.sum(dim=1, keepdim=True).clamp(min=1e-12)).float()
