"""Depth maps of rooms, as the robot's camera sees them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from base_residual.simulation.rays import away_from_zero, cylinder_crossings, slab_crossings, wall_distances
from base_residual.simulation.rooms import Array, Pose, Room

FIELD_OF_VIEW = (90.0, 90.0)  # of the depth camera across and upward, in degrees


def render_depth(
    room: Room,
    pose: Pose,
    size: int,
    field_of_view: tuple[float, float] = FIELD_OF_VIEW,
    place: tuple[float, float] = (0.0, 0.0),
) -> Array:
    """Render depth along the camera's axis, as a stereo camera reports it.

    The camera looks level. So the horizontal part of a ray depends on its column only, its vertical part on its row.

    Args:
        room: the room.
        pose: the camera's pose.
        size: pixels per side.
        field_of_view: across and upward, in degrees.
        place: of the camera, in metres ahead of the head and above it.

    Returns:
        (size, size) depth in metres, row 0 on top, column 0 on the left.
    """
    forward, right, _ = pose.axes()
    centres = (np.arange(size) + 0.5) / size * 2 - 1  # (S,)
    across, down = (centres * np.tan(np.deg2rad(angle) / 2) for angle in field_of_view)
    x, y = (away_from_zero(forward[axis] + across * right[axis]) for axis in range(2))  # by column
    rays, origin = (x, y, away_from_zero(-down)), pose.place(forward=place[0], up=place[1])  # z by row
    walls = wall_distances(room, origin, rays)
    depth = np.minimum(np.minimum(*walls[:2]), walls[2][:, None])
    for box in room.boxes:
        enter, leave = slab_crossings(box, origin, rays)
        level, past = np.maximum(*enter[:2]), np.minimum(*leave[:2])
        columns = _extent((level < past) & (past > 0))
        if columns.stop == 0:
            continue
        rows = _extent((enter[2] < past[columns].max()) & (leave[2] > level[columns].min()) & (leave[2] > 0))
        seen = depth[rows, columns]
        near = np.maximum(level[columns], enter[2][rows, None])
        hit = (near > 0) & (near < np.minimum(past[columns], leave[2][rows, None])) & (near < seen)
        np.copyto(seen, near, where=hit)
    for round_ in room.cylinders:
        (side, cap), (past, under) = cylinder_crossings(round_, origin, rays)
        near = np.maximum(side, cap[:, None])
        hit = (near > 0) & (near < np.minimum(past, under[:, None])) & (near < depth)
        np.copyto(depth, near, where=hit)
    return depth


def _extent(mask: NDArray[np.bool_]) -> slice:
    """Return the slice from the first to the last true value; `slice(0, 0)` if none is true."""
    places = np.flatnonzero(mask)
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)
