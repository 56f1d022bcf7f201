"""Random rooms with furniture, and what a robot in them sees and hears.

Geometry is in metres, x and y horizontal, z up, the room's corner at the origin. Everything random about a view is
drawn from one generator, so that a seed decides it; rendering itself is deterministic and commutes with mirroring.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from base_residual.chirp import SAMPLE_RATE, ChirpDesign
from base_residual.data.reflections import Blocks, Faces, mirror_reflections

Array = NDArray[np.float64]

SPEED_OF_SOUND = 343.0  # m/s in air at 20 degrees Celsius
EAR_DISTANCE = 0.2  # m between the two ears
EAR_ANGLE = np.deg2rad(50.0)  # each ear points this far to its own side
FIELD_OF_VIEW = np.deg2rad(90.0)  # of the depth camera, both ways
LOUDNESS = 0.4  # full scale of a recording per unit of sound pressure at 1 m
OVERSAMPLING = 8  # time grid on which arrivals are placed, per sample
SCATTER_RAYS = (32, 64)  # elevations and azimuths of the rays that find scattering surfaces


@dataclass(frozen=True)
class Box:
    """A piece of furniture: an upright cuboid, turned by `yaw` radians about the vertical."""

    center: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: float
    absorption: float
    scattering: float


@dataclass(frozen=True)
class Room:
    """A rectangular room: size in metres, energy absorption and scattering share of its surfaces, furniture.

    What a surface scatters comes on top of what it mirrors, which is not made less for it.
    """

    size: tuple[float, float, float]
    absorption: float
    scattering: float
    boxes: tuple[Box, ...]

    def mirrored(self) -> Room:
        """The room seen in a mirror that swaps low and high y."""
        width = self.size[1]
        boxes = tuple(
            replace(box, center=(box.center[0], width - box.center[1], box.center[2]), yaw=-box.yaw)
            for box in self.boxes
        )
        return replace(self, boxes=boxes)


@dataclass(frozen=True)
class Pose:
    """Where the robot's head is, in metres, and where it looks: `heading` in radians from the x axis."""

    position: tuple[float, float, float]
    heading: float

    def mirrored(self, room: Room) -> Pose:
        """The pose in `room.mirrored()`."""
        x, y, z = self.position
        return Pose((x, room.size[1] - y, z), -self.heading)

    def axes(self) -> tuple[Array, Array, Array]:
        """Unit vectors forward, right and up, each (3,)."""
        cos, sin = np.cos(self.heading), np.sin(self.heading)
        return np.array([cos, sin, 0.0]), np.array([sin, -cos, 0.0]), np.array([0.0, 0.0, 1.0])


@dataclass(frozen=True)
class Style:
    """The distribution that rooms are drawn from: ranges as (low, high), lengths in metres.

    Attributes:
        length: of the two horizontal sides.
        height: of the ceiling.
        furniture: number of boxes, inclusive.
        absorption: energy share that walls and furniture swallow.
        noise: standard deviation of the microphones' noise, relative to the chirp at 1 m.
    """

    length: tuple[float, float] = (3.0, 9.0)
    height: tuple[float, float] = (2.3, 4.0)
    furniture: tuple[int, int] = (2, 7)
    absorption: tuple[float, float] = (0.05, 0.4)
    noise: tuple[float, float] = (0.0005, 0.002)


STYLES = {
    "standard": Style(),
    # Towards longer and taller rooms, more furniture, duller walls and more noise than in "standard".
    "hard": Style(
        length=(2.5, 10.5), height=(2.2, 5.0), furniture=(5, 12), absorption=(0.2, 0.6), noise=(0.002, 0.006)
    ),
}


def draw_room(rng: np.random.Generator, style: Style) -> Room:
    """A random room with furniture that stands on the floor or hangs at a wall."""
    size = (rng.uniform(*style.length), rng.uniform(*style.length), rng.uniform(*style.height))
    boxes = []
    for _ in range(rng.integers(style.furniture[0], style.furniture[1] + 1)):
        extent = rng.uniform([0.3, 0.3, 0.3], [1.8, 0.9, min(2.0, size[2] - 0.2)])
        yaw = rng.choice([0.0, np.pi / 2]) if rng.random() < 0.6 else rng.uniform(0, np.pi)
        reach = 0.5 * np.abs([[np.cos(yaw), np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]) @ extent[:2] + 0.02
        if np.any(2 * reach >= np.array(size[:2])):
            continue
        x, y = rng.uniform(reach, np.array(size[:2]) - reach)
        if rng.random() < 0.5:  # against one of the walls
            side = rng.integers(4)
            x = {0: reach[0], 1: size[0] - reach[0]}.get(int(side), x)
            y = {2: reach[1], 3: size[1] - reach[1]}.get(int(side), y)
        bottom = 0.02 if rng.random() < 0.85 else rng.uniform(0.02, size[2] - extent[2] - 0.02)
        boxes.append(
            Box(
                center=(float(x), float(y), float(bottom + extent[2] / 2)),
                size=(float(extent[0]), float(extent[1]), float(extent[2])),
                yaw=float(yaw),
                absorption=float(rng.uniform(*style.absorption)),
                scattering=float(rng.uniform(0.2, 0.6)),
            )
        )
    return Room(
        size=size,
        absorption=float(rng.uniform(*style.absorption)),
        scattering=float(rng.uniform(0.05, 0.3)),
        boxes=tuple(boxes),
    )


def draw_pose(rng: np.random.Generator, room: Room) -> Pose | None:
    """A random place for the robot, clear of walls and furniture; None where thirty tries find none."""
    for _ in range(30):
        x, y = rng.uniform(0.5, np.array(room.size[:2]) - 0.5)
        pose = Pose((float(x), float(y), float(rng.uniform(0.3, 1.3))), float(rng.uniform(-np.pi, np.pi)))
        if _look_around(room, pose).distance.min() < 0.25 or any(_inside(box, pose.position) for box in room.boxes):
            continue
        if np.median(render_depth(room, pose, 16)) >= 0.8:  # not nose to the wall
            return pose
    return None


class Hits(NamedTuple):
    """Where rays end, each array of the rays' common shape: `distance` in ray lengths, `surface` with -1 for the room
    and the box's index otherwise, and the surface's own `axis` (0, 1 or 2) that is normal to the face."""

    distance: Array
    surface: NDArray[np.int64]
    axis: NDArray[np.int64]


def cast_rays(room: Room, origin: Array, rays: Iterable[Array]) -> Hits:
    """First surface along each ray, by the slab method (Kay and Kajiya, SIGGRAPH 1986).

    Args:
        room: the room and its furniture.
        origin: (3,) start of all rays, inside the room.
        rays: their x, y and z, three arrays (N,), of any length.

    Returns:
        The hits; a distance of 1 is one ray length.
    """
    x, y, z = map(_nonzero, rays)
    walls = _way_to_walls(room, origin, (x, y, z))
    axis = np.where(walls[2] < np.minimum(*walls[:2]), 2, walls[1] < walls[0])
    distance = np.minimum(np.minimum(*walls[:2]), walls[2])
    surface = np.full(distance.shape, -1)
    for number, box in enumerate(room.boxes):
        enter, leave = _through_slabs(box, origin, (x, y, z))
        level = np.maximum(*enter[:2])
        near, far = np.maximum(level, enter[2]), np.minimum(np.minimum(*leave[:2]), leave[2])
        hit = (near > 0) & (near < far) & (near < distance)
        distance[hit] = near[hit]
        surface[hit] = number
        axis[hit] = np.where(enter[2] > level, 2, enter[1] > enter[0])[hit]
    return Hits(distance, surface, axis)


def _nonzero(part: Array) -> Array:
    """Coordinates of rays that can be divided by."""
    return np.where(np.abs(part) < 1e-12, 1e-12, part)


def _way_to_walls(room: Room, origin: Array, rays: Sequence[Array]) -> list[Array]:
    """Distance to the walls across each axis, in ray lengths."""
    return [
        np.where(part > 0, side - place, -place) / part
        for part, side, place in zip(rays, room.size, origin, strict=True)
    ]


def _through_slabs(box: Box, origin: Array, rays: Sequence[Array]) -> tuple[list[Array], list[Array]]:
    """Where rays enter and leave the space between each two opposite faces of a box, in ray lengths."""
    turn = _to_box(box)
    x, y, z = rays
    enter, leave = [], []
    for part, start, side in zip(
        (turn[0, 0] * x + turn[0, 1] * y, turn[1, 0] * x + turn[1, 1] * y, z),
        turn @ (origin - np.array(box.center)),
        box.size,
        strict=True,
    ):
        part = _nonzero(part)
        half = np.copysign(0.5 * side, part)
        enter.append((-half - start) / part)
        leave.append((half - start) / part)
    return enter, leave


def render_depth(room: Room, pose: Pose, size: int) -> Array:
    """Depth along the camera's axis, as a stereo camera reports it.

    The camera looks level: where a ray is horizontally depends on its column only, and how high it is on its row.

    Args:
        room: the room.
        pose: the camera's pose.
        size: pixels per side.

    Returns:
        (size, size) depth in metres, row 0 on top, column 0 on the left.
    """
    forward, right, _ = pose.axes()
    edge = np.tan(FIELD_OF_VIEW / 2)
    offset = ((np.arange(size) + 0.5) / size * 2 - 1) * edge  # (S,)
    x, y = (_nonzero(forward[axis] + offset * right[axis]) for axis in range(2))  # by column
    rays, origin = (x, y, _nonzero(-offset)), np.array(pose.position)  # z by row
    walls = _way_to_walls(room, origin, rays)
    depth = np.minimum(np.minimum(*walls[:2]), walls[2][:, None])
    for box in room.boxes:
        enter, leave = _through_slabs(box, origin, rays)
        level, past = np.maximum(*enter[:2]), np.minimum(*leave[:2])
        columns = _extent((level < past) & (past > 0))
        if columns.stop == 0:
            continue
        rows = _extent((enter[2] < past[columns].max()) & (leave[2] > level[columns].min()) & (leave[2] > 0))
        seen = depth[rows, columns]
        near = np.maximum(level[columns], enter[2][rows, None])
        hit = (near > 0) & (near < np.minimum(past[columns], leave[2][rows, None])) & (near < seen)
        np.copyto(seen, near, where=hit)
    return depth


def _extent(found: NDArray[np.bool_]) -> slice:
    """From the first to the last place that holds; `slice(0, 0)` if none does."""
    places = np.flatnonzero(found)
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


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
    turn = np.stack([*map(_to_box, solids)])  # (K + 1, 3, 3)
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
    rays, solid_angle = _sphere_rays(pose)
    hits = _look_around(room, pose)
    points = np.array(pose.position) + hits.distance[:, None] * rays
    # The room itself comes last, where the surface number -1 finds it.
    surfaces: list[Box | Room] = [*room.boxes, room]
    share = np.array([surface.scattering * (1 - surface.absorption) for surface in surfaces])
    across = np.stack([*map(_to_box, room.boxes), np.eye(3)])[hits.surface, hits.axis]  # (N, 3)
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


@lru_cache(maxsize=16)
def _look_around(room: Room, pose: Pose) -> Hits:
    """What a robot hits all around, which finding its place and hearing its echoes both ask for."""
    return cast_rays(room, np.array(pose.position), _sphere_rays(pose)[0].T)


def _sphere_rays(pose: Pose) -> tuple[Array, float]:
    """Unit rays (N, 3) that share the sphere equally, symmetric about the robot's median plane; their solid angle."""
    rows, columns = SCATTER_RAYS
    height = ((np.arange(rows) + 0.5) / rows * 2 - 1)[:, None]  # sine of the elevation
    azimuth = ((np.arange(columns) + 0.5) / columns * 2 - 1) * np.pi
    forward, right, up = pose.axes()
    level = np.cos(azimuth)[:, None] * forward + np.sin(azimuth)[:, None] * right  # (columns, 3)
    rays = np.sqrt(1 - height**2)[..., None] * level + height[..., None] * up
    return rays.reshape(-1, 3), 4 * np.pi / (rows * columns)


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


def _to_box(box: Box) -> Array:
    """Rotation (3, 3) from the room's axes to the box's."""
    cos, sin = np.cos(box.yaw), np.sin(box.yaw)
    return np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])


def _inside(box: Box, point: tuple[float, float, float]) -> bool:
    local = _to_box(box) @ (np.array(point) - np.array(box.center))
    return bool(np.all(np.abs(local) <= 0.5 * np.array(box.size)))
