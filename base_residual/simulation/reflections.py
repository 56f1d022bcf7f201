"""Mirror reflections in a room with furniture, by the image-source method, all images of an order at a time.

The method is Allen and Berkley's (JASA 65(4), 1979), extended by Borish (JASA 75(6), 1984) to rooms that are more than
a box. The source is mirrored at every face, and its images again. An image is audible if the path from the ear back to
the source meets the faces that made the image, and no obstacle. Positions are in metres.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from base_residual.simulation.rays import away_from_zero, slab
from base_residual.simulation.rooms import Array

Indices = NDArray[np.intp]

TOUCH = 1e-9  # metres, or share of a path: within this distance two things touch
FAINT = 0.01  # of the amplitude: paths of many reflections that keep less in each band are left out


class Faces(NamedTuple):
    """Rectangles that reflect.

    Attributes:
        center: (W, 3) in metres.
        axes: (W, 3, 3) unit vectors along two sides, and the normal that points into the air.
        half: (W, 2) half the length of those sides, in metres.
        gain: (W, bands) share of the amplitude that is reflected.
    """

    center: Array
    axes: Array
    half: Array
    gain: Array


class Obstacles(Protocol):
    """What sound does not pass."""

    def stop(self, points: Array) -> NDArray[np.bool_]:
        """Return a mask (M,) of the paths through points (P, M, 3), from the ears to the source, that are blocked."""
        ...


class Cuboids(NamedTuple):
    """Cuboids that sound does not pass.

    Attributes:
        center: (K, 3) in metres.
        axes: (K, 3, 3) unit vectors along the sides.
        half: (K, 3) half the length of the sides, in metres.
    """

    center: Array
    axes: Array
    half: Array

    def stop(self, points: Array) -> NDArray[np.bool_]:
        """Return a mask (M,) of the paths through points (P, M, 3) that cross one of them."""
        return np.asarray(_crossed(self, points[:-1], points[1:]).any(axis=0))


class Paths(NamedTuple):
    """The paths of sound from the source to one ear, the direct one first.

    Attributes:
        distance: (N,) in metres.
        arriving: (N, 3) unit vectors from the ear towards the last face.
        leaving: (N, 3) unit vectors from the source towards the first face.
        gain: (N, bands) of all reflections on the path.
    """

    distance: Array
    arriving: Array
    leaving: Array
    gain: Array


class _TracedPaths(NamedTuple):
    """Paths from the ears back to the source.

    Attributes:
        ear: (M,) index of the ear at which each begins.
        ray: (M, 3) from the ear to the image, in metres.
        gain: (M, bands) of all reflections.
        points: (P, M, 3) that it goes through; a path with fewer reflections repeats its ear.
    """

    ear: Indices
    ray: Array
    gain: Array
    points: Array


def mirror_reflections(
    faces: Faces, obstacles: Obstacles, source: Array, ears: Array, max_order: int, reach: float, main: int
) -> list[Paths]:
    """Find the paths from a source to each ear with at most `max_order` reflections.

    Args:
        faces: of walls and furniture.
        obstacles: the furniture itself.
        source: (3,) its position, in the air.
        ears: (E, 3) their positions, in the air.
        max_order: highest number of reflections.
        reach: metres; longer paths are left out.
        main: number of faces, the first of all, that a path with more than one reflection meets.

    Returns:
        The paths to each ear.
    """
    facing, normal, half = _facing(faces), faces.axes[:, 2], faces.half.T[:, None, None]
    straight = np.stack([*[ears] * (max_order + 1), np.broadcast_to(source, ears.shape)])
    traced = [_TracedPaths(np.arange(len(ears)), source - ears, np.ones((len(ears), faces.gain.shape[1])), straight)]
    ear_at = _face_coordinates(faces, ears)[:, :, None]  # (3, E, 1, W)
    images, chain = source[None, None], np.empty((1, 0), np.intp)  # (N, order + 1, 3) from the source on; (N, order)
    for order in range(max_order):
        if order == 1:
            faces, ear_at = Faces(*(column[:main] for column in faces)), ear_at[..., :main]
            facing, normal, half = facing[:main, :main], normal[:main], half[..., :main]
        image_at = _face_coordinates(faces, images[:, -1])  # (3, N, W)
        ahead = image_at[2]  # metres from each face into the air
        reflects = ahead > 0
        if order:
            reflects &= facing[chain[:, -1]]
        # Mirroring keeps the coordinates along the face.
        before = np.maximum(ear_at[2], TOUCH)
        share = before / (before + np.maximum(ahead, TOUCH))  # (E, N, W) of the way from the ear to the mirrored image
        along = np.abs(ear_at[:2] + share * (image_at[:2, None] - ear_at[:2]))  # (2, E, N, W)
        ear, parent, face = np.nonzero(reflects & (ear_at[2] > 0) & (along <= half + TOUCH).all(axis=0))
        ray = images[parent, -1] - 2 * ahead[parent, face, None] * normal[face] - ears[ear]
        hit = ears[ear] + share[ear, parent, face, None] * ray
        points = np.stack([*[ears[ear]] * (max_order - order), hit])
        last = _TracedPaths(ear, ray, faces.gain[face], points)
        traced.append(_trace_back(faces, last, images[parent], chain[parent]))
        if order + 1 < max_order:
            parent, face = np.nonzero(reflects[:, :main])
            mirrored = images[parent, -1] - 2 * ahead[parent, face, None] * normal[face]
            images = np.concatenate([images[parent], mirrored[:, None]], axis=1)
            chain = np.concatenate([chain[parent], face[:, None]], axis=1)
    joined = (
        np.concatenate(parts, axis=axis) for parts, axis in zip(zip(*traced, strict=True), (0, 0, 0, 1), strict=True)
    )
    return _audible(obstacles, _TracedPaths(*joined), len(ears), reach)


def far_reflections(
    size: tuple[float, float, float],
    gain: Array,
    obstacles: Obstacles,
    source: Array,
    ears: Array,
    orders: tuple[int, int],
    reach: float,
) -> list[Paths]:
    """Find the paths of many reflections in a rectangular room, in which only its six sides mirror.

    The images form a lattice (Allen and Berkley, JASA 65(4), 1979): cell q of an axis lies beyond |q| walls. What
    stands in the way is decided once for all ears, from the middle between them.

    Args:
        size: of the room, in metres.
        gain: (6, bands) of its sides: low and high x, low and high y, floor and ceiling.
        obstacles: the furniture.
        source: (3,) its position.
        ears: (E, 3) their positions.
        orders: lowest and highest number of reflections.
        reach: metres; longer paths are left out.

    Returns:
        The paths to each ear.
    """
    cell, walls = _lattice(*orders)
    sides, middle = np.array(size), ears.mean(axis=0)
    kept: Array = np.exp(walls @ np.log(np.maximum(gain, FAINT)))  # (N, bands)
    audible = kept.max(axis=1) > FAINT
    cell, kept = cell[audible], kept[audible]
    images = cell * sides + np.where(cell % 2 == 0, source, sides - source)  # (N, 3)
    # A wall between cells p - 1 and p of an axis lies at p times the side: the straight way crosses p = 1 to q, or 0
    # down to q + 1. Ways that cross fewer walls repeat their beginning.
    ray, place = images - middle, np.arange(orders[1])
    wall = np.where(cell[..., None] > 0, place + 1, -place) * sides[:, None]  # (N, 3, order)
    share = (wall - middle[:, None]) / away_from_zero(ray)[..., None]
    share = np.where(place < np.abs(cell)[..., None], share, 0.0).reshape(len(ray), 3 * orders[1])
    share = np.sort(share, axis=1)[:, -orders[1] :]
    folded = np.abs((middle + share.T[..., None] * ray + sides) % (2 * sides) - sides)  # (order, N, 3)
    begin, end = (np.broadcast_to(place, (1, *ray.shape)) for place in (middle, source))
    clear = ~obstacles.stop(np.concatenate([begin, folded, end]))
    leaving = folded[-1] - source
    leaving /= np.sqrt((leaving**2).sum(axis=1))[:, None]
    heard = []
    for ear in ears:
        ray = images - ear
        distance = np.sqrt((ray**2).sum(axis=1))
        near = clear & (distance < reach)
        columns = distance, ray / distance[:, None], leaving, kept
        heard.append(Paths(*(column[near] for column in columns)))
    return heard


@lru_cache(maxsize=2)
def _lattice(least: int, most: int) -> tuple[Indices, Indices]:
    """Return the cells (N, 3) of images with so many reflections, and how often each side reflects, (N, 6)."""
    axis = np.arange(-most, most + 1)
    cell = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    order = np.abs(cell).sum(axis=1)
    cell = cell[(order >= least) & (order <= most)]
    first, second = (np.abs(cell) + 1) // 2, np.abs(cell) // 2  # what lies on the image's side reflects first
    walls = np.stack([np.where(cell > 0, second, first), np.where(cell > 0, first, second)], axis=2)
    return cell, walls.reshape(-1, 6)


def _facing(faces: Faces) -> NDArray[np.bool_]:
    """Return a mask (W, W) of the pairs of faces between which sound can go: each has a corner before the other."""
    signs = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    sides = (signs[:, None] * faces.half)[..., None] * faces.axes[:, :2]  # (4, W, 2, 3)
    corners = (faces.center + sides.sum(axis=2)).transpose(1, 0, 2)  # (W, 4, 3)
    normal = faces.axes[:, 2]
    ahead = corners @ normal.T - (normal * faces.center).sum(axis=1)  # (W, 4, W): metres of a corner before a face
    before: NDArray[np.bool_] = ahead.max(axis=1) > TOUCH
    return before & before.T


def _face_coordinates(faces: Faces, points: Array) -> Array:
    """Return the coordinates (3, N, W) of points (N, 3) along the axes of each face, from its centre, in metres."""
    axes = faces.axes.transpose(1, 2, 0)  # (3, 3, W)
    coordinates: Array = points @ axes - np.einsum("icw,wc->iw", axes, faces.center)[:, None]
    return coordinates


def _trace_back(faces: Faces, paths: _TracedPaths, images: Array, chain: Indices) -> _TracedPaths:
    """Continue paths from the last face back to the source; drop those that miss one of the faces before it.

    Args:
        faces: that reflect.
        paths: from the ears to the last face, M of them.
        images: (M, order + 1, 3) of the source, by the faces before the last.
        chain: (M, order) indices of those faces.
    """
    for back in range(chain.shape[1] - 1, -1, -1):
        face, here = chain[:, back], paths.points[-1]
        axes, center = faces.axes[face], faces.center[face]
        place, step = here - center, images[:, back + 1] - here
        before = (place * axes[:, 2]).sum(axis=1)  # metres; the image lies on the other side
        hit = place - (before / (step * axes[:, 2]).sum(axis=1))[:, None] * step
        along = np.abs((axes[:, :2] @ hit[..., None])[..., 0])  # (M, 2)
        met = (before > -TOUCH) & (along <= faces.half[face] + TOUCH).all(axis=1)
        points = np.concatenate([paths.points, (center + hit)[None]])[:, met]
        paths = _TracedPaths(paths.ear[met], paths.ray[met], (paths.gain * faces.gain[face])[met], points)
        images, chain = images[met], chain[met]
    return paths._replace(points=np.concatenate([paths.points, images[None, :, 0]]))


def _audible(obstacles: Obstacles, paths: _TracedPaths, ears: int, reach: float) -> list[Paths]:
    """Return the paths to each ear that are shorter than `reach` and meet no obstacle."""
    distance = np.sqrt((paths.ray**2).sum(axis=1))
    leaving = paths.points[-2] - paths.points[-1]
    leaving /= np.sqrt((leaving**2).sum(axis=1))[:, None]
    clear = (distance < reach) & ~obstacles.stop(paths.points)
    columns = distance, paths.ray / distance[:, None], leaving, paths.gain
    return [Paths(*(column[clear & (paths.ear == ear)] for column in columns)) for ear in range(ears)]


def _crossed(cuboids: Cuboids, start: Array, end: Array) -> NDArray[np.bool_]:
    """Return a mask (...) of segments `start` to `end`, each (..., 3), that cross a cuboid, by the slab method."""
    step = end - start
    shape = (*step.shape[:-1], len(cuboids.center))
    enter, leave = np.zeros(shape), np.ones(shape)
    for axis in range(3):
        unit = cuboids.axes[:, axis]  # (K, 3)
        middle = (unit * cuboids.center).sum(axis=1) - start @ unit.T  # (..., K)
        ahead, behind = slab(middle, 2 * cuboids.half[:, axis], away_from_zero(step @ unit.T))
        enter, leave = np.maximum(enter, ahead), np.minimum(leave, behind)
    return np.asarray((enter + TOUCH < leave).any(axis=-1))
