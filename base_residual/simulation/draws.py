"""Random rooms of the styles "standard" and "hard", and poses in any room, which a generator alone decides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from base_residual.simulation.depth import render_depth
from base_residual.simulation.rays import look_around
from base_residual.simulation.rooms import Box, Material, Pose, Room, is_inside


@dataclass(frozen=True)
class Style:
    """A distribution of shoebox rooms: ranges as (low, high), lengths in metres.

    Attributes:
        length: of the two horizontal sides.
        height: of the ceiling.
        furniture: number of boxes, inclusive.
        absorption: energy share that walls and furniture swallow, at all frequencies.
        noise: standard deviation of the microphones' noise, relative to the chirp at 1 m.
    """

    length: tuple[float, float] = (3.0, 9.0)
    height: tuple[float, float] = (2.3, 4.0)
    furniture: tuple[int, int] = (2, 7)
    absorption: tuple[float, float] = (0.05, 0.4)
    noise: tuple[float, float] = (0.0005, 0.002)


STYLES = {
    "standard": Style(),
    # Longer and taller rooms, more furniture, more absorption and more noise than in "standard".
    "hard": Style(
        length=(2.5, 10.5), height=(2.2, 5.0), furniture=(5, 12), absorption=(0.2, 0.6), noise=(0.002, 0.006)
    ),
}


def draw_room(rng: np.random.Generator, style: Style) -> Room:
    """Draw a room with furniture that stands on the floor or hangs at a wall."""
    size = (rng.uniform(*style.length), rng.uniform(*style.length), rng.uniform(*style.height))
    boxes = []
    for _ in range(rng.integers(style.furniture[0], style.furniture[1] + 1)):
        box = draw_box(rng, size)
        if box is not None:
            center, extent, yaw = box
            boxes.append(Box(center, extent, yaw, _draw_material(rng, style, (0.2, 0.6))))
    return Room(size, (_draw_material(rng, style, (0.05, 0.3)),) * 6, tuple(boxes))


def _draw_material(rng: np.random.Generator, style: Style, scattering: tuple[float, float]) -> Material:
    return Material((float(rng.uniform(*style.absorption)),), (float(rng.uniform(*scattering)),), adds=True)


def draw_box(
    rng: np.random.Generator, size: tuple[float, float, float]
) -> tuple[tuple[float, float, float], tuple[float, float, float], float] | None:
    """Draw centre, size and yaw of a box in a room of that size, at a wall or free; None if it does not fit."""
    extent = rng.uniform([0.3, 0.3, 0.3], [1.8, 0.9, min(2.0, size[2] - 0.2)])
    yaw = rng.choice([0.0, np.pi / 2]) if rng.random() < 0.6 else rng.uniform(0, np.pi)
    reach = 0.5 * np.abs([[np.cos(yaw), np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]]) @ extent[:2] + 0.02
    if np.any(2 * reach >= np.array(size[:2])):
        return None
    x, y = rng.uniform(reach, np.array(size[:2]) - reach)
    if rng.random() < 0.5:  # against one of the walls
        side = rng.integers(4)
        x = {0: reach[0], 1: size[0] - reach[0]}.get(int(side), x)
        y = {2: reach[1], 3: size[1] - reach[1]}.get(int(side), y)
    bottom = 0.02 if rng.random() < 0.85 else rng.uniform(0.02, size[2] - extent[2] - 0.02)
    center = (float(x), float(y), float(bottom + extent[2] / 2))
    return center, (float(extent[0]), float(extent[1]), float(extent[2])), float(yaw)


def draw_pose(
    rng: np.random.Generator,
    room: Room,
    margin: float = 0.5,
    ahead: float = 0.8,
    height: tuple[float, float] = (0.3, 1.3),
) -> Pose | None:
    """Draw a pose of the robot, clear of walls and furniture; None if thirty tries find none.

    Args:
        rng: decides.
        room: to stand in.
        margin: metres to the rectangle's walls.
        ahead: least median depth of its view, in metres; otherwise it faces a wall.
        height: of the head, lowest and highest, in metres.
    """
    for _ in range(30):
        x, y = rng.uniform(margin, np.array(room.size[:2]) - margin)
        pose = Pose((float(x), float(y), float(rng.uniform(*height))), float(rng.uniform(-np.pi, np.pi)))
        if any(is_inside(solid, pose.position) for solid in room.solids):
            continue
        if look_around(room, pose).distance.min() < 0.25:
            continue
        if np.median(render_depth(room, pose, 16)) >= ahead:
            return pose
    return None
