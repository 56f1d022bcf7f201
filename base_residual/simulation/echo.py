"""Echoes of a chirp at two ears in a room. Rendering is deterministic and commutes with mirroring."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft

from base_residual.acoustics.chirp import SAMPLE_RATE
from base_residual.simulation.materials import BANDS, Air
from base_residual.simulation.places import Furnished, Place
from base_residual.simulation.rays import SCATTER_RAYS, sphere_rays
from base_residual.simulation.reverberation import DiffuseField, late_energy, reflections_per_second
from base_residual.simulation.rigs import LOUDNESS, Recorder, Rig
from base_residual.simulation.rooms import Array, Pose, Room

SPEED_OF_SOUND = 343.0  # m/s where nothing is said about the air
THINNEST = 0.003  # share of the samples that hold late reflections, at least
STEADY = 16  # samples for which late reverberation keeps its level
BURST_LENGTH = (-3.5, -2.3)  # of a burst in late reverberation: 0.3 to 5 ms, as exponents of ten
STREAMS = 3  # of late reverberation, which arrive at the same time from different directions
BETWEEN_EARS = 25  # samples by which a sound reaches one ear earlier than the other, at most
BURST_LEVEL = 8.0  # dB, the largest standard deviation of bursts
TRAIL = 600  # samples: what is emitted is shorter, so that nothing wraps around to the beginning
GRID = 2  # steps per sample, on which pulses are placed


Spectra = NDArray[np.complex128]


@dataclass(frozen=True)
class Chance:
    """The random part of one recording.

    Attributes:
        roughness: (elevations, azimuths) a normal factor for each scattering ray, which gives its patch a sign.
        noise: (2, T) of the recorder, of unit variance.
        field: (N, 2, T), streams of late reverberation at each ear, of unit variance.
        rank: (N, 2, T) uniform from 0 to 1: a late reflection arrives in the samples of low rank. None where there is
            one in each.
        density: number of late reflections, relative to that of a rectangular room.
    """

    roughness: Array
    noise: Array
    field: Array
    rank: Array | None = None
    density: float = 1.0

    def mirrored(self) -> Chance:
        """Return the same chance in the mirror: azimuths reversed, ears swapped."""
        swapped = replace(self, noise=self.noise[::-1], field=self.field[:, ::-1], roughness=self.roughness[:, ::-1])
        return swapped if self.rank is None else replace(swapped, rank=self.rank[:, ::-1])


def draw_still(rng: np.random.Generator, frames: int) -> Chance:
    """Draw surface roughness and noise for one recording of `frames` samples, without late reverberation."""
    return Chance(rng.standard_normal(SCATTER_RAYS), rng.standard_normal((2, frames)), np.zeros((1, 2, frames)))


def draw_chance(rng: np.random.Generator, frames: int) -> Chance:
    """Draw surface roughness, noise and reverberation for one recording of `frames` samples.

    No room is quite diffuse, and no surface scatters quite by Lambert's law. A quarter of the recordings have no late
    reverberation, and the others up to 8 dB less or 6 dB more than the formula says; it comes in more or fewer
    reflections, and in bursts. One in eight has no scattered sound, and the others up to 10 dB less or 4 dB more.
    """
    still = draw_still(rng, frames)
    field, rank = draw_late(rng, frames, burst_level=float(rng.uniform(0, BURST_LEVEL)))
    late = 10 ** (rng.uniform(-8, 6) / 20) if rng.random() < 0.75 else 0.0
    scattered = 10 ** (rng.uniform(-10, 4) / 20) if rng.random() < 0.875 else 0.0
    density = float(10 ** rng.uniform(-1.0, 0.7))
    return Chance(scattered * still.roughness, still.noise, late * field, rank, density)


def draw_late(rng: np.random.Generator, frames: int, burst_level: float) -> tuple[Array, Array]:
    """Draw late reverberation: `STREAMS` of it, of which each comes in bursts, and each burst from a direction.

    The ear on that side hears it earlier and louder.

    Args:
        rng: decides.
        frames: length in samples.
        burst_level: standard deviation of the bursts' level, in dB.

    Returns:
        The noise at the ears and the ranks of its samples, (STREAMS, 2, frames) each.
    """
    length = round(SAMPLE_RATE * 10 ** rng.uniform(*BURST_LENGTH))
    draws = STREAMS, frames // length + 1
    spread = np.log(10) / 20 * burst_level
    swell = np.exp(spread * rng.standard_normal(draws) - spread**2)  # a mean square of 1
    side = rng.uniform(-1, 1, draws)  # from -1, the left, to 1
    louder = np.sqrt(1 + np.stack([-side, side], axis=1) * rng.uniform(0, 0.8))  # (STREAMS, 2, bursts)
    later = np.round(BETWEEN_EARS * side).astype(int).repeat(length, axis=1)[:, None, :frames]
    moment = (np.arange(frames) + later * [[[0], [1]]]) % frames  # in the left ear, of what the right one hears
    noise, rank = (
        np.take_along_axis(of[:, None].repeat(2, axis=1), moment, axis=2)  # pyrefly: ignore[bad-argument-type]
        for of in (rng.standard_normal((STREAMS, frames)), rng.random((STREAMS, frames)))
    )
    return noise * (swell[:, None] * louder).repeat(length, axis=2)[..., :frames], rank


@dataclass(frozen=True)
class Arrivals:
    """Sounds that arrive at an ear: seconds since the emission, (N,), and amplitudes, (N, bands)."""

    delay: Array
    gain: Array


def render_echo(
    room: Room | Place, pose: Pose, rig: Rig, chance: Chance, air: Air | None = None, max_order: int | None = None
) -> Array:
    """Render the recording of one chirp.

    Mirror reflections come from the image-source method, with furniture both as mirror and as obstacle. Diffuse
    reflections are first order: every surface patch that the robot sees scatters its share of the energy by Lambert's
    law, with a random factor for its roughness. What is reflected more often is late reverberation, noise whose energy
    is that of a diffuse field, partly alike at both ears.

    Args:
        room: the room, or another place.
        pose: the robot's pose: the middle between its ears.
        rig: what chirps, listens and records.
        chance: decides the roughness, the noise and the reverberation; gives the length, (2, T).
        air: of the room; without, sound loses nothing on its way and no late reverberation is added.
        max_order: highest number of mirror reflections; by itself what the place follows.

    Returns:
        (2, T) of the left and the right ear, in full scale.
    """
    place = Furnished(room, every=air is None) if isinstance(room, Room) else room
    order = place.order if max_order is None else max_order
    frames = chance.noise.shape[1]
    source = pose.place(rig.speaker_forward, rig.speaker_right, rig.speaker_up)
    ears = np.stack([pose.place(right=side * rig.ear_distance / 2) for side in (-1, 1)])  # (2, 3)
    arrivals = [_mirrored(place, pose, rig, source, ears, order, frames / SAMPLE_RATE, air)]
    if chance.roughness.any():
        arrivals.append(_scattered(place, pose, rig, ears, chance.roughness, air))
    length = 2 * next_fast_len((frames + TRAIL + 1) // 2, real=True)
    spectra = np.stack(
        [_spectrum(of_ear, rig.recorder.latency, frames, length) for of_ear in zip(*arrivals, strict=True)]
    )
    if air is not None and chance.field.any():
        spectra += _late(place.diffuse_field(pose), rig, chance, air, order, length)
    heard = irfft(spectra * _emitted(rig, length), length)[:, :frames]
    return _recorded(heard, chance.noise, rig.recorder)


def _local(pose: Pose, directions: Array, outward: int) -> Array:
    """Return directions (N, 3) in the axes forward, outward and up; outward is 1 for the right ear, -1 for the left."""
    forward, right, up = pose.axes()
    local: Array = directions @ np.stack([forward, outward * right, up], axis=1)
    return local


def _mirrored(
    place: Place, pose: Pose, rig: Rig, source: Array, ears: Array, max_order: int, seconds: float, air: Air | None
) -> list[Arrivals]:
    """Return the direct sound, first, and all mirror reflections at each ear."""
    speed = air.speed if air else SPEED_OF_SOUND
    arrivals = []
    for ear, paths in enumerate(place.reflections(pose, source, ears, max_order, seconds * speed)):
        arriving = _local(pose, paths.arriving, (-1, 1)[ear])
        gain = paths.gain / paths.distance[:, None] * rig.ears.gain(arriving)
        gain = gain * rig.speaker.gain(_local(pose, paths.leaving, 1)) * _kept(paths.distance, air)
        delay = paths.distance / speed + rig.ears.delay(arriving)
        gain[0] *= 10 ** (rig.direct / 20)
        if rig.body:
            later, share = np.array(rig.body).T
            delay = np.concatenate([delay, delay[0] + later])
            gain = np.concatenate([gain, share[:, None] * gain[0]])
        arrivals.append(Arrivals(delay, gain))
    return arrivals


def _kept(distance: Array, air: Air | None) -> Array:
    """Return the share of the amplitude that the air leaves over distances (N,) in metres, (N, bands)."""
    if air is None:
        return np.ones((len(distance), 1))
    lost = 0.5 * distance[:, None] * air.attenuation(BANDS)
    kept: Array = np.exp(-lost, dtype=np.float32, casting="same_kind")
    return kept


def _scattered(place: Place, pose: Pose, rig: Rig, ears: Array, roughness: Array, air: Air | None) -> list[Arrivals]:
    """Return the diffuse reflection of each patch that the robot sees, for each ear."""
    speed = air.speed if air else SPEED_OF_SOUND
    rays, solid_angle = sphere_rays(pose)
    patches = place.patches(pose)
    points = np.array(pose.position) + patches.distance[:, None] * rays
    leaving = rig.speaker.gain(_local(pose, rays, 1)) * _kept(patches.distance, air)
    leaving = leaving * np.sqrt(patches.scattered * solid_angle / np.pi)
    arrivals = []
    for ear in range(2):
        way = points - ears[ear]
        distance = np.sqrt(np.einsum("nc,nc->n", way, way))
        ray = way / distance[:, None]
        cosine = np.maximum(-np.einsum("nc,nc->n", ray, patches.normal), 0)
        arriving = _local(pose, ray, (-1, 1)[ear])
        weight = roughness.ravel() / distance * np.sqrt(cosine)
        gain = leaving * rig.ears.gain(arriving) * _kept(distance, air) * weight[:, None]
        arrivals.append(Arrivals((patches.distance + distance) / speed + rig.ears.delay(arriving), gain))
    return arrivals


def _late(diffuse: DiffuseField, rig: Rig, chance: Chance, air: Air, order: int, length: int) -> Spectra:
    """Return the spectra (2, F) of late reverberation at the ears.

    What two points in a diffuse field hear is coherent by sinc(2 f d / c) (Cook et al., JASA 27(6), 1955).
    """
    streams, _, frames = chance.field.shape
    since = np.arange(0, frames, STEADY) / SAMPLE_RATE - rig.recorder.latency
    energy = late_energy(diffuse, air, order, np.maximum(since, 0), SAMPLE_RATE) * (since > 0)[:, None]
    amplitude = np.sqrt(energy * rig.ears.diffuse * rig.speaker.diffuse).T  # (bands, T / STEADY)
    amplitude = amplitude.astype(np.float32).repeat(STEADY, axis=1)[:, :frames]
    field = chance.field / np.sqrt(streams)
    if chance.rank is not None:
        time = np.arange(frames) / SAMPLE_RATE - rig.recorder.latency
        filled = chance.density * reflections_per_second(diffuse.volume, air, np.maximum(time, 0)) / SAMPLE_RATE
        filled = np.clip(filled / streams, THINNEST, 1)  # share of a stream's samples in which a reflection arrives
        field = field * (chance.rank < filled) / np.sqrt(filled)
    weights = band_weights(length)
    left, right = (
        np.einsum("kf,kf->f", rfft(noise.astype(np.float32) * amplitude, length), weights)
        for noise in field.sum(axis=0)
    )  # (F,) each
    alike = np.sinc(2 * np.fft.rfftfreq(length, 1 / SAMPLE_RATE) * rig.ear_distance / air.speed)
    both, apart = np.sqrt(1 + alike) * (left + right) / 2, np.sqrt(1 - alike) * (left - right) / 2
    return np.stack([both + apart, both - apart])


def _spectrum(arrivals: tuple[Arrivals, ...], latency: float, frames: int, length: int) -> Spectra:
    """Return the spectrum (F,) of unit pulses that arrive at one ear.

    Each is spread over four steps of an oversampled grid by a cubic B-spline, whose spectrum is then divided out: the
    non-uniform transform of Beylkin, Applied and Computational Harmonic Analysis 2(4), 1995.
    """
    delays = np.concatenate([arrival.delay for arrival in arrivals]) + latency
    gains = np.concatenate([arrival.gain for arrival in arrivals])
    place = delays * SAMPLE_RATE * GRID
    low = np.floor(place).astype(np.int64)
    inside = low < frames * GRID
    low, after, gains = low[inside], place[inside] - low[inside], gains[inside].T
    before = 1 - after
    late, early = after * after, before * before
    spline = np.stack([before * early, 4 - 3 * late * (1 + before), 4 - 3 * early * (1 + after), after * late]) / 6
    steps = ((low + np.array([[-1], [0], [1], [2]])) % (length * GRID)).ravel()
    taps = np.empty((len(gains), length * GRID), np.float32)
    for band, gain in enumerate(gains):
        taps[band] = np.bincount(steps, (spline * gain).ravel(), length * GRID)
    spectra = rfft(taps)[:, : length // 2 + 1]
    spectrum = spectra[0] if len(gains) == 1 else np.einsum("kf,kf->f", spectra, band_weights(length))
    sharp: Spectra = spectrum / _spline_spectrum(length)
    return sharp


@lru_cache(maxsize=4)
def _spline_spectrum(length: int) -> Array:
    """Return the spectrum (F,) of a cubic B-spline on the grid."""
    spectrum: Array = np.sinc(np.arange(length // 2 + 1) / (length * GRID)) ** 4
    return spectrum


@lru_cache(maxsize=4)
def band_weights(length: int) -> NDArray[np.float32]:
    """Return each band's share of each frequency of a real spectrum, (bands, F); they add up to 1."""
    frequencies = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    return np.stack([np.interp(frequencies, BANDS, unit) for unit in np.eye(len(BANDS))]).astype(np.float32)


def _emitted(rig: Rig, length: int) -> Spectra:
    """Return the spectrum (F,) of what the rig emits and its ears let through, as a minimum-phase system.

    Its phase follows from the magnitude by the real cepstrum (Oppenheim and Schafer, Discrete-Time Signal Processing,
    3rd edition, 2010, section 13.5).
    """
    emitted: Spectra = rfft(rig.chirp.waveform(), length)
    frequencies = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    for later, share in rig.ringing:
        emitted = emitted * (1 + share * np.exp(-2j * np.pi * frequencies * later))
    if not rig.response:
        return emitted
    magnitude = 10 ** (np.interp(np.log(frequencies + 1), np.log(BANDS), rig.response) / 20)
    magnitude = magnitude / np.hypot(1, (rig.low_cut / np.maximum(frequencies, 1.0)) ** 2)
    cepstrum = irfft(np.log(np.maximum(magnitude, 1e-5)), length)
    cepstrum[1 : length // 2] *= 2
    cepstrum[length // 2 + 1 :] = 0
    shaped: Spectra = emitted * np.exp(rfft(cepstrum))
    return shaped


def _recorded(heard: Array, noise: Array, recorder: Recorder) -> Array:
    """Return the recording (2, T) of the sound at the ears (2, T), with noise (2, T) of unit variance."""
    if recorder.noise_slope:
        spectrum = rfft(noise)
        frequencies = np.fft.rfftfreq(noise.shape[1], 1 / SAMPLE_RATE)
        shape = np.clip(frequencies / 4000, 0.02, None) ** (recorder.noise_slope / 6.02)
        noise = irfft(spectrum * shape / np.sqrt((shape**2).mean()), noise.shape[1])
    recording = heard + recorder.noise * noise
    if not recorder.peak:
        return LOUDNESS * recording
    recording = recording * 10 ** (np.array([[0.5], [-0.5]]) * recorder.balance / 20)
    level: Array = recording * (recorder.peak / np.abs(recording).max()) + recorder.offset
    return level
