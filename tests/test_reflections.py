from __future__ import annotations

import numpy as np
import pyroomacoustics as pra
import pytest
from scipy.spatial.distance import cdist

from base_residual.simulation import places
from base_residual.simulation.draws import STYLES, draw_pose, draw_room
from base_residual.simulation.places import surfaces
from base_residual.simulation.reflections import (
    FAINT,
    Faces,
    Paths,
    _facing,
    far_reflections,
    mirror_reflections,
)
from base_residual.simulation.rooms import Box, Material, Pose, Room


def shoebox(size: tuple[float, float, float], absorption: float, boxes: tuple[Box, ...] = ()) -> Room:
    return Room(size, (plain(absorption),) * 6, boxes)


def plain(absorption: float) -> Material:
    return Material((absorption,), (0.1,), adds=True)


EARS = np.array([[0.0, -0.1, 0.0], [0.0, 0.1, 0.0]])


def heard_in(room: Room, source: np.ndarray, max_order: int, reach: float = np.inf) -> list[Paths]:
    faces, blocks, count = surfaces(room, every=True)
    return mirror_reflections(faces, blocks, source, source + EARS, max_order, reach, count)


class Furnished(pra.Room):
    """Knows that only furniture stands in the way; the library looks for it too long, and does not find all of it."""

    def _init_room_engine(self) -> None:
        super()._init_room_engine(self.walls, list(range(6, len(self.walls))))


def pyroomacoustics_reflections(faces: Faces, source: np.ndarray, ears: np.ndarray, max_order: int) -> list[np.ndarray]:
    """What each ear hears according to the library: distance, arriving, leaving and gain of each way, (N, 8)."""
    walls = []
    for center, axes, half, gain in zip(*faces, strict=True):
        along, across = half[:, None] * axes[:2]
        corners = center + np.stack([-along - across, along - across, along + across, -along + across])
        if np.cross(along, across) @ axes[2] > 0:  # the library wants normals that point away from the air
            corners = corners[::-1]
        walls.append(pra.wall_factory(corners.T, np.array([1 - gain[0] ** 2]), np.array([0.0])))
    model = Furnished(walls, fs=44_100, max_order=max_order)
    model.add_source(source)
    model.add_microphone_array(ears.T)
    model.image_source_model()
    found = model.sources[0]
    heard = []
    for ear, place in enumerate(ears):
        seen = model.visibility[0][ear].astype(bool)
        rays = found.images.T[seen] - place
        distance = np.linalg.norm(rays, axis=1)[:, None]
        heard.append(
            np.hstack([distance, rays / distance, found.directions[ear].T[seen], found.damping[0][seen, None]])
        )
    return heard


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seed", range(4))
def test_reflections_are_those_that_pyroomacoustics_finds(seed: int, style: str) -> None:
    rng = np.random.default_rng(seed)
    room = draw_room(rng, STYLES[style])
    pose = draw_pose(rng, room)
    assert pose is not None
    # Turned at random: no way meets an edge, where float32 decides.
    source, right = np.array(pose.position), pose.axes()[1]
    ears = np.stack([source - 0.1 * right, source + 0.1 * right])
    faces, blocks, count = surfaces(room, every=True)
    ours = mirror_reflections(faces, blocks, source, ears, 3, np.inf, count)
    theirs = pyroomacoustics_reflections(faces, source, ears, 3)
    for heard, expected in zip(ours, theirs, strict=True):
        found = np.column_stack(heard)
        assert found.shape == expected.shape
        assert len(found) > 20
        apart = cdist(found, expected)  # the library computes in float32
        assert apart.min(axis=0).max() < 1e-4
        assert apart.min(axis=1).max() < 1e-4


def test_ways_that_are_too_long_are_left_out_and_no_others() -> None:
    room = shoebox((5.0, 4.0, 3.0), 0.2, (Box((3.5, 2.0, 0.7), (1.0, 1.5, 1.0), 0.4, plain(0.1)),))
    source = np.array([1.5, 1.8, 1.2])
    whole, near = (heard_in(room, source, 3, reach) for reach in (np.inf, 9.0))
    for every, some in zip(whole, near, strict=True):
        kept = every.distance < 9.0
        assert 0 < kept.sum() < len(kept)
        for part, other in zip(every, some, strict=True):
            np.testing.assert_array_equal(part[kept], other)


def test_an_empty_room_mirrors_the_source_in_each_wall_and_furniture_hides_some() -> None:
    room, source = shoebox((6.0, 5.0, 3.0), 0.36), np.array([2.0, 2.0, 1.5])
    (left, _) = heard_in(room, source, 1)
    images = source + EARS[0] + left.distance[:, None] * left.arriving
    walls = [[-2, 2, 1.5], [10, 2, 1.5], [2, -2, 1.5], [2, 8, 1.5], [2, 2, -1.5], [2, 2, 4.5]]
    np.testing.assert_allclose(images, [source, *walls], atol=1e-12)
    np.testing.assert_allclose(left.gain, [[1.0], *[[0.8]] * 6])
    screen = Box((4.0, 2.0, 1.5), (0.2, 3.0, 2.0), 0.0, plain(0.36))  # before the far wall
    (left, _) = heard_in(shoebox(room.size, 0.36, (screen,)), source, 1)
    images = source + EARS[0] + left.distance[:, None] * left.arriving
    expected = [source, *walls[:1], *walls[2:], [5.8, 2, 1.5]]  # the screen's front stands at 3.9 m
    np.testing.assert_allclose(images, expected, atol=1e-12)


@pytest.mark.parametrize("order", [3, 4])
def test_the_lattice_of_a_rectangle_holds_what_mirroring_finds_around_furniture(order: int) -> None:
    size, source = (4.1, 3.3, 2.6), np.array([1.3, 1.1, 0.9])
    box = Box((2.6, 1.9, 0.7), (0.5, 0.8, 1.4), 0.4, plain(1.0))  # which mirrors nothing
    walls = tuple(plain(share) for share in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
    room = Room(size, walls, (box,))  # type: ignore[arg-type]
    faces, blocks, count = surfaces(room, every=True)
    ears = source + EARS[1:] + np.array([0.03, 0.0, 0.05])  # no way meets an edge
    found = mirror_reflections(faces, blocks, source, ears, order, 30.0, count)
    fewer = mirror_reflections(faces, blocks, source, ears, order - 1, 30.0, count)
    gain = np.stack([wall.mirrored for wall in walls])
    for ours, theirs, near in zip(
        far_reflections(size, gain, blocks, source, ears, (order, order), 30.0), found, fewer, strict=True
    ):
        far, every, known = (np.column_stack(paths) for paths in (ours, theirs, near))
        new = every[(cdist(every, known).min(axis=1) > 1e-6) & (every[:, -1] > FAINT)]
        assert len(far) == len(new) > 20
        assert cdist(far, new).min(axis=0).max() < 1e-9
        assert cdist(far, new).min(axis=1).max() < 1e-9


@pytest.mark.parametrize("corner", [(-1, -1), (-1, 1), (1, -1), (1, 1)])
def test_one_corner_before_another_face_is_enough_for_sound_to_go_there(corner: tuple[int, int]) -> None:
    axes, _ = np.linalg.qr(np.array([[1.0, 0.0, 0.3 * corner[0]], [0.0, 1.0, 0.2 * corner[1]], [0.0, 0.0, 1.0]]).T)
    tilted = (axes * np.sign(np.diag(axes))).T  # its sides rise towards that corner
    half = np.array([[30.0, 30.0], [0.5, 0.4]])
    highest = float(half[1] @ np.abs(tilted[:2, 2]))
    for above in (True, False):
        center = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, -highest + (1e-3 if above else -1e-3)]])
        found = _facing(Faces(center, np.stack([np.eye(3), tilted]), half, np.ones((2, 1))))
        assert found[0, 1] == found[1, 0] == above


def test_faces_of_a_third_of_a_square_metre_mirror_and_the_largest_ones_more_than_once() -> None:
    small = Box((3.0, 2.5, 0.4), (0.5, 0.58, 0.62), 0.2, plain(0.1))  # 0.29 m2 on top, 0.31 and 0.36 at the sides
    faces, _, main = surfaces(shoebox((6.0, 5.0, 3.0), 0.2, (small,)), every=False)
    assert (len(faces.gain), main) == (6 + 4, 10)
    assert np.all(np.diff(faces.half.prod(axis=1)) <= 1e-12)
    large = tuple(Box((1.0 + 2 * place, 1.5, 0.8), (0.8, 0.9, 1.5), 0.1, plain(0.1)) for place in range(3))
    faces, _, main = surfaces(shoebox((6.0, 5.0, 3.0), 0.2, large), every=False)
    assert (len(faces.gain), main) == (24, 18)


def test_small_faces_reflect_once_and_the_main_ones_more_often() -> None:
    faces, blocks, _ = surfaces(shoebox((6.0, 5.0, 3.0), 0.2), every=True)
    source = np.array([2.0, 2.0, 1.5])
    counts = [
        len(mirror_reflections(faces, blocks, source, source + EARS, order, np.inf, main=2)[0].distance)
        for order in (1, 2, 3)
    ]
    assert counts == [1 + 6, 1 + 6 + 2, 1 + 6 + 2 + 2]


def test_walls_that_swallow_all_send_nothing_from_afar() -> None:
    room, source = shoebox((4.1, 3.3, 2.6), 1 - 1e-4), np.array([1.3, 1.1, 0.9])
    place, pose = places.Furnished(room, False), Pose((1.3, 1.1, 0.9), 0.0)
    near, far = (place.reflections(pose, source, source + EARS, order, 30.0) for order in (3, 6))
    for few, every in zip(near, far, strict=True):
        assert len(few.distance) == len(every.distance) > 0


def test_a_rectangle_is_followed_further_than_other_plans() -> None:
    room = shoebox((4.0, 3.0, 2.5), 0.2)
    wall = Box((2.0, 0.5, 1.25), (0.1, 1.0, 2.5), 0.0, plain(0.2), fixed=True)
    orders = [places.Furnished(room, False).order, places.Furnished(room, True).order]
    orders.append(places.Furnished(Room(room.size, room.surfaces, (wall,)), False).order)
    assert orders == [6, 3, 3]
