from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import reverberant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import resample_poly

from base_residual.acoustics.chirp import SAMPLE_RATE, ChirpDesign
from base_residual.errors import ConfigError
from base_residual.simulation.depth import render_depth
from base_residual.simulation.directivity import Pattern
from base_residual.simulation.draws import STYLES, Style, draw_pose, draw_room
from base_residual.simulation.echo import SPEED_OF_SOUND, Chance, draw_still, render_echo
from base_residual.simulation.rays import SCATTER_RAYS, cast_rays, look_around
from base_residual.simulation.rigs import EAR_DISTANCE, Rig
from base_residual.simulation.rooms import Box, Material, Pose, Room, is_inside

SILENT = np.zeros((2, 3112))
QUIET = Chance(np.zeros(SCATTER_RAYS), SILENT, SILENT)
PLAIN = Material((0.1,), (0.1,), adds=True)
IDEAL = Rig()
OMNI = Pattern((1.0, 0.0, 0.0), 0.0)


def empty_room(size: tuple[float, float, float] = (8.0, 6.0, 3.0)) -> Room:
    return shoebox(size)


def shoebox(size: tuple[float, float, float], *boxes: Box) -> Room:
    return Room(size, (PLAIN,) * 6, boxes)


def drawn(seed: int) -> tuple[Room, Pose, Chance]:
    rng = np.random.default_rng(seed)
    while True:
        room = draw_room(rng, STYLES["standard"])
        pose = draw_pose(rng, room)
        if pose is not None:
            return room, pose, draw_still(rng, 2000)


@pytest.mark.parametrize("distance", [0.8, 1.7, 3.1, 4.6])
def test_a_wall_answers_after_twice_its_distance_within_a_sample(distance: float) -> None:
    room = empty_room((distance + 30.0, 60.0, 60.0))  # all other walls are far away
    pose = Pose((30.0, 30.0, 30.0), heading=0.0)
    template = ChirpDesign().waveform()
    for ear in render_echo(room, pose, IDEAL, QUIET, max_order=1):
        compressed = np.abs(np.correlate(ear, template, "valid"))
        compressed[: int(2 * 0.4 / SPEED_OF_SOUND * SAMPLE_RATE)] = 0  # the direct sound
        # The ears sit 0.1 m beside the loudspeaker, which makes the way a little longer.
        way = np.hypot(2 * distance, 0.1)
        assert compressed.argmax() == pytest.approx(way / SPEED_OF_SOUND * SAMPLE_RATE, abs=1)


@settings(max_examples=6)
@given(seed=st.integers(0, 100_000))
def test_mirroring_the_room_swaps_the_ears(seed: int) -> None:
    room, pose, chance = drawn(seed)
    here = render_echo(room, pose, IDEAL, chance)
    there = render_echo(room.mirrored(), pose.mirrored(room), IDEAL, chance.mirrored())
    np.testing.assert_allclose(there[::-1], here, atol=1e-9 * np.abs(here).max())


def test_the_mirror_reverses_azimuths_and_swaps_ears() -> None:
    chance = reverberant(np.random.default_rng(0), 5)
    (left, right), mirrored = chance.noise, chance.mirrored()
    np.testing.assert_array_equal(mirrored.noise, [right, left])
    np.testing.assert_array_equal(mirrored.roughness, np.fliplr(chance.roughness))
    np.testing.assert_array_equal(mirrored.field, chance.field[:, ::-1])
    assert chance.rank is not None
    np.testing.assert_array_equal(mirrored.rank, chance.rank[:, ::-1])


@settings(max_examples=30)
@given(seed=st.integers(0, 100_000))
def test_mirroring_the_room_flips_the_depth_map(seed: int) -> None:
    room, pose, _ = drawn(seed)
    there = render_depth(room.mirrored(), pose.mirrored(room), 24)
    np.testing.assert_allclose(there[:, ::-1], render_depth(room, pose, 24), rtol=1e-9)


def test_the_depth_of_an_empty_room_is_the_analytic_one() -> None:
    room, size = empty_room(), 16
    depth = render_depth(room, Pose((2.0, 2.0, 1.0), heading=0.0), size)
    for row in range(size):
        for column in range(size):
            right = (column + 0.5) / size * 2 - 1  # tangent of the angle, since tan 45 degrees is 1
            up = 1 - (row + 0.5) / size * 2
            ahead = 6.0
            sideways = (2.0 if right > 0 else 4.0) / abs(right)  # heading along x, right is towards y = 0
            vertical = (2.0 if up > 0 else 1.0) / abs(up)
            assert depth[row, column] == pytest.approx(min(ahead, sideways, vertical))


@settings(max_examples=30)
@given(seed=st.integers(0, 100_000))
def test_the_depth_map_holds_what_each_ray_hits_first(seed: int) -> None:
    room, pose, _ = drawn(seed)
    forward, right, up = pose.axes()
    across = (np.arange(24) + 0.5) / 24 * 2 - 1
    rays = forward + across[:, None] * right - across[:, None, None] * up  # (rows, columns, 3)
    hits = cast_rays(room, np.array(pose.position), rays.reshape(-1, 3).T)
    np.testing.assert_allclose(render_depth(room, pose, 24).ravel(), hits.distance, rtol=1e-9)


def test_a_longer_recording_begins_like_a_shorter_one() -> None:
    room, pose, _ = drawn(4)
    quiet = (Chance(np.ones(SCATTER_RAYS), SILENT[:, :n], SILENT[:, :n]) for n in (900, 3112))
    short, long = (render_echo(room, pose, IDEAL, chance) for chance in quiet)
    # But for the ringing of what is beyond 22 kHz.
    np.testing.assert_allclose(long[:, :900], short, atol=1e-4 * np.abs(short).max())


def test_a_box_in_front_hides_the_wall() -> None:
    box = Box((5.0, 3.0, 1.5), (1.0, 1.0, 1.0), 0.0, PLAIN)
    room = shoebox((8.0, 6.0, 3.0), box)
    depth = render_depth(room, Pose((2.0, 3.0, 1.5), heading=0.0), 33)
    assert depth[16, 16] == pytest.approx(2.5)
    turned = shoebox(room.size, Box(box.center, box.size, np.pi / 4, PLAIN))
    nearest = render_depth(turned, Pose((2.0, 3.0, 1.5), heading=0.0), 33)[16, 16]
    assert nearest == pytest.approx(3.0 - np.sqrt(0.5), abs=0.02)


def test_energy_falls_with_distance_by_the_inverse_square() -> None:
    energies = []
    for distance in (1.0, 2.0, 4.0):
        room = empty_room((distance + 30.0, 60.0, 60.0))
        echo = render_echo(room, Pose((30.0, 30.0, 30.0), heading=0.0), IDEAL, QUIET, max_order=1)
        after_direct_sound = int(0.004 * SAMPLE_RATE)
        energies.append(float((echo[:, after_direct_sound:] ** 2).sum()))
    ratios = np.array(energies[:-1]) / energies[1:]
    np.testing.assert_allclose(ratios, 4.0, rtol=0.05)


@settings(max_examples=8)
@given(seed=st.integers(0, 100_000))
def test_a_loudspeaker_and_an_ear_may_change_places(seed: int) -> None:
    """Where neither has a direction: the left ear of a robot beside the first one hears what its right ear hears."""
    room, pose, chance = drawn(seed)
    quiet = Chance(0 * chance.roughness, 0 * chance.noise, 0 * chance.field)
    rig = Rig(ears=OMNI, speaker=OMNI)
    _, right, _ = pose.axes()
    moved = Pose(tuple(np.array(pose.position) + right * EAR_DISTANCE / 2), pose.heading)
    here, there = render_echo(room, pose, rig, quiet)[1], render_echo(room, moved, rig, quiet)[0]
    # Positions are rounded as in the mirrored room.
    np.testing.assert_allclose(there, here, atol=2e-3 * np.abs(here).max())


def test_furniture_is_heard_through_its_diffuse_reflection() -> None:
    room, pose, chance = drawn(3)
    bare = render_echo(replace(room, boxes=()), pose, IDEAL, chance)
    full = render_echo(room, pose, IDEAL, chance)
    assert np.abs(full - bare).max() > 0.02 * np.abs(full).max()


def test_an_ear_hears_nothing_of_a_surface_that_it_is_behind() -> None:
    smooth, rough = (Material((0.1,), (share,), adds=True) for share in (0.0, 0.5))
    # The plane of the box's side passes between the head and the left ear; a screen hides the box's front.
    screen = Box((3.995, 3.55, 1.5), (0.01, 1.0, 3.0), 0.0, smooth)
    chance = Chance(np.ones(SCATTER_RAYS), SILENT, SILENT)
    heard = [
        render_echo(
            shoebox((8.0, 6.0, 3.0), screen, Box((4.5, 3.55, 1.5), (1.0, 1.0, 3.0), 0.0, material)),
            Pose((3.5, 3.0, 1.5), 0.0),
            IDEAL,
            chance,
            max_order=0,
        )
        for material in (smooth, rough)
    ]
    left, right = np.abs(heard[1] - heard[0]).max(axis=1)
    assert left == 0
    assert right > 0


@pytest.mark.parametrize("style", STYLES)
def test_rooms_hold_their_furniture_and_the_robot_stands_free(style: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        room = draw_room(rng, STYLES[style])
        for box in room.boxes:
            cos, sin = abs(np.cos(box.yaw)), abs(np.sin(box.yaw))
            reach = 0.5 * np.array([cos * box.size[0] + sin * box.size[1], sin * box.size[0] + cos * box.size[1]])
            assert (np.array(box.center[:2]) - reach > 0).all()
            assert (np.array(box.center[:2]) + reach < room.size[:2]).all()
            assert 0 < box.center[2] - box.size[2] / 2 < box.center[2] + box.size[2] / 2 < room.size[2]
        pose = draw_pose(rng, room)
        if pose is not None:
            assert np.median(render_depth(room, pose, 16)) >= 0.8


def test_furniture_that_does_not_fit_is_left_out() -> None:
    narrow = Style(length=(0.8, 0.8), furniture=(20, 20))
    room = draw_room(np.random.default_rng(0), narrow)
    assert 0 < len(room.boxes) < 20
    assert all(np.hypot(*box.size[:2]) < 2 * 0.8 for box in room.boxes)


def test_furniture_stays_two_decimetres_below_a_low_ceiling() -> None:
    room = draw_room(np.random.default_rng(0), Style(height=(1.0, 1.0), furniture=(100, 100)))
    assert 0.75 < max(box.size[2] for box in room.boxes) <= 0.8


def test_furniture_stands_on_the_floor_or_hangs_and_is_against_each_wall_as_often() -> None:
    room = draw_room(np.random.default_rng(0), Style(length=(9.0, 9.0), height=(2.3, 2.3), furniture=(500, 500)))
    size, places = np.array([box.size for box in room.boxes]), np.array([box.center for box in room.boxes])
    bottom, top = places[:, 2] - size[:, 2] / 2, places[:, 2] + size[:, 2] / 2
    on_the_floor = np.isclose(bottom, 0.02)
    assert 0.8 < on_the_floor.mean() < 0.9
    assert bottom.min() > 0.02 - 1e-9
    assert 2.25 < top[~on_the_floor].max() < 2.28 + 1e-9
    turn = np.abs(np.cos([box.yaw for box in room.boxes])), np.abs(np.sin([box.yaw for box in room.boxes]))
    reach = np.stack([turn[0] * size[:, 0] + turn[1] * size[:, 1], turn[1] * size[:, 0] + turn[0] * size[:, 1]]) / 2
    for axis in range(2):
        for gap in (places[:, axis] - reach[axis], 9.0 - places[:, axis] - reach[axis]):
            assert 0.08 < np.isclose(gap, 0.02).mean() < 0.17  # an eighth, but for chance


@pytest.mark.parametrize(("name", "least", "most"), [("standard", 2, 7), ("hard", 5, 12)])
def test_a_room_holds_as_much_furniture_as_its_style_says(name: str, least: int, most: int) -> None:
    style, rng = replace(STYLES[name], length=(9.0, 9.0)), np.random.default_rng(0)  # where all of it fits
    assert {len(draw_room(rng, style).boxes) for _ in range(80)} == {*range(least, most + 1)}


def test_the_robot_stands_as_near_to_furniture_as_it_may_and_never_inside() -> None:
    room = shoebox((6.0, 6.0, 3.0), Box((3.0, 3.0, 1.25), (3.5, 3.5, 2.5), 0.0, PLAIN))
    poses = [pose for seed in range(100) if (pose := draw_pose(np.random.default_rng(seed), room))]
    assert len(poses) == 100  # of thirty tries, many fail
    assert not any(is_inside(room.boxes[0], pose.position) for pose in poses)
    assert 0.25 <= min(look_around(room, pose).distance.min() for pose in poses) < 0.26
    assert 0.8 <= min(np.median(render_depth(room, pose, 16)) for pose in poses) < 0.83


def test_a_room_without_a_place_for_the_robot_is_given_up_after_thirty_tries() -> None:
    rng, other = np.random.default_rng(0), np.random.default_rng(0)
    assert draw_pose(rng, empty_room((1.0, 1.0, 2.5))) is None  # half a metre from each wall, it faces one
    other.random(30 * 4)
    assert rng.random() == other.random()


def test_the_chirp_sweeps_for_three_milliseconds() -> None:
    chirp = ChirpDesign().waveform()
    assert len(chirp) == round(0.003 * SAMPLE_RATE)
    assert np.abs(chirp).max() <= 1
    assert np.abs(chirp[[0, -1]]).max() < 0.1


def test_a_slower_recording_holds_the_lower_part_of_the_chirp() -> None:
    held, heard = ChirpDesign().waveform(16_000), resample_poly(ChirpDesign().waveform(96_000), 1, 6)
    assert len(held) == len(heard) == 48
    likeness = np.correlate(held, heard, "full").max() / np.linalg.norm(held) / np.linalg.norm(heard)
    assert likeness > 0.99  # and 0.7 where frequencies above 8 kHz come back as lower ones


@pytest.mark.parametrize(
    "bound", [{"duration": 1.0}, {"fade": 0.0}, {"fade": 0.5}, {"start_hz": 1.0, "end_hz": 0.5}], ids=str
)
def test_a_chirp_may_lie_on_its_bounds(bound: dict[str, float]) -> None:
    assert np.isfinite(ChirpDesign(**bound).waveform(8000)).all()


@pytest.mark.parametrize(
    "beyond",
    [{"duration": 0.0}, {"duration": 1.01}, {"fade": -0.01}, {"fade": 0.51}, {"start_hz": 0.0}, {"end_hz": 0.0}],
)
def test_a_chirp_beyond_its_bounds_is_refused(beyond: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="There is no such chirp"):
        ChirpDesign(**beyond)


def test_the_shortest_fade_is_one_sample_and_nothing_is_resampled_below_half_the_rate() -> None:
    plain = ChirpDesign(start_hz=100.0, end_hz=200.0, fade=0.0).waveform(10_000)
    assert len(plain) == 30
    t = np.arange(30) / 10_000
    sweep = np.sin(2 * np.pi * (100 * t + 0.5 * (100 / 0.003) * t**2))
    np.testing.assert_allclose(plain[1:-1], sweep[1:-1], atol=1e-12)  # the first and the last sample are the fades
    assert plain[-1] == pytest.approx(0.5 * sweep[-1])
    at_the_limit = ChirpDesign(start_hz=100.0, end_hz=5000.0).waveform(10_000)
    np.testing.assert_allclose(at_the_limit[3:6], np.sin(2 * np.pi * (100 * t + 0.5 * (4900 / 0.003) * t**2))[3:6])


def test_a_chirp_is_low_passed_at_each_rate_that_cannot_hold_it() -> None:
    chirp = ChirpDesign()
    np.testing.assert_allclose(chirp.waveform(22_050), resample_poly(chirp.waveform(44_100), 1, 2))


def test_a_camera_elsewhere_sees_less_or_more_of_an_empty_room() -> None:
    room = Room((6.0, 5.0, 3.0), (Material((0.2,), (0.1,)),) * 6)
    size, angles, place = 16, (100.0, 40.0), (0.4, 0.3)
    depth = render_depth(room, Pose((1.0, 2.0, 1.2), 0.0), size, angles, place)
    centres = (np.arange(size) + 0.5) / size * 2 - 1
    across, down = (centres * np.tan(np.deg2rad(angle) / 2) for angle in angles)
    beside = np.where(across > 0, 2.0, 3.0) / np.abs(across)  # the right wall is at y = 0
    level = np.where(down > 0, 1.5, 1.5) / np.abs(down)  # the floor is 1.5 m below, the ceiling as far above
    expected = np.minimum(np.minimum(4.6, beside)[None], level[:, None])
    np.testing.assert_allclose(depth, expected, rtol=1e-9)
    assert (np.abs(depth - 4.6) < 1e-9).any()
    assert len(np.unique(depth.round(6))) > 10
