"""Scenes of one's own: a mesh with materials, in which a robot finds its place, sees and listens."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from base_residual.errors import DataError
from base_residual.simulation.depth import FIELD_OF_VIEW, pixel_slopes
from base_residual.simulation.materials import BANDS, CEILINGS, FLOORS, FURNITURE, SOFT_WALLS, WALLS, Air, draw_material
from base_residual.simulation.meshes import Indices, Mesh, find_words
from base_residual.simulation.places import MAIN_FACES, ORDER, Patches
from base_residual.simulation.rays import sphere_rays
from base_residual.simulation.reflections import Faces, Paths, mirror_reflections
from base_residual.simulation.reverberation import DiffuseField
from base_residual.simulation.rooms import Array, Material, Pose
from base_residual.simulation.spaces import FLAT, ROUGH, SOFT

SOFT_KINDS = (*SOFT_WALLS, "upholstery", "people", "thick carpet", "thin carpet")
CARPETS, WOODEN = ("thin carpet", "thick carpet"), ("wood panel",)
SEATS = ("upholstery",)
WORDS: dict[str, tuple[str, ...]] = {
    "glass": ("heavy glass",), "window": ("window",), "mirror": ("heavy glass",), "screen": ("heavy glass",),
    "carpet": CARPETS, "rug": CARPETS, "curtain": ("light curtain", "heavy curtain"), "drape": ("heavy curtain",),
    "blind": ("light curtain",), "brick": ("brick",), "concrete": ("concrete block",), "stone": ("brick",),
    "plaster": ("plaster",), "gypsum": ("gypsum board",), "drywall": ("gypsum board",), "tile": ("tiles",),
    "ceramic": ("tiles",), "marble": ("tiles",), "metal": ("tiles",), "steel": ("tiles",), "linoleum": ("linoleum",),
    "vinyl": ("linoleum",), "parquet": ("parquet",), "laminate": ("parquet",), "upholstery": SEATS, "sofa": SEATS,
    "couch": SEATS, "armchair": SEATS, "cushion": SEATS, "pillow": SEATS, "bed": SEATS, "mattress": SEATS,
    "fabric": SEATS, "person": ("people",), "people": ("people",), "human": ("people",), "wood": WOODEN,
    "wooden": WOODEN, "oak": WOODEN, "cabinet": WOODEN, "wardrobe": WOODEN, "table": WOODEN, "desk": WOODEN,
    "shelf": WOODEN, "bookcase": WOODEN, "door": WOODEN, "sky": ("sky",), "floor": FLOORS, "ground": FLOORS,
    "ceiling": CEILINGS, "wall": WALLS,
}  # fmt: skip
"""Words in the names of meshes and their materials, and what may be meant; the first word in this order counts."""

BUILDING = (["wall"], ["floor"], ["ceiling"])  # last word of the names of its parts

SAME = 0.05  # metres along a ray: nearer surfaces are one
MOST_PLANES = 40  # that mirror, of those that the robot sees
STAND = (0.3, 1.3)  # metres between floor and head
CLEAR, AHEAD = 0.25, 0.8  # metres to the nearest surface, and the least median depth
ENCLOSED = 0.6  # of all rays from a place within, at least this share meets a surface: more than on a roof
TRIES = 500  # for each pose
TRACED, BOUNCES = 4, 10  # every 4th ray is followed, for so many reflections


@dataclass(frozen=True, eq=False)
class Scene:
    """A mesh whose parts are of these materials."""

    mesh: Mesh
    materials: tuple[Material, ...]
    order = ORDER

    def depth(
        self,
        pose: Pose,
        size: int,
        field_of_view: tuple[float, float] = FIELD_OF_VIEW,
        place: tuple[float, float] = (0.0, 0.0),
        furnished: bool = True,
    ) -> Array:
        """Render depth along the camera's axis, as `render_depth` does for rooms.

        Args:
            pose: the camera's pose.
            size: pixels per side.
            field_of_view: across and upward, in degrees.
            place: of the camera, in metres ahead of the head and above it.
            furnished: with what does not belong to the building.

        Returns:
            (size, size) depth in metres, infinite where nothing is.
        """
        return see(self.mesh, pose, size, field_of_view, place, furnished)

    def reflections(self, pose: Pose, source: Array, ears: Array, max_order: int, reach: float) -> list[Paths]:
        """Return the mirror reflections from a source to each of the ears, by the planes that the robot sees."""
        mesh, planes = self.mesh, self.mesh.planes
        triangle, _ = look_around(mesh, pose)
        seen = mesh.plane[triangle[triangle >= 0]]
        count = np.bincount(seen[seen >= 0], minlength=len(planes.center))
        largest = np.argsort(-count, kind="stable")[:MOST_PLANES]
        largest = largest[count[largest] > 0]
        center, axes = planes.center[largest], planes.axes[largest].copy()
        towards = ((np.array(pose.position) - center) * axes[:, 2]).sum(axis=1)
        axes[:, 2] *= np.copysign(1.0, towards)[:, None]
        faces = Faces(center, axes, planes.half[largest], self._mirrored[largest])
        return mirror_reflections(faces, Surfaces(mesh), source, ears, max_order, reach, min(MAIN_FACES, len(largest)))

    def patches(self, pose: Pose) -> Patches:
        """Return what a robot sees all around; what it does not see is where the mesh ends and scatters nothing."""
        mesh, rays = self.mesh, sphere_rays(pose)[0]
        triangle, distance = look_around(mesh, pose)
        hit = triangle >= 0
        scattered = np.where(hit[:, None], self._table("scattered")[mesh.part[triangle]], 0.0)
        distance = np.where(hit, distance, mesh.leave(np.array(pose.position), rays))
        return Patches(np.maximum(distance, SAME), _towards(mesh.normal[triangle], rays), scattered)

    def diffuse_field(self, pose: Pose) -> DiffuseField:
        """Return what decides the late reverberation, from rays that are scattered from surface to surface.

        A mesh may be open or have surfaces that no sound reaches. So the volume is what the robot sees of it, and mean
        free path and absorption are those of the rays. What leaves the mesh is swallowed where the box around it ends.
        """
        mesh, rays = self.mesh, sphere_rays(pose)[0]
        triangle, distance = look_around(mesh, pose)
        origin = np.array(pose.position)
        ends = np.where(triangle >= 0, distance, mesh.leave(origin, rays))
        volume = max(4 / 3 * np.pi * float((ends**3).mean()), 1.0)
        ways, parts = [], []
        triangle, rays, point = triangle[::TRACED], rays[::TRACED], origin + ends[::TRACED, None] * rays[::TRACED]
        for scattered in _directions(len(rays)):
            going = triangle >= 0
            normal = _towards(mesh.normal[triangle[going]], rays[going])
            start, rays = point[going] + 1e-4 * normal, normal + scattered[: going.sum()]  # by Lambert's law
            rays /= np.linalg.norm(rays, axis=1, keepdims=True)
            if not len(rays):
                break
            triangle, way = mesh.cast(start, rays)
            way = np.where(triangle >= 0, way, mesh.leave(start, rays))
            point = start + way[:, None] * rays
            ways.append(way)
            parts.append(np.where(triangle >= 0, mesh.part[triangle], len(self.materials)))
        if not ways:
            return DiffuseField(volume, 1.0, np.ones(len(BANDS)), np.zeros(len(BANDS)))
        part = np.concatenate(parts)
        absorption = np.concatenate([self._table("absorption"), np.ones((1, len(BANDS)))])[part].mean(axis=0)
        scattering = np.concatenate([self._table("scattering"), np.zeros((1, len(BANDS)))])[part].mean(axis=0)
        return DiffuseField(volume, 4 * volume / max(float(np.concatenate(ways).mean()), 0.1), absorption, scattering)

    @cached_property
    def _mirrored(self) -> Array:
        """Return the share of the amplitude that each plane mirrors, (W, bands), the mean over its triangles."""
        return _plane_means(self.mesh, self._table("mirrored"))

    def _table(self, name: str) -> Array:
        """Return one property of all parts, (parts, bands)."""
        return np.array([getattr(material, name) for material in self.materials])


class Surfaces:
    """The triangles of a mesh as what sound does not pass."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh

    def stop(self, points: Array) -> NDArray[np.bool_]:
        """Return a mask (M,) of the paths through points (P, M, 3) that meet a surface too early, or miss one.

        The robot itself is small: nothing lies between its loudspeaker and its ears.
        """
        start, step = points[:-1], points[1:] - points[:-1]
        length = np.linalg.norm(step, axis=-1)  # (P - 1, M)
        moving = length > 1e-9
        ray = step[moving] / length[moving][:, None]
        _, distance = self._mesh.cast(start[moving] + np.minimum(SAME, length[moving] / 2)[:, None] * ray, ray)
        met = np.full(length.shape, np.inf)
        met[moving] = distance + np.minimum(SAME, length[moving] / 2)
        blocked = moving & (met < length - SAME)
        blocked[:-1] |= moving[:-1] & (met[:-1] > length[:-1] + SAME)  # all but the last end at a surface
        stopped: NDArray[np.bool_] = blocked.any(axis=0) & moving[:-1].any(axis=0)
        return stopped


def see(
    mesh: Mesh,
    pose: Pose,
    size: int,
    field_of_view: tuple[float, float] = FIELD_OF_VIEW,
    place: tuple[float, float] = (0.0, 0.0),
    furnished: bool = True,
) -> Array:
    """Render the depth of a mesh, (size, size) in metres, infinite where nothing is; see `Scene.depth`."""
    forward, right, up = pose.axes()
    across, down = pixel_slopes(size, field_of_view)
    rays = (forward + across[:, None] * right - down[:, None, None] * up).reshape(-1, 3)  # (rows * columns, 3)
    origin = pose.place(forward=place[0], up=place[1])
    depth = mesh.cast(origin, rays)[1]
    if not furnished:  # where the building has a hole behind furniture, that is seen
        bare = mesh.cast(origin, rays, fixed=True)[1]
        depth = np.where(np.isinf(bare), depth, bare)
    return depth.reshape(size, size)


def draw_scene(rng: np.random.Generator, mesh: Mesh) -> tuple[Scene, Air]:
    """Draw the materials of a mesh, and its air."""
    materials = tuple(_draw(rng, name) for name in mesh.names)
    return Scene(mesh, materials), Air(float(rng.uniform(10, 30)), float(rng.uniform(25, 75)))


def draw_stand(rng: np.random.Generator, mesh: Mesh) -> Pose:
    """Draw a pose of the robot: within the mesh, above something level, clear of all surfaces and facing no wall.

    Raises:
        DataError: no try has found one.
    """
    for pose in _stands(rng, mesh):
        triangle, distance = look_around(mesh, pose)
        if (triangle >= 0).mean() < ENCLOSED or distance.min() < CLEAR:
            continue
        depth = see(mesh, pose, 16)
        if np.isfinite(depth).mean() > 0.5 and np.median(depth[np.isfinite(depth)]) >= AHEAD:
            return pose
    raise DataError(
        f"In {TRIES} tries, no place for the robot was found in the scene of {mesh.size}: it needs something level "
        "below it and surfaces around it. Check that the scene is in metres, and which axis points up (y or z)."
    )


def _stands(rng: np.random.Generator, mesh: Mesh) -> Iterator[Pose]:
    """Draw poses at a robot's height above something level."""
    share = mesh.area * (np.abs(mesh.normal[:, 2]) > 0.7)
    if not share.any():
        return
    share = np.cumsum(share / share.sum())
    for _ in range(TRIES):
        triangle = min(int(np.searchsorted(share, rng.random())), len(share) - 1)
        weights = rng.dirichlet((1.0, 1.0, 1.0))
        x, y, z = weights @ mesh.corners[triangle] + [0.0, 0.0, rng.uniform(*STAND)]
        pose = Pose((float(x), float(y), float(z)), float(rng.uniform(-np.pi, np.pi)))
        below = mesh.cast(np.array(pose.position), np.array([[0.0, 0.0, -1.0]]))[1][0]
        if STAND[0] - 1e-6 <= below <= STAND[1] + 1e-6:
            yield pose


def _draw(rng: np.random.Generator, name: str) -> Material:
    """Draw the material of a part by its name; furniture without one that says something is of any."""
    words = find_words(name)
    kinds = next((kinds for word, kinds in WORDS.items() if word in words), FURNITURE)
    kind = str(rng.choice(kinds))
    return draw_material(rng, kind, SOFT if kind in SOFT_KINDS else FLAT if words[-1:] in BUILDING else ROUGH)


@lru_cache(maxsize=4)
def look_around(mesh: Mesh, pose: Pose) -> tuple[Indices, Array]:
    """Return what `sphere_rays` hit; cached, as drawing a pose and rendering its echo both need it."""
    return mesh.cast(np.array(pose.position), sphere_rays(pose)[0])


@lru_cache(maxsize=1)
def _directions(count: int) -> Array:
    """Return directions (BOUNCES, count, 3) all around, the same at each call."""
    drawn = np.random.default_rng(0).standard_normal((BOUNCES, count, 3))
    drawn /= np.linalg.norm(drawn, axis=-1, keepdims=True)
    return drawn


def _towards(normal: Array, rays: Array) -> Array:
    """Return normals (N, 3) on the side from which rays (N, 3) come."""
    return np.where((normal * rays).sum(axis=1, keepdims=True) > 0, -normal, normal)


def _plane_means(mesh: Mesh, table: Array) -> Array:
    """Return the means (W, bands) over the triangles of each plane of a property (parts, bands)."""
    inside = mesh.plane >= 0
    plane, area = mesh.plane[inside], mesh.area[inside]
    total = np.bincount(plane, area, len(mesh.planes.center))
    values = table[mesh.part[inside]]
    columns = [np.bincount(plane, area * column, len(total)) / total for column in values.T]
    return np.stack(columns, axis=1)
