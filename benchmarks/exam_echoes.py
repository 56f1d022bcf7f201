"""Echoes of the exam's rooms: pyroomacoustics' image sources and ray tracer, heard by a head or by two microphones.

The engine finds the ways that sound takes. What the ears make of them is done here: each mirror image arrives filtered
by the response of its direction, and the ray tracer's energy, by direction, band and time, becomes noise that arrives
from those directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from exam_rooms import BANDS, Array, Pose, Room
from numpy.typing import NDArray
from scipy.fft import irfft, rfft

from base_residual.errors import DataError

RATE = 44_100  # Hz
SECONDS = 0.25  # of a recording
CHIRP_SECONDS = 0.003
RAYS = 1000  # of the ray tracer, for each echo
DIRECTIONS = 32  # from which the ray tracer's sound arrives
BIN = 44  # samples over which its energy is summed, 1 ms
RECEIVER = 0.3  # metres, its receiver's radius
LENGTH = 1024  # samples in which one mirror image is heard
LEAD = 64  # samples of them before its arrival, because filters by octave bands are not causal
AIR = np.array([0.1, 0.3, 0.6, 1.0, 1.9, 5.8, 20.3, 60.0]) * 1e-3  # energy lost per metre; 20 C, 50 to 70 % humidity
Spectrum = NDArray[np.complex128]


class Engine(NamedTuple):
    """What the engine found: mirror images by ear, and the ray tracer's energy.

    Attributes:
        images: for each place that listens: distance (N,), where from (N, 3), where to (N, 3), gain (N, 8).
        late: energy (directions, 8, bins).
    """

    images: list[tuple[Array, Array, Array, Array]]
    late: Array


@dataclass(frozen=True)
class Ears:
    """Two ears: a measured head, or two microphones.

    Attributes:
        places: (2, 3) in the head's axes (ahead, left, up); equal where the responses hold the delay between the ears.
        axes: of two microphones, (2, 3).
        pattern: of two microphones: the omnidirectional share, from 1 (all round) to 0.5 (cardioid) and below.
        measured: directions (M, 3) and spectra (M, 2, LENGTH / 2 + 1) of a head.
    """

    places: Array
    axes: Array | None = None
    pattern: float = 1.0
    measured: tuple[Array, Spectrum] | None = None

    def response(self, directions: Array) -> Spectrum:
        """Return what both ears make of sound from directions (N, 3) in the head's axes: (N, 2, LENGTH / 2 + 1)."""
        if self.measured is not None:
            known, spectra = self.measured
            return np.asarray(spectra[(directions @ known.T).argmax(axis=1)])
        assert self.axes is not None
        gain = self.pattern + (1 - self.pattern) * directions @ self.axes.T  # (N, 2)
        return np.broadcast_to(gain[..., None], (*gain.shape, LENGTH // 2 + 1)).astype(complex)


@dataclass(frozen=True)
class Rig:
    """What sends and listens.

    Attributes:
        ears: the ears.
        speaker: place of the loudspeaker in the head's axes, (3,).
        omni: omnidirectional share of the loudspeaker's pattern by octave band, (8,).
        response: of the loudspeaker, a short filter.
        fade: share of the chirp that each of its fades takes.
        latency: samples before the chirp.
        noise: of the recorder, relative to the loudest sample, in dB.
        peak: the loudest sample, of full scale.
    """

    ears: Ears
    speaker: Array
    omni: Array
    response: Array
    fade: float
    latency: int
    noise: float
    peak: float

    def emitted(self, directions: Array) -> Array:
        """Return the loudspeaker's gain towards directions (N, 3) in the head's axes, (N, 8)."""
        return np.asarray(self.omni + (1 - self.omni) * directions[:, :1])


@lru_cache
def kemar(path: Path) -> Ears:
    """Read a measured head from a SOFA file (AES69, SimpleFreeFieldHRIR).

    Raises:
        DataError: it was not measured at 44,100 Hz.
    """
    import h5py

    with h5py.File(path) as file:
        azimuth, elevation = np.deg2rad(file["SourcePosition"][:, :2].T)
        responses = file["Data.IR"][:]  # (M, 2, N), left ear first
        if (rate := file["Data.SamplingRate"][0]) != RATE:
            raise DataError(f"The head {path} was measured at {rate:g} Hz; expected are {RATE} Hz.")
    flat = np.cos(elevation)
    known = np.column_stack([flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation)])
    return Ears(np.zeros((2, 3)), measured=(known, np.fft.rfft(responses, LENGTH)))


def draw_head_rig(rng: np.random.Generator, head: Ears) -> Rig:
    """Draw a rig with a measured head: the loudspeaker hangs 10 to 20 cm in front of it."""
    speaker = np.array([0.09 + rng.uniform(0.1, 0.2), rng.uniform(-0.01, 0.01), rng.uniform(-0.08, 0.02)])
    omni = np.interp(np.arange(len(BANDS)), [0, 7], [rng.uniform(0.85, 0.95), rng.uniform(0.5, 0.65)])
    return Rig(head, speaker, omni, *_draw_recorder(rng))


def draw_spaced_rig(rng: np.random.Generator) -> Rig:
    """Draw a rig with two microphones that look ahead and aside, some 22 cm apart, and the loudspeaker between."""
    apart, aside = rng.uniform(0.2, 0.24), np.deg2rad(rng.uniform(35, 55))
    places, axes = (np.array([[x, y, 0], [x, -y, 0]]) for x, y in ((0, apart / 2), (np.cos(aside), np.sin(aside))))
    ears = Ears(places, axes, rng.uniform(0.5, 0.7))
    speaker = np.array([rng.uniform(0, 0.06), rng.uniform(-0.01, 0.01), rng.uniform(-0.06, 0.02)])
    return Rig(ears, speaker, np.full(len(BANDS), rng.uniform(0.5, 0.8)), *_draw_recorder(rng))


def _draw_recorder(rng: np.random.Generator) -> tuple[Array, float, int, float, float]:
    """Draw the loudspeaker's response, the chirp's fades, and latency, noise and peak of the recorder."""
    response = loudspeaker(rng.uniform(-4, 4, len(BANDS)), rng.uniform(150, 500))
    fade, latency = rng.uniform(0.02, 0.3), int(rng.integers(0, 401))
    return response, fade, latency, rng.uniform(-50, -35), 10 ** rng.uniform(-0.7, -0.05)


def loudspeaker(gains: Array, low_cut: float) -> Array:
    """Return the minimum-phase response of a loudspeaker, LENGTH samples: gains (8,) in dB, and a cut in Hz."""
    frequency = np.fft.rfftfreq(LENGTH, 1 / RATE)
    level = np.interp(_octave(frequency), np.arange(len(BANDS)), gains)
    ratio = (np.maximum(frequency, 1) / low_cut) ** 4
    level += 10 * np.log10(ratio / (1 + ratio)).clip(-60)
    cepstrum = np.fft.irfft(level * np.log(10) / 20)
    cepstrum[1 : LENGTH // 2] *= 2
    cepstrum[LENGTH // 2 + 1 :] = 0
    return np.fft.irfft(np.exp(np.fft.rfft(cepstrum)))


def chirp(fade: float) -> Array:
    """Return 3 ms from 20 Hz to 20 kHz, faded by squared sines."""
    count = round(CHIRP_SECONDS * RATE)
    time = np.arange(count) / RATE
    sweep = np.sin(2 * np.pi * (20 * time + (20_000 - 20) / CHIRP_SECONDS * time**2 / 2))
    edge = np.minimum(time, time[::-1]) / (fade * CHIRP_SECONDS)
    return np.asarray(sweep * np.sin(np.pi / 2 * edge.clip(0, 1)) ** 2)


def record(rng: np.random.Generator, room: Room, pose: Pose, rig: Rig, max_order: int, rays: int) -> Array:
    """Return what the two ears of a rig record, float64 (T, 2), peak as the rig's.

    Args:
        rng: decides the noise of the late sound and of the recorder.
        room: the room.
        pose: of the head.
        rig: what sends and listens.
        max_order: mirror images up to this order; the ray tracer adds the others.
        rays: of the ray tracer; 0 for mirror images alone.
    """
    heard = impulse_responses(rng, room, pose, rig, max_order, rays)
    sound = np.convolve(chirp(rig.fade), rig.response)
    count = round(SECONDS * RATE)
    length = heard.shape[1] + len(sound)
    spectrum = np.fft.rfft(heard, length) * np.fft.rfft(sound, length)
    signal = np.zeros((2, count))
    signal[:, rig.latency :] = np.fft.irfft(spectrum, length)[:, : count - rig.latency]
    signal *= rig.peak / np.abs(signal).max()
    signal += rig.peak * 10 ** (rig.noise / 20) * rng.standard_normal(signal.shape)
    return np.asarray(signal.T.clip(-1, 1 - 2**-15))


def impulse_responses(rng: np.random.Generator, room: Room, pose: Pose, rig: Rig, max_order: int, rays: int) -> Array:
    """Return the room's response at both ears, (2, T): see `record`."""
    axes, speed = pose.axes(), 331.3 + 0.606 * 20
    source, places = pose.position + rig.speaker @ axes, pose.position + rig.ears.places @ axes
    found = trace(room, source, places, rig, axes, max_order, rays, speed, int(rng.integers(2**31)))
    heard = np.zeros((2, round(SECONDS * RATE) + LENGTH))
    frequency = np.fft.rfftfreq(LENGTH, 1 / RATE)
    shape = _band_shape(frequency)
    for ear, (distance, arriving, leaving, gain) in enumerate(found.images):
        amplitude = gain * rig.emitted(leaving @ axes.T) * np.exp(-AIR * distance[:, None] / 2) / distance[:, None]
        samples = distance / speed * RATE
        whole = np.floor(samples).astype(int)
        delay = np.exp(-2j * np.pi * frequency / RATE * (samples - whole + LEAD)[:, None])
        response = rig.ears.response(arriving @ axes.T)[:, ear]
        pulses = np.fft.irfft(amplitude @ shape * response * delay, LENGTH)
        for start, pulse in zip(whole, pulses, strict=True):
            if start < heard.shape[1] - LENGTH:
                heard[ear, start : start + LENGTH] += pulse
    if rays:
        late = late_sound(rng, found.late, rig.ears, speed)
        heard[:, LEAD : LEAD + late.shape[1]] += late[:, : heard.shape[1] - LEAD]
    return heard


def trace(
    room: Room, source: Array, places: Array, rig: Rig, axes: Array, max_order: int, rays: int, speed: float, seed: int
) -> Engine:
    """Run pyroomacoustics' engine: image sources for each place, and the ray tracer at the middle of them."""
    from pyroomacoustics import libroom

    faces = room.faces()
    walls = [
        libroom.Wall(corners.T.astype(np.float32), surface.absorption, surface.scattering, str(number))
        for number, (corners, surface, _) in enumerate(faces)
    ]
    blocking = [number for number, (*_, in_the_way) in enumerate(faces) if in_the_way]
    settings = (speed, max_order, 1e-12, SECONDS, RECEIVER, BIN / RATE, rays > 0)
    images = []
    for ear, place in enumerate(places):
        if ear and np.array_equal(place, places[0]):
            images.append(images[0])
            continue
        engine = libroom.Room(walls, blocking, [], *settings)
        engine.add_mic(place)
        engine.image_source_model(source)
        seen = engine.visible_mics[0].astype(bool)
        ways = engine.sources.T[seen] - place
        distance = np.linalg.norm(ways, axis=1)
        leaving = engine.source_directions.T[seen]
        images.append((distance, ways / distance[:, None], leaving, engine.attenuations.T[seen].astype(float)))
    if not rays:
        return Engine(images, np.zeros((0, len(BANDS), 0)))
    libroom.set_rng_seed(seed)
    engine = libroom.Room(walls, blocking, [], *settings)
    engine.add_mic(places.mean(axis=0))
    engine.microphones[0].set_directions((sphere(DIRECTIONS) @ axes).astype(np.float32))
    ways = sphere(rays)
    engine.ray_tracing((ways @ axes).astype(np.float32), rig.emitted(ways) ** 2, source)
    late = np.zeros((DIRECTIONS, len(BANDS), round(SECONDS * RATE / BIN)))
    for number, part in enumerate(engine.microphones[0].histograms):
        bins = part.get_hist()[:, : late.shape[2]]  # each direction has as many as it needs
        late[number, :, : bins.shape[1]] = bins
    return Engine(images, late)


def late_sound(rng: np.random.Generator, energy: Array, ears: Ears, speed: float) -> Array:
    """Return noise at both ears, (2, T), with an energy (directions, 8, bins) that arrives from `sphere` directions."""
    samples = energy.shape[2] * BIN
    length = 1 << int(np.ceil(np.log2(samples + LENGTH)))
    frequency = np.fft.rfftfreq(length, 1 / RATE)
    bands = _band_shape(frequency).astype(np.float32)
    lost = np.exp(-AIR[:, None] * (np.arange(energy.shape[2]) + 0.5) * BIN / RATE * speed)
    envelope = np.sqrt(energy * lost / BIN).astype(np.float32)
    directions = sphere(len(energy))
    ahead = directions @ ears.places.T / speed  # (D, 2) seconds: sound comes earlier to the ear on its side
    shift = np.exp(2j * np.pi * frequency * ahead[..., None]).astype(np.complex64)
    responses = rfft(np.fft.irfft(ears.response(directions), LENGTH).astype(np.float32), length)  # (D, 2, F)
    heard = np.zeros((2, len(frequency)), np.complex64)
    for part, filtering in zip(envelope, responses * shift, strict=True):
        noise = rfft(rng.standard_normal(samples, dtype=np.float32), length)
        by_band = irfft(noise * bands, length)[:, :samples].reshape(len(BANDS), -1, BIN)
        heard += rfft(np.einsum("bts,bt->ts", by_band, part).ravel(), length) * filtering
    return np.asarray(irfft(heard, length))


def sphere(count: int) -> Array:
    """Return directions spread evenly over the sphere, (count, 3), by Fibonacci's spiral."""
    up = 1 - (2 * np.arange(count) + 1) / count
    angle, flat = np.arange(count) * np.pi * (3 - np.sqrt(5)), np.sqrt(1 - up**2)
    return np.column_stack([flat * np.cos(angle), flat * np.sin(angle), up])


def _octave(frequency: Array) -> Array:
    """Return where frequencies lie among the octave bands, from 0 to 7."""
    return np.log2(np.maximum(frequency, 1) / BANDS[0]).clip(0, len(BANDS) - 1)


def _band_shape(frequency: Array) -> Array:
    """Return the weight of each octave band at frequencies (F,), as (8, F); weights of one frequency add up to 1."""
    return np.maximum(0, 1 - np.abs(_octave(frequency) - np.arange(len(BANDS))[:, None]))
