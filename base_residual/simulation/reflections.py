"""Mirror reflections in a room with furniture: the image-source method, all images of an order at a time.

The method is Allen and Berkley's (JASA 65(4), 1979), for rooms that are more than a box Borish's (JASA 75(6), 1984):
the source is mirrored at every face, its images again, and what counts is the image whose way back to the source
meets the faces that made it, with nothing in between. Positions are in metres.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Numbers = NDArray[np.intp]

TOUCH = 1e-9  # metres, or share of a way: what is as near as that touches


class Faces(NamedTuple):
    """Rectangles that reflect.

    Attributes:
        center: (W, 3) in metres.
        axes: (W, 3, 3) unit vectors along two sides, and the normal that points into the air.
        half: (W, 2) half the length of those sides, in metres.
        gain: (W,) share of the amplitude that is reflected.
    """

    center: Array
    axes: Array
    half: Array
    gain: Array


class Blocks(NamedTuple):
    """Cuboids that sound does not pass: `center` (K, 3), `axes` (K, 3, 3) unit vectors, `half` (K, 3) their sides."""

    center: Array
    axes: Array
    half: Array


class Heard(NamedTuple):
    """What one ear hears, the direct sound first: `distance` (N,) in metres, unit vectors `arriving` (N, 3) from the
    ear and `leaving` (N, 3) from the source, and `gain` (N,) of all reflections on the way."""

    distance: Array
    arriving: Array
    leaving: Array
    gain: Array


class _Ways(NamedTuple):
    """Ways to the source: which `ear` (M,) each begins at, the `ray` (M, 3) from there to the image, its `gain` (M,),
    and the `points` (P, M, 3) that it goes through; ways with fewer reflections stay at the ear for a while."""

    ear: Numbers
    ray: Array
    gain: Array
    points: Array


def mirror_reflections(
    faces: Faces, blocks: Blocks, source: Array, ears: Array, max_order: int, reach: float
) -> list[Heard]:
    """Every way from a source to each ear by at most `max_order` reflections.

    Args:
        faces: of walls and furniture.
        blocks: the furniture itself.
        source: (3,) its position, in the air.
        ears: (E, 3) theirs, in the air.
        max_order: highest number of reflections.
        reach: metres; longer ways are left out.

    Returns:
        What each ear hears.
    """
    facing, normal, half = _facing(faces), faces.axes[:, 2], faces.half.T[:, None, None]
    straight = np.stack([*[ears] * (max_order + 1), np.broadcast_to(source, ears.shape)])
    ways = [_Ways(np.arange(len(ears)), source - ears, np.ones(len(ears)), straight)]
    ear_at = _seen_from(faces, ears)[:, :, None]  # (3, E, 1, W)
    images, chain = source[None, None], np.empty((1, 0), np.intp)  # (N, order + 1, 3) from the source on; (N, order)
    for order in range(max_order):
        image_at = _seen_from(faces, images[:, -1])  # (3, N, W)
        ahead = image_at[2]  # metres from each face into the air
        reflects = ahead > 0
        if order:
            reflects &= facing[chain[:, -1]]
        # What is mirrored at a face keeps its place along it.
        before = np.maximum(ear_at[2], TOUCH)
        share = before / (before + np.maximum(ahead, TOUCH))  # (E, N, W) of the way from the ear to the mirrored image
        along = np.abs(ear_at[:2] + share * (image_at[:2, None] - ear_at[:2]))  # (2, E, N, W)
        ear, parent, face = np.nonzero(reflects & (ear_at[2] > 0) & (along <= half + TOUCH).all(axis=0))
        ray = images[parent, -1] - 2 * ahead[parent, face, None] * normal[face] - ears[ear]
        hit = ears[ear] + share[ear, parent, face, None] * ray
        points = np.stack([*[ears[ear]] * (max_order - order), hit])
        last = _Ways(ear, ray, faces.gain[face], points)
        ways.append(_traced_back(faces, last, images[parent], chain[parent]))
        if order + 1 < max_order:
            parent, face = np.nonzero(reflects)
            mirrored = images[parent, -1] - 2 * ahead[parent, face, None] * normal[face]
            images = np.concatenate([images[parent], mirrored[:, None]], axis=1)
            chain = np.concatenate([chain[parent], face[:, None]], axis=1)
    joined = (
        np.concatenate(parts, axis=axis) for parts, axis in zip(zip(*ways, strict=True), (0, 0, 0, 1), strict=True)
    )
    return _heard(blocks, _Ways(*joined), len(ears), reach)


def _facing(faces: Faces) -> NDArray[np.bool_]:
    """(W, W) whether sound can go from one face to the other: each has a corner in front of the other."""
    signs = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    sides = (signs[:, None] * faces.half)[..., None] * faces.axes[:, :2]  # (4, W, 2, 3)
    corners = (faces.center + sides.sum(axis=2)).transpose(1, 0, 2)  # (W, 4, 3)
    normal = faces.axes[:, 2]
    ahead = corners @ normal.T - (normal * faces.center).sum(axis=1)  # (W, 4, W): of which, which corner, before which
    before: NDArray[np.bool_] = ahead.max(axis=1) > TOUCH
    return before & before.T


def _seen_from(faces: Faces, points: Array) -> Array:
    """Places (3, N, W) of points (N, 3) along the axes of each face, from its centre, in metres."""
    axes = faces.axes.transpose(1, 2, 0)  # (3, 3, W)
    places: Array = points @ axes - np.einsum("icw,wc->iw", axes, faces.center)[:, None]
    return places


def _traced_back(faces: Faces, ways: _Ways, images: Array, chain: Numbers) -> _Ways:
    """The ways from the last face on to the source, as far as they meet the faces before it.

    Args:
        faces: that reflect.
        ways: to be continued, M of them.
        images: (M, order + 1, 3) of the source, by the faces before the last.
        chain: (M, order) those faces.
    """
    for back in range(chain.shape[1] - 1, -1, -1):
        face, here = chain[:, back], ways.points[-1]
        axes, center = faces.axes[face], faces.center[face]
        place, step = here - center, images[:, back + 1] - here
        before = (place * axes[:, 2]).sum(axis=1)  # metres; the image lies on the other side
        hit = place - (before / (step * axes[:, 2]).sum(axis=1))[:, None] * step
        along = np.abs((axes[:, :2] @ hit[..., None])[..., 0])  # (M, 2)
        met = (before > -TOUCH) & (along <= faces.half[face] + TOUCH).all(axis=1)
        points = np.concatenate([ways.points, (center + hit)[None]])[:, met]
        ways = _Ways(ways.ear[met], ways.ray[met], (ways.gain * faces.gain[face])[met], points)
        images, chain = images[met], chain[met]
    return ways._replace(points=np.concatenate([ways.points, images[None, :, 0]]))


def _heard(blocks: Blocks, ways: _Ways, ears: int, reach: float) -> list[Heard]:
    """What each ear hears: the ways that are not too long and that nothing stands in."""
    distance = np.sqrt((ways.ray**2).sum(axis=1))
    leaving = ways.points[-2] - ways.points[-1]
    leaving /= np.sqrt((leaving**2).sum(axis=1))[:, None]
    clear = (distance < reach) & ~_blocked(blocks, ways.points[:-1], ways.points[1:]).any(axis=0)
    parts = distance, ways.ray / distance[:, None], leaving, ways.gain
    return [Heard(*(part[clear & (ways.ear == number)] for part in parts)) for number in range(ears)]


def _blocked(blocks: Blocks, start: Array, end: Array) -> NDArray[np.bool_]:
    """Whether a block lies on the straight way from `start` to `end`, each (..., 3); by the slab method."""
    step = end - start
    enter, leave = np.zeros((*step.shape[:-1], len(blocks.center))), np.ones((*step.shape[:-1], len(blocks.center)))
    for axis in range(3):
        unit = blocks.axes[:, axis]  # (K, 3)
        part = step @ unit.T  # (..., K)
        part = np.where(np.abs(part) < 1e-12, 1e-12, part)
        place = start @ unit.T - (unit * blocks.center).sum(axis=1)
        half = np.copysign(blocks.half[:, axis], part)
        enter = np.maximum(enter, (-half - place) / part)
        leave = np.minimum(leave, (half - place) / part)
    return np.asarray((enter + TOUCH < leave).any(axis=-1))
