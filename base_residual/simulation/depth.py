"""Depth maps of rooms, as the robot's camera sees them."""

from __future__ import annotations

import numpy as np

from base_residual.config.presets import VIEWS
from base_residual.simulation.rays import away_from_zero, crossings, wall_distances
from base_residual.simulation.rooms import Array, Pose, Room

FIELD_OF_VIEW = VIEWS["ideal"]  # of the depth camera across and upward, in degrees


def pixel_slopes(size: int, field_of_view: tuple[float, float]) -> tuple[Array, Array]:
    """Return how far to the right each column looks, and how far down each row, per metre ahead, (S,) each."""
    centres = (np.arange(size) + 0.5) / size * 2 - 1
    across, down = (centres * np.tan(np.deg2rad(angle) / 2) for angle in field_of_view)
    return across, down


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
    across, down = pixel_slopes(size, field_of_view)
    x, y = (away_from_zero(forward[axis] + across * right[axis]) for axis in range(2))  # by column
    rays, origin = (x, y, away_from_zero(-down)), pose.place(forward=place[0], up=place[1])  # z by row
    walls = wall_distances(room, origin, rays)
    depth = np.minimum(np.minimum(*walls[:2]), walls[2][:, None])
    enter, leave, over, under, _ = crossings(room, origin, rays)
    for solid in np.flatnonzero(((enter < leave) & (leave > 0)).any(axis=1)):
        near = np.maximum(enter[solid], over[solid, :, None])
        hit = (near > 0) & (near < np.minimum(leave[solid], under[solid, :, None])) & (near < depth)
        np.copyto(depth, near, where=hit)
    return depth
