"""Triangle meshes of places: read in metres with z up, told into parts and planes, and ray cast."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from base_residual.errors import DataError, MissingExtraError, first_line
from base_residual.simulation.places import LARGE_ENOUGH
from base_residual.simulation.rooms import Array

Indices = NDArray[np.int64]

SUFFIXES = {".glb": "y", ".obj": "z", ".ply": "z", ".stl": "z", ".off": "z"}
"""Formats that are read, and the axis that points up in each unless something else is said: glTF has a rule."""

EXTENT = (0.5, 200.0)  # metres that a place's longest side may have
MAX_TRIANGLES = 5_000_000
WELD = 1e-4  # metres: corners this near are one
STEEP = 0.7  # of a normal's upward part: below, a surface counts as a wall
LIKE_A_WALL = 0.6  # of the mesh's own extent: parts that are as long, or nearly as high, belong to the building
FLAT_ANGLE, FLAT_DEPTH = np.cos(np.deg2rad(25.0)), 0.02  # what may lie in one plane: triangles of a scan are not exact
MAX_PLANES, PLANE_TRIES = 60, 30  # and after how many in a row that are too small the rest is no plane
FITS = 12  # of a plane to its triangles, at most
MAX_PARTS = 256


class Planes(NamedTuple):
    """Large flat surfaces, W of them, each with the rectangle around its triangles.

    Attributes:
        center: (W, 3) in metres.
        axes: (W, 3, 3) unit vectors along two sides, and the normal, on either side.
        half: (W, 2) half the length of those sides, in metres.
    """

    center: Array
    axes: Array
    half: Array


class Mesh:
    """A place of triangles, whatever the order of their corners.

    Attributes:
        corners: (T, 3, 3) of each triangle, in metres, z up.
        normal: (T, 3) on either side.
        area: (T,) in m2.
        bounds: (2, 3) lowest and highest coordinates.
        part: (T,) number of the part to which a triangle belongs; a part is of one material.
        names: (parts,) names in the file, and "floor", "ceiling" or "wall" behind them if it is one of the building.
        fixed: (T,) whether a triangle belongs to the building.
        plane: (T,) number of the plane in which a triangle lies; -1 for none.
        planes: the planes.
    """

    def __init__(self, corners: Array, names: list[str], name: Indices) -> None:
        """Take triangles of some area, the names in the file, and which of these each triangle has, (T,)."""
        across = _across(corners)
        double = np.linalg.norm(across, axis=1)
        self.corners, self.area = corners, double / 2
        self.normal: Array = across / double[:, None]
        self.bounds = np.stack([corners.min(axis=(0, 1)), corners.max(axis=(0, 1))])
        self.part, self.names, self.fixed = _tell_parts(corners, self.normal, self.area, names, name)
        self.plane, self.planes = _find_planes(corners, self.normal, self.area)
        self._offset: Array = (self.normal * corners[:, 0]).sum(axis=1)

    @property
    def size(self) -> str:
        """Return length, width and height as text."""
        return " x ".join(f"{side:.2f}" for side in self.bounds[1] - self.bounds[0]) + " m"

    @cached_property
    def _casters(self) -> tuple[Any, Any, Indices]:
        """Return what casts rays at everything, at the building alone, and the building's triangles."""
        building = np.flatnonzero(self.fixed)
        whole = _caster(self.corners)
        return whole, whole if len(building) == len(self.corners) else _caster(self.corners[building]), building

    def cast(self, origins: Array, rays: Array, fixed: bool = False) -> tuple[Indices, Array]:
        """Find the first triangle along each ray.

        Args:
            origins: (N, 3), or (3,) for all.
            rays: (N, 3) of any length.
            fixed: whether rays pass furniture.

        Returns:
            (N,) triangles, -1 where there is none, and (N,) distances in ray lengths, infinite there.
        """
        whole, alone, building = self._casters
        origins = np.broadcast_to(origins, rays.shape)
        triangle: Indices = np.asarray((alone if fixed else whole).intersects_first(origins, rays), dtype=np.int64)
        hit = triangle >= 0
        if fixed and len(building):
            triangle[hit] = building[triangle[hit]]
        normal = self.normal[triangle]
        before = self._offset[triangle] - (origins * normal).sum(axis=1)
        across = (rays * normal).sum(axis=1)
        hit &= np.abs(across) > 1e-12
        distance = np.full(len(rays), np.inf)
        distance[hit] = np.maximum(before[hit] / across[hit], 0.0)
        return np.where(hit, triangle, -1), distance

    def leave(self, origins: Array, rays: Array) -> Array:
        """Return the distances (N,), in ray lengths, at which rays leave the box around the mesh."""
        safe = np.where(np.abs(rays) < 1e-12, 1e-12, rays)
        ends: Array = np.where(safe > 0, self.bounds[1] - origins, self.bounds[0] - origins) / safe
        distance: Array = np.maximum(ends.min(axis=1), 0.1)
        return distance


def read_mesh(path: Path, up: str = "auto") -> Mesh:
    """Read a place from a file that trimesh reads, in metres.

    Args:
        path: of one of `SUFFIXES`.
        up: axis that points up in the file, "y" or "z"; "auto" takes that of the format.

    Raises:
        DataError: the file is missing, broken, empty or not in metres.
        MissingExtraError: a package that reads or casts is not installed.
    """
    if not path.is_file():  # a device has no end
        raise DataError(f"There is no file {path}. Give a triangle mesh.")
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"The scene {path} is none of {', '.join(SUFFIXES)}. Save it in one of these formats.")
    return _read(path, SUFFIXES[path.suffix.lower()] if up == "auto" else up, path.stat().st_mtime_ns)


@lru_cache(maxsize=1)
def _read(path: Path, up: str, changed: int) -> Mesh:
    try:
        import trimesh
        import trimesh.ray.ray_pyembree
    except ImportError:
        raise MissingExtraError("A scene of one's own", "scenes") from None
    try:
        loaded: Any = trimesh.load_scene(path)
        pieces = [
            (np.asarray(trimesh.transform_points(shape.vertices, matrix))[shape.faces], name)
            for shape, matrix, name in _shapes(loaded, path.name)
        ]
    except Exception as error:  # trimesh has no exception of its own: any can come from a broken file
        raise DataError(f"The scene {path} cannot be read: {first_line(error)[:120]}.") from error
    names = sorted({name for _, name in pieces})
    name = np.repeat([names.index(name) for _, name in pieces], [len(triangles) for triangles, _ in pieces])
    corners = np.concatenate([triangles for triangles, _ in pieces] or [np.zeros((0, 3, 3))]).astype(np.float64)
    finite = np.isfinite(corners).all(axis=(1, 2))
    corners, name = corners[finite], name[finite]
    wide = np.linalg.norm(_across(corners), axis=1) > 1e-10  # m2: others are lines
    corners, name = corners[wide], name[wide]
    if not len(corners) or len(corners) > MAX_TRIANGLES:
        raise DataError(f"The scene {path} has {len(corners):,} triangles. Expected are 1 to {MAX_TRIANGLES:,}.")
    longest = float(np.ptp(corners, axis=(0, 1)).max())
    if not EXTENT[0] <= longest <= EXTENT[1]:
        raise DataError(
            f"The scene {path} is {longest:g} m long. Expected are {EXTENT[0]:g} to {EXTENT[1]:g} m: "
            "scale it to metres."
        )
    if up == "y":
        corners = np.stack([corners[..., 0], -corners[..., 2], corners[..., 1]], axis=-1)
    return Mesh(corners, names, name)


def _shapes(loaded: Any, file: str) -> Iterator[tuple[Any, Array, str]]:
    """Yield each mesh of a loaded scene with its transform (4, 4) and the names that tell what it is made of."""
    for node in sorted(loaded.graph.nodes_geometry):
        matrix, key = loaded.graph[node]
        shape = loaded.geometry[key]
        if hasattr(shape, "faces"):  # neither lines nor points
            material = getattr(getattr(shape.visual, "material", None), "name", None)
            yield shape, matrix, f"{material or ''} {key} {node}".replace(file, "")  # trimesh's name for the nameless


def _across(corners: Array) -> Array:
    """Return the cross products (T, 3) of two sides of triangles (T, 3, 3)."""
    return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def _caster(corners: Array) -> Any:
    """Return what casts rays at triangles (T, 3, 3)."""
    from trimesh import Trimesh
    from trimesh.ray.ray_pyembree import RayMeshIntersector

    shape = Trimesh(corners.reshape(-1, 3), np.arange(3 * len(corners)).reshape(-1, 3), process=False)
    return RayMeshIntersector(shape)


def find_words(name: str) -> list[str]:
    """Return the words of a name such as "CoffeeTable_02", in small letters and without a plural's s."""
    parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
    return [word for part in parts for word in (part.lower(), part.lower().removesuffix("s"))]


def _tell_parts(
    corners: Array, normal: Array, area: Array, names: list[str], name: Indices
) -> tuple[Indices, tuple[str, ...], NDArray[np.bool_]]:
    """Tell triangles into parts of one material each; return part and name of it, and what belongs to the building.

    What is connected and has one name is of one material. A connected part that is about as long or as high as the
    whole mesh belongs to the building, whose floor, ceiling and walls are told by their slope and height.
    """
    from scipy.sparse import coo_matrix  # slow to import
    from scipy.sparse.csgraph import connected_components

    _, corner = np.unique(np.round(corners.reshape(-1, 3) / WELD).astype(np.int64), axis=0, return_inverse=True)
    corner = corner.reshape(-1, 3)
    ends = np.concatenate([corner[:, :2], corner[:, 1:]])
    count = int(corner.max()) + 1
    links = coo_matrix((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), (count, count))
    piece = connected_components(links, directed=False)[1][corner[:, 0]].astype(np.int64)
    low, high = (np.full((count, 3), sign * np.inf) for sign in (1, -1))
    np.minimum.at(low, piece, corners.min(axis=1))
    np.maximum.at(high, piece, corners.max(axis=1))
    bottom, top = corners.min(axis=(0, 1)), corners.max(axis=(0, 1))
    long = (high - low)[piece] >= LIKE_A_WALL * np.maximum(top - bottom, 1e-9)
    long[:, 2] &= (high - low)[piece, 2] > 0.8 * (top - bottom)[2]
    fixed = long.any(axis=1)
    fixed |= not fixed.any()  # nothing is large: all of it is what there is
    level, above = np.abs(normal[:, 2]) > STEEP, corners[:, :, 2].mean(axis=1) > (bottom + top)[2] / 2
    slope = np.where(~fixed, 0, np.where(~level, 1, np.where(above, 2, 3)))
    keys, part = np.unique(np.stack([name, piece, slope], axis=1), axis=0, return_inverse=True)
    part = part.ravel().astype(np.int64)
    if len(keys) > MAX_PARTS:  # the smallest share their materials
        rank = np.empty(len(keys), np.int64)
        rank[np.argsort(-np.bincount(part, area), kind="stable")] = np.arange(len(keys))
        first = np.argsort(rank)[:MAX_PARTS]
        keys, part = keys[first], rank[part] % MAX_PARTS
    kinds = ("", "wall", "ceiling", "floor")
    return part, tuple(f"{names[row[0]]} {kinds[row[2]]}" for row in keys), fixed


def _find_planes(corners: Array, normal: Array, area: Array) -> tuple[Indices, Planes]:
    """Find the large planes, the plane of the largest triangle first; return each triangle's plane, or -1, and them."""
    plane, left, failed = np.full(len(area), -1), np.arange(len(area)), 0
    found: list[tuple[Array, Array, Array]] = []
    while len(left) and failed < PLANE_TRIES and len(found) < MAX_PLANES:
        seed = int(area[left].argmax())
        mine, across, place = _grow(corners[left], normal[left], area[left], seed)
        failed += 1
        if area[left[mine]].sum() >= LARGE_ENOUGH:
            plane[left[mine]], failed = len(found), 0
            found.append(_rectangle(corners[left[mine]].reshape(-1, 3), across, place))
        left = np.delete(left, mine)
    center, axes, half = (np.array(column) for column in zip(*found, strict=True)) if found else _NO_PLANES
    return plane, Planes(center, axes, half)


def _grow(corners: Array, normal: Array, area: Array, seed: int) -> tuple[Indices, Array, float]:
    """Return the triangles in the plane of one, and its normal (3,) and place along it.

    A small triangle of a scan has an inexact normal, so that the plane is fitted again as long as more of them fit.
    """
    mine, across, middle = np.array([seed]), normal[seed], corners.mean(axis=1)
    place = float(middle[seed] @ across)
    for _ in range(FITS):
        slope = normal @ across
        level = np.flatnonzero(np.abs(slope) > FLAT_ANGLE)
        near = np.abs(corners[level] @ across - place).max(axis=1) < FLAT_DEPTH
        grown = level[near | (level == seed)]
        if len(grown) <= len(mine) and len(mine) > 1:
            break
        mine = grown
        across = (area[mine, None] * normal[mine] * np.sign(slope[mine, None])).sum(axis=0)
        across /= np.linalg.norm(across)
        place = float(np.average(middle[mine] @ across, weights=area[mine]))
    return mine, across, place


_NO_PLANES = np.zeros((0, 3)), np.zeros((0, 3, 3)), np.zeros((0, 2))


def _rectangle(points: Array, normal: Array, place: float) -> tuple[Array, Array, Array]:
    """Return centre, axes and half lengths of the rectangle in a plane around points (N, 3)."""
    level = np.cross([0.0, 0.0, 1.0], normal) if abs(normal[2]) < 0.9 else np.cross(normal, [0.0, 1.0, 0.0])
    level /= np.linalg.norm(level)
    axes = np.stack([level, np.cross(normal, level), normal])
    along = points @ axes[:2].T
    low, high = along.min(axis=0), along.max(axis=0)
    center: Array = (low + high) / 2 @ axes[:2] + place * normal
    return center, axes, (high - low) / 2
