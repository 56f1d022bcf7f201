"""Rooms with furniture, and the pose of a robot in them, in metres; x and y are horizontal, z is up."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Material:
    """What a surface does to sound, by frequency band.

    Attributes:
        absorption: share of the energy that it swallows, one for each band, or one for all.
        scattering: share of the reflected energy that it scatters.
        adds: whether the scattered energy comes on top of a full mirror reflection, as in the styles "standard" and
            "hard", instead of weakening it.
    """

    absorption: tuple[float, ...]
    scattering: tuple[float, ...]
    adds: bool = False

    @property
    def mirrored(self) -> Array:
        """Return the share of the amplitude that is mirrored, (bands,)."""
        kept = 1 - np.array(self.absorption)
        mirrored: Array = np.sqrt(kept if self.adds else kept * (1 - np.array(self.scattering)))
        return mirrored

    @property
    def scattered(self) -> Array:
        """Return the share of the energy that is scattered, (bands,)."""
        scattered: Array = (1 - np.array(self.absorption)) * np.array(self.scattering)
        return scattered


@dataclass(frozen=True)
class Box:
    """An upright cuboid in metres, turned by `yaw` radians about the vertical.

    `fixed` tells a part of the building, such as a partition or a column, from furniture.
    """

    center: tuple[float, float, float]
    size: tuple[float, float, float]
    yaw: float
    material: Material
    fixed: bool = False


@dataclass(frozen=True)
class Cylinder:
    """An upright cylinder in metres, whose `center` is its middle; `fixed` as for a `Box`."""

    center: tuple[float, float, float]
    radius: float
    height: float
    material: Material
    fixed: bool = False


@dataclass(frozen=True)
class Room:
    """A rectangular room: its size in metres, its surfaces, and what stands in it.

    Attributes:
        size: along x, y and z.
        surfaces: the materials of the walls at low and high x, at low and high y, of the floor and of the ceiling.
        boxes: parts of the building and pieces of furniture.
        cylinders: the round ones.
    """

    size: tuple[float, float, float]
    surfaces: tuple[Material, Material, Material, Material, Material, Material]
    boxes: tuple[Box, ...] = ()
    cylinders: tuple[Cylinder, ...] = field(default=())

    def mirrored(self) -> Room:
        """Return the room seen in a mirror that swaps low and high y."""
        width, (a, b, low, high, floor, ceiling) = self.size[1], self.surfaces
        boxes = tuple(
            replace(box, center=(box.center[0], width - box.center[1], box.center[2]), yaw=-box.yaw)
            for box in self.boxes
        )
        cylinders = tuple(
            replace(round_, center=(round_.center[0], width - round_.center[1], round_.center[2]))
            for round_ in self.cylinders
        )
        return Room(self.size, (a, b, high, low, floor, ceiling), boxes, cylinders)

    def emptied(self) -> Room:
        """Return the room without furniture."""
        boxes = tuple(box for box in self.boxes if box.fixed)
        return replace(self, boxes=boxes, cylinders=tuple(round_ for round_ in self.cylinders if round_.fixed))

    @property
    def solids(self) -> tuple[Box | Cylinder, ...]:
        """Return what stands in the room: boxes, then cylinders."""
        return (*self.boxes, *self.cylinders)

    @property
    def materials(self) -> tuple[Material, ...]:
        """Return the materials of boxes, cylinders and the six surfaces, in the order in which `Hits` count them."""
        return (*(solid.material for solid in self.solids), *self.surfaces)


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

    def place(self, forward: float = 0.0, right: float = 0.0, up: float = 0.0) -> Array:
        """Return the position (3,) of something that the robot carries, in metres from its head."""
        axes = self.axes()
        position: Array = np.array(self.position) + forward * axes[0] + right * axes[1] + up * axes[2]
        return position


def to_box(box: Box) -> Array:
    """Return the rotation (3, 3) from the room's axes to the box's."""
    cos, sin = np.cos(box.yaw), np.sin(box.yaw)
    return np.array([[cos, sin, 0.0], [-sin, cos, 0.0], [0.0, 0.0, 1.0]])


def is_inside(solid: Box | Cylinder, point: tuple[float, float, float]) -> bool:
    """Return whether a point lies in a box or a cylinder."""
    local = np.array(point) - np.array(solid.center)
    if isinstance(solid, Cylinder):
        return bool(np.hypot(*local[:2]) <= solid.radius and abs(local[2]) <= solid.height / 2)
    return bool(np.all(np.abs(to_box(solid) @ local) <= 0.5 * np.array(solid.size)))
