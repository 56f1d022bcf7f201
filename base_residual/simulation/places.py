"""What an echo needs to know of a place: the reflections, the patches and the diffuse field around a robot."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np

from base_residual.simulation.rays import facing, look_around, sphere_rays
from base_residual.simulation.reflections import Cuboids, Faces, Paths, far_reflections, mirror_reflections
from base_residual.simulation.reverberation import DiffuseField, measures
from base_residual.simulation.rooms import Array, Box, Pose, Room, to_box

ORDER, FAR_ORDER = 3, 6  # most mirror reflections at all faces, and at the walls of a rectangle alone
MAIN_FACES = 18  # largest faces, which reflections of second and higher order meet
LARGE_ENOUGH = 0.3  # m2: smaller faces scatter, and mirror nothing


class Patches(NamedTuple):
    """The surfaces at the ends of `sphere_rays`, N of them.

    Attributes:
        distance: (N,) in metres.
        normal: (N, 3) towards the air.
        scattered: (N, bands) share of the energy that is scattered.
    """

    distance: Array
    normal: Array
    scattered: Array


class Place(Protocol):
    """A place in which a robot listens."""

    @property
    def order(self) -> int:
        """Return the highest number of mirror reflections that are followed one by one."""
        ...

    def reflections(self, pose: Pose, source: Array, ears: Array, max_order: int, reach: float) -> list[Paths]:
        """Return the mirror reflections from a source (3,) to each of the ears (E, 3), the direct sound first.

        Args:
            pose: of the robot that carries them.
            source: position in metres.
            ears: positions in metres.
            max_order: highest number of reflections.
            reach: metres; longer paths are left out.
        """
        ...

    def patches(self, pose: Pose) -> Patches:
        """Return what a robot sees all around."""
        ...

    def diffuse_field(self, pose: Pose) -> DiffuseField:
        """Return what decides the late reverberation around a robot."""
        ...


@dataclass(frozen=True)
class Furnished:
    """A room and its furniture as a place; with `every`, all faces mirror more than once, else the largest."""

    room: Room
    every: bool

    @property
    def order(self) -> int:
        """Return the highest number of mirror reflections: more where the plan is a plain rectangle."""
        return ORDER if self.every or any(box.fixed for box in self.room.boxes) else FAR_ORDER

    def reflections(self, pose: Pose, source: Array, ears: Array, max_order: int, reach: float) -> list[Paths]:
        """Return the mirror reflections from a source to each of the ears."""
        faces, obstacles, main = surfaces(self.room, self.every)
        near = mirror_reflections(faces, obstacles, source, ears, min(max_order, ORDER), reach, main)
        if max_order <= ORDER:
            return near
        gain = np.stack([material.mirrored for material in self.room.surfaces])
        far = far_reflections(self.room.size, gain, obstacles, source, ears, (ORDER + 1, max_order), reach)
        return [Paths(*map(np.concatenate, zip(*both, strict=True))) for both in zip(near, far, strict=True)]

    def patches(self, pose: Pose) -> Patches:
        """Return what a robot sees all around."""
        rays, hits = sphere_rays(pose)[0], look_around(self.room, pose)
        share = np.stack([material.scattered for material in self.room.materials])  # (surfaces, bands)
        normal = facing(self.room, np.array(pose.position), rays, hits)
        return Patches(hits.distance, normal, share[hits.surface])

    def diffuse_field(self, pose: Pose) -> DiffuseField:
        """Return what decides the late reverberation."""
        return measures(self.room)


@lru_cache(maxsize=1)
def surfaces(room: Room, every: bool) -> tuple[Faces, Cuboids, int]:
    """Return the faces of a room, its solids as obstacles, and how many of the faces reflect more than once.

    With `every`, all do, walls first; otherwise the largest, and small ones mirror nothing.
    """
    middle = (room.size[0] / 2, room.size[1] / 2, room.size[2] / 2)
    blocks = [
        Box(round_.center, (1.4 * round_.radius, 1.4 * round_.radius, round_.height), 0.0, round_.material)
        for round_ in room.cylinders
    ]
    solids = [Box(middle, room.size, 0.0, room.surfaces[0]), *room.boxes]
    center, half = np.array([solid.center for solid in solids]), np.array([solid.size for solid in solids]) / 2
    turn = np.stack([*map(to_box, solids)])  # (K + 1, 3, 3)
    air = np.where(np.arange(len(solids)) == 0, -1, 1)[:, None]  # lies inside the room and outside the furniture
    centers, axes, halves = [], [], []
    for axis in range(3):
        along = [(axis + 1) % 3, (axis + 2) % 3]
        for side in (-1, 1):
            centers.append(center + side * half[:, axis, None] * turn[:, axis])
            axes.append(np.concatenate([turn[:, along], (side * air * turn[:, axis])[:, None]], axis=1))
            halves.append(half[:, along])
    own = np.stack([material.mirrored for material in room.surfaces])  # (6, bands)
    others = np.array([box.material.mirrored for box in room.boxes]).reshape(len(room.boxes), own.shape[1])
    gain = np.concatenate([own, others.repeat(6, axis=0)])
    faces = Faces(
        np.stack(centers, axis=1).reshape(-1, 3),
        np.stack(axes, axis=1).reshape(-1, 3, 3),
        np.stack(halves, axis=1).reshape(-1, 2),
        gain,
    )
    main = len(gain)
    if not every:
        area = 4 * faces.half.prod(axis=1)
        order = np.argsort(-area, kind="stable")
        order = order[area[order] >= LARGE_ENOUGH]
        faces, main = Faces(*(column[order] for column in faces)), min(MAIN_FACES, len(order))
    for block in blocks:
        center = np.concatenate([center, [block.center]])
        turn = np.concatenate([turn, [to_box(block)]])
        half = np.concatenate([half, [np.array(block.size) / 2]])
    return faces, Cuboids(center[1:], turn[1:], half[1:]), main
