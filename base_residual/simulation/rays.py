"""Rays cast into a room, and the first surface along each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from base_residual.simulation.rooms import Array, Box, Cylinder, Pose, Room, to_box

SCATTER_RAYS = (32, 64)  # elevations and azimuths of the rays that find scattering surfaces


class Hits(NamedTuple):
    """The ends of N rays.

    Attributes:
        distance: (N,) in ray lengths.
        surface: (N,) what was hit, as an index of `Room.materials`: boxes, cylinders, then the room's six surfaces.
        axis: (N,) the surface's own axis (0, 1 or 2) that is normal to the face; 0 for a cylinder's round side.
    """

    distance: Array
    surface: NDArray[np.int64]
    axis: NDArray[np.int64]


def cast_rays(room: Room, origin: Array, rays: Iterable[Array]) -> Hits:
    """Find the first surface along each ray, by the slab method (Kay and Kajiya, SIGGRAPH 1986).

    Args:
        room: the room and what stands in it.
        origin: (3,) start of all rays, inside the room.
        rays: their x, y and z, three arrays (N,), of any length.

    Returns:
        The hits; a distance of 1 is one ray length.
    """
    x, y, z = map(away_from_zero, rays)
    walls = wall_distances(room, origin, (x, y, z))
    axis = np.where(walls[2] < np.minimum(*walls[:2]), 2, walls[1] < walls[0])
    distance = np.minimum(np.minimum(*walls[:2]), walls[2])
    surface = len(room.boxes) + len(room.cylinders) + 2 * axis + (np.choose(axis, (x, y, z)) > 0)
    for number, box in enumerate(room.boxes):
        enter, leave = slab_crossings(box, origin, (x, y, z))
        level = np.maximum(*enter[:2])
        near, far = np.maximum(level, enter[2]), np.minimum(np.minimum(*leave[:2]), leave[2])
        hit = (near > 0) & (near < far) & (near < distance)
        distance[hit] = near[hit]
        surface[hit] = number
        axis[hit] = np.where(enter[2] > level, 2, enter[1] > enter[0])[hit]
    for number, round_ in enumerate(room.cylinders, start=len(room.boxes)):
        (side, cap), (past, under) = cylinder_crossings(round_, origin, (x, y, z))
        near, far = np.maximum(side, cap), np.minimum(past, under)
        hit = (near > 0) & (near < far) & (near < distance)
        distance[hit] = near[hit]
        surface[hit] = number
        axis[hit] = np.where(cap > side, 2, 0)[hit]
    return Hits(distance, surface, axis)


def away_from_zero(component: Array) -> Array:
    """Replace components of rays that are nearly zero by a small number, so that they can be divided by."""
    return np.where(np.abs(component) < 1e-12, 1e-12, component)


def wall_distances(room: Room, origin: Array, rays: Sequence[Array]) -> list[Array]:
    """Return the distance to the wall ahead across each axis, in ray lengths."""
    return [
        np.where(component > 0, side - place, -place) / component
        for component, side, place in zip(rays, room.size, origin, strict=True)
    ]


def slab_crossings(box: Box, origin: Array, rays: Sequence[Array]) -> tuple[list[Array], list[Array]]:
    """Return the distances at which rays enter and leave each slab of a box, in ray lengths.

    A slab is the space between two opposite faces.
    """
    turn = to_box(box)
    x, y, z = rays
    enter, leave = [], []
    for component, start, side in zip(
        (turn[0, 0] * x + turn[0, 1] * y, turn[1, 0] * x + turn[1, 1] * y, z),
        turn @ (origin - np.array(box.center)),
        box.size,
        strict=True,
    ):
        component = away_from_zero(component)
        half = np.copysign(0.5 * side, component)
        enter.append((-half - start) / component)
        leave.append((half - start) / component)
    return enter, leave


def cylinder_crossings(
    cylinder: Cylinder, origin: Array, rays: Sequence[Array]
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Return the distances at which rays enter and leave a cylinder's round side and its slab, in ray lengths."""
    x, y, z = rays
    start = origin - np.array(cylinder.center)
    square, along = x**2 + y**2, start[0] * x + start[1] * y
    inside = along**2 - square * (start[0] ** 2 + start[1] ** 2 - cylinder.radius**2)
    root = np.sqrt(np.maximum(inside, 0))
    missed = inside <= 0
    round_enter = np.where(missed, np.inf, (-along - root) / square)
    round_leave = np.where(missed, -np.inf, (-along + root) / square)
    half = np.copysign(0.5 * cylinder.height, z)
    return (round_enter, (-half - start[2]) / z), (round_leave, (half - start[2]) / z)


def facing(room: Room, origin: Array, rays: Array, hits: Hits) -> Array:
    """Return the normals (N, 3) of the surfaces that rays (N, 3) hit, towards the air."""
    across = np.stack([*map(to_box, room.boxes), *[np.eye(3)] * (len(room.cylinders) + 6)])[hits.surface, hits.axis]
    for number, round_ in enumerate(room.cylinders, start=len(room.boxes)):
        side = (hits.surface == number) & (hits.axis == 0)
        outward = (origin + hits.distance[side, None] * rays[side] - np.array(round_.center))[:, :2]
        across[side, :2] = outward / round_.radius
    normal: Array = -np.sign((rays * across).sum(axis=1))[:, None] * across
    return normal


@lru_cache(maxsize=16)
def look_around(room: Room, pose: Pose) -> Hits:
    """Return the hits of rays all around a robot; cached, as drawing a pose and rendering its echo both need them."""
    return cast_rays(room, np.array(pose.position), sphere_rays(pose)[0].T)


def sphere_rays(pose: Pose) -> tuple[Array, float]:
    """Return unit rays (N, 3) that divide the sphere equally, and the solid angle of one, in steradians.

    They are symmetric about the robot's median plane.
    """
    rows, columns = SCATTER_RAYS
    height = ((np.arange(rows) + 0.5) / rows * 2 - 1)[:, None]  # sine of the elevation
    azimuth = ((np.arange(columns) + 0.5) / columns * 2 - 1) * np.pi
    forward, right, up = pose.axes()
    level = np.cos(azimuth)[:, None] * forward + np.sin(azimuth)[:, None] * right  # (columns, 3)
    rays = np.sqrt(1 - height**2)[..., None] * level + height[..., None] * up
    return rays.reshape(-1, 3), 4 * np.pi / (rows * columns)
