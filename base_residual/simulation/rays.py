"""Cast rays into a room and find the first surface along each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from base_residual.simulation.rooms import Array, Box, Pose, Room, to_box

SCATTER_RAYS = (32, 64)  # elevations and azimuths of the rays that find scattering surfaces


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
    x, y, z = map(nonzero, rays)
    walls = way_to_walls(room, origin, (x, y, z))
    axis = np.where(walls[2] < np.minimum(*walls[:2]), 2, walls[1] < walls[0])
    distance = np.minimum(np.minimum(*walls[:2]), walls[2])
    surface = np.full(distance.shape, -1)
    for number, box in enumerate(room.boxes):
        enter, leave = through_slabs(box, origin, (x, y, z))
        level = np.maximum(*enter[:2])
        near, far = np.maximum(level, enter[2]), np.minimum(np.minimum(*leave[:2]), leave[2])
        hit = (near > 0) & (near < far) & (near < distance)
        distance[hit] = near[hit]
        surface[hit] = number
        axis[hit] = np.where(enter[2] > level, 2, enter[1] > enter[0])[hit]
    return Hits(distance, surface, axis)


def nonzero(part: Array) -> Array:
    """Coordinates of rays that can be divided by."""
    return np.where(np.abs(part) < 1e-12, 1e-12, part)


def way_to_walls(room: Room, origin: Array, rays: Sequence[Array]) -> list[Array]:
    """Distance to the walls across each axis, in ray lengths."""
    return [
        np.where(part > 0, side - place, -place) / part
        for part, side, place in zip(rays, room.size, origin, strict=True)
    ]


def through_slabs(box: Box, origin: Array, rays: Sequence[Array]) -> tuple[list[Array], list[Array]]:
    """Where rays enter and leave the space between each two opposite faces of a box, in ray lengths."""
    turn = to_box(box)
    x, y, z = rays
    enter, leave = [], []
    for part, start, side in zip(
        (turn[0, 0] * x + turn[0, 1] * y, turn[1, 0] * x + turn[1, 1] * y, z),
        turn @ (origin - np.array(box.center)),
        box.size,
        strict=True,
    ):
        part = nonzero(part)
        half = np.copysign(0.5 * side, part)
        enter.append((-half - start) / part)
        leave.append((half - start) / part)
    return enter, leave


@lru_cache(maxsize=16)
def look_around(room: Room, pose: Pose) -> Hits:
    """What a robot hits all around, which finding its place and hearing its echoes both ask for."""
    return cast_rays(room, np.array(pose.position), sphere_rays(pose)[0].T)


def sphere_rays(pose: Pose) -> tuple[Array, float]:
    """Unit rays (N, 3) that share the sphere equally, symmetric about the robot's median plane; their solid angle."""
    rows, columns = SCATTER_RAYS
    height = ((np.arange(rows) + 0.5) / rows * 2 - 1)[:, None]  # sine of the elevation
    azimuth = ((np.arange(columns) + 0.5) / columns * 2 - 1) * np.pi
    forward, right, up = pose.axes()
    level = np.cos(azimuth)[:, None] * forward + np.sin(azimuth)[:, None] * right  # (columns, 3)
    rays = np.sqrt(1 - height**2)[..., None] * level + height[..., None] * up
    return rays.reshape(-1, 3), 4 * np.pi / (rows * columns)
