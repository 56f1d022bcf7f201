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


class Crossings(NamedTuple):
    """Where N rays cross the K solids of a room, boxes then cylinders, in ray lengths.

    Attributes:
        enter: (K, N) the outline of a solid, seen from above.
        leave: (K, N) the same.
        over: (K, N) the space between its bottom and its top is entered.
        under: (K, N) that space is left.
        across: (K, N) the solid's own axis, 0 or 1, that is normal to the face at which its outline is entered.
    """

    enter: Array
    leave: Array
    over: Array
    under: Array
    across: NDArray[np.int64]


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
    for number, (enter, leave, over, under, across) in enumerate(zip(*crossings(room, origin, (x, y, z)), strict=True)):
        near, far = np.maximum(enter, over), np.minimum(leave, under)
        hit = (near > 0) & (near < far) & (near < distance)
        distance[hit] = near[hit]
        surface[hit] = number
        axis[hit] = np.where(over > enter, 2, across)[hit]
    return Hits(distance, surface, axis)


def away_from_zero(component: Array) -> Array:
    """Replace components of rays that are nearly zero by a small number, so that they can be divided by."""
    nearly = np.abs(component) < 1e-12
    return np.where(nearly, 1e-12, component) if nearly.any() else component


def wall_distances(room: Room, origin: Array, rays: Sequence[Array]) -> list[Array]:
    """Return the distance to the wall ahead across each axis, in ray lengths."""
    return [
        np.where(component > 0, side - place, -place) / component
        for component, side, place in zip(rays, room.size, origin, strict=True)
    ]


def crossings(room: Room, origin: Array, rays: Sequence[Array]) -> Crossings:
    """Find where rays, given by their x, y and z, enter and leave what stands in a room.

    All solids are upright: x and y decide where a ray is within their outline, z where it is between bottom and top.
    """
    x, y, z = rays
    boxes = _outline_of_boxes(room.boxes, origin, x, y)
    cylinders = _outline_of_cylinders(room.cylinders, origin, x, y)
    extents = [(box.center[2], box.size[2]) for box in room.boxes]
    extents += [(round_.center[2], round_.height) for round_ in room.cylinders]
    middle, height = np.array(extents).reshape(-1, 2).T[..., None]
    over, under = slab(middle - origin[2], height, z)
    enter, leave, across = (np.concatenate(pair) for pair in zip(boxes, cylinders, strict=True))
    return Crossings(enter, leave, over, under, across)  # pyrefly: ignore[bad-argument-type]


def slab(middle: Array, thickness: Array, component: Array) -> tuple[Array, Array]:
    """Return where rays enter and leave the space between two parallel faces, seen from the rays' start.

    Args:
        middle: metres to the plane between the faces.
        thickness: metres between them.
        component: of the rays across the faces.
    """
    once = 1 / component
    center, reach = middle * once, thickness / 2 * np.abs(once)
    return center - reach, center + reach


def _outline_of_boxes(
    boxes: Sequence[Box], origin: Array, x: Array, y: Array
) -> tuple[Array, Array, NDArray[np.int64]]:
    """Return where rays enter and leave the outlines of K boxes, and the own axis across which they enter, (K, N)."""
    turn = np.array([to_box(box) for box in boxes]).reshape(-1, 3, 3)
    center = np.array([box.center for box in boxes]).reshape(-1, 3)
    size = np.array([box.size for box in boxes]).reshape(-1, 3)
    middle = (turn @ (center - origin)[..., None])[..., 0]  # (K, 3)
    (first, past), (second, behind) = (
        slab(middle[:, [axis]], size[:, [axis]], away_from_zero(turn[:, [axis], 0] * x + turn[:, [axis], 1] * y))
        for axis in range(2)
    )
    return np.maximum(first, second), np.minimum(past, behind), (second > first).astype(np.int64)


def _outline_of_cylinders(
    cylinders: Sequence[Cylinder], origin: Array, x: Array, y: Array
) -> tuple[Array, Array, NDArray[np.int64]]:
    """Return where rays enter and leave the circles of K cylinders, (K, N), and zeros for the axis."""
    start = origin - np.array([cylinder.center for cylinder in cylinders]).reshape(-1, 3)  # (K, 3)
    radius = np.array([cylinder.radius for cylinder in cylinders])
    square, along = x**2 + y**2, start[:, [0]] * x + start[:, [1]] * y
    inside = along**2 - square * (start[:, 0] ** 2 + start[:, 1] ** 2 - radius**2)[:, None]
    root = np.sqrt(np.maximum(inside, 0))
    missed = inside <= 0
    enter = np.where(missed, np.inf, (-along - root) / square)
    leave = np.where(missed, -np.inf, (-along + root) / square)
    return enter, leave, np.zeros(enter.shape, np.int64)


def facing(room: Room, origin: Array, rays: Array, hits: Hits) -> Array:
    """Return the normals (N, 3) of the surfaces that rays (N, 3) hit, towards the air."""
    across = np.stack([*map(to_box, room.boxes), *[np.eye(3)] * (len(room.cylinders) + 6)])[hits.surface, hits.axis]
    for number, round_ in enumerate(room.cylinders, start=len(room.boxes)):
        side = (hits.surface == number) & (hits.axis == 0)
        outward = (origin + hits.distance[side, None] * rays[side] - np.array(round_.center))[:, :2]
        across[side, :2] = outward / round_.radius
    normal: Array = -np.sign(np.einsum("nc,nc->n", rays, across))[:, None] * across
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
