"""Echoes of a chirp at two ears in a room. Rendering is deterministic and commutes with mirroring."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from base_residual.acoustics.chirp import SAMPLE_RATE, ChirpDesign
from base_residual.simulation.draws import Style
from base_residual.simulation.rays import SCATTER_RAYS, look_around, sphere_rays
from base_residual.simulation.reflections import Faces, Obstacles, mirror_reflections
from base_residual.simulation.rooms import Array, Box, Pose, Room, to_box

SPEED_OF_SOUND = 343.0  # m/s in air at 20 degrees Celsius
EAR_DISTANCE = 0.2  # m between the two ears
EAR_ANGLE = np.deg2rad(50.0)  # each ear points this far to its own side
LOUDNESS = 0.4  # full scale of a recording per unit of sound pressure at 1 m
OVERSAMPLING = 8  # time grid on which arrivals are placed, per sample


@dataclass(frozen=True)
class Chance:
    """The random part of one recording.

    Attributes:
        roughness: (elevations, azimuths) a normal factor for each scattering ray, which gives its patch a sign.
        noise: (2, T) of the microphones.
    """

    roughness: Array
    noise: Array

    def mirrored(self) -> Chance:
        """Return the same chance in the mirror: azimuths reversed, ears swapped."""
        return Chance(self.roughness[:, ::-1], self.noise[::-1])


def draw_chance(rng: np.random.Generator, style: Style, frames: int) -> Chance:
    """Draw surface roughness and microphone noise for one recording of `frames` samples."""
    level = rng.uniform(*style.noise)
    return Chance(rng.standard_normal(SCATTER_RAYS), level * rng.standard_normal((2, frames)))


def render_echo(room: Room, pose: Pose, chance: Chance, chirp: ChirpDesign | None = None, max_order: int = 3) -> Array:
    """Render the sound at the two ears for one chirp that starts with the first sample.

    Mirror reflections come from the image-source method, with furniture both as mirror and as obstacle. Diffuse
    reflections are first order: every surface patch that the robot sees scatters its share of the energy by Lambert's
    law, with a random factor for its roughness.

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
    """Return delay in seconds and amplitude of the direct sound and each mirror reflection, for each ear."""
    reach = frames / SAMPLE_RATE * SPEED_OF_SOUND  # metres; longer paths arrive after the recording ends
    arrivals = []
    for ear, paths in enumerate(mirror_reflections(*_surfaces(room), np.array(pose.position), ears, max_order, reach)):
        directivity = _ear_gain(pose, ear, paths.arriving) * _speaker_gain(pose, paths.leaving)
        arrivals.append((paths.distance / SPEED_OF_SOUND, paths.gain / paths.distance * directivity))
    return arrivals


@lru_cache(maxsize=1)
def _surfaces(room: Room) -> tuple[Faces, Obstacles]:
    """Return all faces of a room, walls first, and its furniture as obstacles; they are the same for all poses."""
    middle = (room.size[0] / 2, room.size[1] / 2, room.size[2] / 2)
    solids = [Box(middle, room.size, 0.0, room.absorption, room.scattering), *room.boxes]
    center, half = np.array([solid.center for solid in solids]), np.array([solid.size for solid in solids]) / 2
    turn = np.stack([*map(to_box, solids)])  # (K + 1, 3, 3)
    air = np.where(np.arange(len(solids)) == 0, -1, 1)[:, None]  # lies inside the room and outside the furniture
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
    return faces, Obstacles(center[1:], turn[1:], half[1:])


def _scattered(room: Room, pose: Pose, ears: Array, roughness: Array) -> list[tuple[Array, Array]]:
    """Return delay in seconds and amplitude of the diffuse reflection of each visible patch, for each ear."""
    rays, solid_angle = sphere_rays(pose)
    hits = look_around(room, pose)
    points = np.array(pose.position) + hits.distance[:, None] * rays
    # The walls have surface number -1, so the room is last.
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
    """Return the sum of delayed copies of `emitted`, (frames,).

    Arrivals are placed on an oversampled grid and convolved with the emitted sound by one product of spectra.
    """
    length = 2 ** int(np.ceil(np.log2(frames + len(emitted))))
    place = delays * SAMPLE_RATE * OVERSAMPLING
    low = np.floor(place).astype(np.int64)
    inside = low < frames * OVERSAMPLING
    low, fraction, gains = low[inside], place[inside] - low[inside], gains[inside]
    taps = np.bincount(low, gains * (1 - fraction), length * OVERSAMPLING)
    taps += np.bincount(low + 1, gains * fraction, length * OVERSAMPLING)
    spectrum = np.fft.rfft(taps)[: length // 2 + 1] * np.fft.rfft(emitted, length)
    signal: Array = np.fft.irfft(spectrum, length)[:frames]
    return signal


def _ear_gain(pose: Pose, ear: int, rays: Array) -> Array:
    """Return the cardioid sensitivity of an ear (0 left, 1 right) to sound from `rays` (N, 3), as (N,)."""
    forward, right, _ = pose.axes()
    axis = np.cos(EAR_ANGLE) * forward + (-1, 1)[ear] * np.sin(EAR_ANGLE) * right
    gain: Array = 0.5 + 0.5 * rays @ axis
    return gain


def _speaker_gain(pose: Pose, rays: Array) -> Array:
    """Return the sub-cardioid directivity of the loudspeaker, which faces forward, along `rays` (N, 3), as (N,)."""
    return 0.65 + 0.35 * rays @ pose.axes()[0]
