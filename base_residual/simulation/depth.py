"""Depth maps of rooms, as the robot's camera sees them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from base_residual.simulation.rays import away_from_zero, slab_crossings, wall_distances
from base_residual.simulation.rooms import Array, Pose, Room

FIELD_OF_VIEW = np.deg2rad(90.0)  # of the depth camera, both ways


def render_depth(room: Room, pose: Pose, size: int) -> Array:
    """Render depth along the camera's axis, as a stereo camera reports it.

    The camera looks level. So the horizontal part of a ray depends on its column only, its vertical part on its row.

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
    x, y = (away_from_zero(forward[axis] + offset * right[axis]) for axis in range(2))  # by column
    rays, origin = (x, y, away_from_zero(-offset)), np.array(pose.position)  # z by row
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
    return depth


def _extent(mask: NDArray[np.bool_]) -> slice:
    """Return the slice from the first to the last true value; `slice(0, 0)` if none is true."""
    places = np.flatnonzero(mask)
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)
