"""Render what the two ears hear of a chirp in a room; rendering is deterministic and commutes with mirroring."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from base_residual.acoustics.chirp import SAMPLE_RATE, ChirpDesign
from base_residual.simulation.draws import Style
from base_residual.simulation.rays import SCATTER_RAYS, look_around, sphere_rays
from base_residual.simulation.reflections import Blocks, Faces, mirror_reflections
from base_residual.simulation.rooms import Array, Box, Pose, Room, to_box

SPEED_OF_SOUND = 343.0  # m/s in air at 20 degrees Celsius
EAR_DISTANCE = 0.2  # m between the two ears
EAR_ANGLE = np.deg2rad(50.0)  # each ear points this far to its own side
LOUDNESS = 0.4  # full scale of a recording per unit of sound pressure at 1 m
OVERSAMPLING = 8  # time grid on which arrivals are placed, per sample


@dataclass(frozen=True)
class Chance:
    """What is random about one recording: `roughness`, a sign-like factor per scattering ray (elevations, azimuths),
    and `noise` (2, T), the microphones' own."""

    roughness: Array
    noise: Array

    def mirrored(self) -> Chance:
        """The same chance in the mirror: azimuths reversed, ears swapped."""
        return Chance(self.roughness[:, ::-1], self.noise[::-1])


def draw_chance(rng: np.random.Generator, style: Style, frames: int) -> Chance:
    """Surface roughness and microphone noise of one recording of `frames` samples."""
    level = rng.uniform(*style.noise)
    return Chance(rng.standard_normal(SCATTER_RAYS), level * rng.standard_normal((2, frames)))


def render_echo(room: Room, pose: Pose, chance: Chance, chirp: ChirpDesign | None = None, max_order: int = 3) -> Array:
    """What the two ears hear of one chirp that starts with the first sample.

    Mirror reflections come from the image-source method, with furniture both as mirror and as obstacle. Diffuse
    reflections are first order: every surface patch that the robot can see scatters its share of the energy by
    Lambert's law, with a random sign for the patch's roughness.

    Args:
        room: the room.
        pose: the robot's pose; the loudspeaker sits between the ears.
        chance: roughness and noise, (2, T).
        chirp: the emitted sound.
        max_order: highest number of mirror reflections.

    Returns:
        (2, T) pressure at the left and the right ear, scaled to the full scale of a recording.
    """
    frames = chance.noise.shape[1]
    _, right, _ = pose.axes()
    head = np.array(pose.position)
    ears = np.stack([head - right * EAR_DISTANCE / 2, head + right * EAR_DISTANCE / 2])  # (2, 3)
    specular = _image_sources(room, pose, ears, max_order, frames)
    diffuse = _scattered(room, pose, ears, chance.roughness)
    emitted = (chirp or ChirpDesign()).waveform()
    pressure = []
    for ear in range(2):
        delays = np.concatenate([specular[ear][0], diffuse[ear][0]])
        gains = np.concatenate([specular[ear][1], diffuse[ear][1]])
        pressure.append(_arrivals_to_signal(delays, gains, emitted, frames))
    return LOUDNESS * (np.stack(pressure) + chance.noise)


def _image_sources(room: Room, pose: Pose, ears: Array, max_order: int, frames: int) -> list[tuple[Array, Array]]:
    """Delay in seconds and amplitude of each mirror reflection, the direct sound included, for each ear."""
    reach = frames / SAMPLE_RATE * SPEED_OF_SOUND  # what comes from further away comes too late
    arrivals = []
    for ear, heard in enumerate(mirror_reflections(*_surfaces(room), np.array(pose.position), ears, max_order, reach)):
        directivity = _ear_gain(pose, ear, heard.arriving) * _speaker_gain(pose, heard.leaving)
        arrivals.append((heard.distance / SPEED_OF_SOUND, heard.gain / heard.distance * directivity))
    return arrivals


@lru_cache(maxsize=1)
def _surfaces(room: Room) -> tuple[Faces, Blocks]:
    """All that reflects in a room, walls first, and what stands in the way; the same for all poses."""
    middle = (room.size[0] / 2, room.size[1] / 2, room.size[2] / 2)
    solids = [Box(middle, room.size, 0.0, room.absorption, room.scattering), *room.boxes]
    center, half = np.array([solid.center for solid in solids]), np.array([solid.size for solid in solids]) / 2
    turn = np.stack([*map(to_box, solids)])  # (K + 1, 3, 3)
    air = np.where(np.arange(len(solids)) == 0, -1, 1)[:, None]  # is inside the room, and outside the furniture
    centers, axes, halves = [], [], []
    for axis in range(3):
        along = [(axis + 1) % 3, (axis + 2) % 3]
        for side in (-1, 1):
            centers.append(center + side * half[:, axis, None] * turn[:, axis])
            axes.append(np.concatenate([turn[:, along], (side * air * turn[:, axis])[:, None]], axis=1))
            halves.append(half[:, along])
    gain = np.sqrt(1 - np.array([solid.absorption for solid in solids]))
    faces = Faces(
        np.stack(centers, axis=1).reshape(-1, 3),
        np.stack(axes, axis=1).reshape(-1, 3, 3),
        np.stack(halves, axis=1).reshape(-1, 2),
        gain.repeat(6),
    )
    return faces, Blocks(center[1:], turn[1:], half[1:])


def _scattered(room: Room, pose: Pose, ears: Array, roughness: Array) -> list[tuple[Array, Array]]:
    """Delay in seconds and amplitude of the first-order diffuse reflection of each visible patch, for each ear."""
    rays, solid_angle = sphere_rays(pose)
    hits = look_around(room, pose)
    points = np.array(pose.position) + hits.distance[:, None] * rays
    # The room itself comes last, where the surface number -1 finds it.
    surfaces: list[Box | Room] = [*room.boxes, room]
    share = np.array([surface.scattering * (1 - surface.absorption) for surface in surfaces])
    across = np.stack([*map(to_box, room.boxes), np.eye(3)])[hits.surface, hits.axis]  # (N, 3)
    normal = -np.sign((rays * across).sum(axis=1))[:, None] * across  # towards the air
    scattered = share[hits.surface] * solid_angle / np.pi * _speaker_gain(pose, rays) ** 2
    arrivals = []
    for ear in range(2):
        ray = points - ears[ear]
        distance = np.linalg.norm(ray, axis=1)
        ray /= distance[:, None]
        cosine = np.clip(-(ray * normal).sum(axis=1), 0, None)
        amplitude = roughness.ravel() * np.sqrt(scattered * cosine) / distance * _ear_gain(pose, ear, ray)
        arrivals.append(((hits.distance + distance) / SPEED_OF_SOUND, amplitude))
    return arrivals


def _arrivals_to_signal(delays: Array, gains: Array, emitted: Array, frames: int) -> Array:
    """Sum of delayed copies of `emitted`: arrivals on an oversampled grid, then one product of spectra."""
    length = 2 ** int(np.ceil(np.log2(frames + len(emitted))))
    place = delays * SAMPLE_RATE * OVERSAMPLING
    low = np.floor(place).astype(np.int64)
    inside = low < frames * OVERSAMPLING
    low, part, gains = low[inside], place[inside] - low[inside], gains[inside]
    taps = np.bincount(low, gains * (1 - part), length * OVERSAMPLING)
    taps += np.bincount(low + 1, gains * part, length * OVERSAMPLING)
    spectrum = np.fft.rfft(taps)[: length // 2 + 1] * np.fft.rfft(emitted, length)
    signal: Array = np.fft.irfft(spectrum, length)[:frames]
    return signal


def _ear_gain(pose: Pose, ear: int, rays: Array) -> Array:
    """Cardioid sensitivity of an ear (0 left, 1 right) to sound from `rays` (N, 3)."""
    forward, right, _ = pose.axes()
    axis = np.cos(EAR_ANGLE) * forward + (-1, 1)[ear] * np.sin(EAR_ANGLE) * right
    gain: Array = 0.5 + 0.5 * rays @ axis
    return gain


def _speaker_gain(pose: Pose, rays: Array) -> Array:
    """Sub-cardioid directivity of the loudspeaker, which faces forward, for sound that leaves along `rays` (N, 3)."""
    return 0.65 + 0.35 * rays @ pose.axes()[0]
