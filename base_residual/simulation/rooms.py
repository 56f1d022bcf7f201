"""Rooms with furniture, and the pose of a robot in them, in metres; x and y are horizontal, z is up."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Box:
    """A piece of furniture: an upright cuboid in metres, turned by `yaw` radians about the vertical."""

    center: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: float
    absorption: float
    scattering: float


@dataclass(frozen=True)
class Room:
    """A rectangular room: size in metres, energy absorption and scattering share of its surfaces, furniture.

    The scattered energy is added to the mirrored energy; a mirror reflection is not weakened by it.
    """

    size: tuple[float, float, float]
    absorption: float
    scattering: float
    boxes: tuple[Box, ...]

    def mirrored(self) -> Room:
        """Return the room seen in a mirror that swaps low and high y."""
        width = self.size[1]
        boxes = tuple(
            replace(box, center=(box.center[0], width - box.center[1], box.center[2]), yaw=-box.yaw)
            for box in self.boxes
        )
        return replace(self, boxes=boxes)


@dataclass(frozen=True)
class Pose:
    """The pose of the robot's head: its position in metres, and its heading in radians from the x axis."""

    position: tuple[float, float, float]
    heading: float

    def mirrored(self, room: Room) -> Pose:
        """Return the same pose in `room.mirrored()`."""
        x, y, z = self.position
        return Pose((x, room.size[1] - y, z), -self.heading)

    def axes(self) -> tuple[Array, Array, Array]:
        """Return the unit vectors forward, right and up, each (3,)."""
        cos, sin = np.cos(self.heading), np.sin(self.heading)
        return np.array([cos, sin, 0.0]), np.array([sin, -cos, 0.0]), np.array([0.0, 0.0, 1.0])


def to_box(box: Box) -> Array:
    """Return the rotation (3, 3) from the room's axes to the box's."""
    cos, sin = np.cos(box.yaw), np.sin(box.yaw)
    return np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])


def is_inside(box: Box, point: tuple[float, float, float]) -> bool:
    """Return whether a point lies in a box."""
    local = to_box(box) @ (np.array(point) - np.array(box.center))
    return bool(np.all(np.abs(local) <= 0.5 * np.array(box.size)))
