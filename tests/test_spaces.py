"""Rich rooms: plans, round things, materials, air, late reverberation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import reverberant
from numpy.typing import NDArray

from base_residual.acoustics.chirp import SAMPLE_RATE, ChirpDesign
from base_residual.acoustics.matched_filter import compress
from base_residual.config.resolve import make_config
from base_residual.simulation import rendering
from base_residual.simulation.depth import render_depth
from base_residual.simulation.directivity import _spiral
from base_residual.simulation.draws import draw_pose
from base_residual.simulation.echo import BETWEEN_EARS, Chance, draw_chance, draw_late, render_echo
from base_residual.simulation.materials import ABSORPTION, BANDS, Air, draw_material
from base_residual.simulation.rays import SCATTER_RAYS, cast_rays, facing
from base_residual.simulation.rendering import LOCATION
from base_residual.simulation.reverberation import late_energy, measures, reflections_per_second
from base_residual.simulation.rigs import RIGS, Camera, Recorder, Rig, draw_rig, varied
from base_residual.simulation.rooms import Box, Cylinder, Material, Pose, Room, is_inside
from base_residual.simulation.spaces import PLANS, _columns, draw_space, shelf, tall_cabinet, two_rooms

AIR = Air()


def material(absorption: float, scattering: float = 0.0) -> Material:
    return Material((absorption,) * len(BANDS), (scattering,) * len(BANDS))


def bare(absorption: float = 0.2, size: tuple[float, float, float] = (6.0, 5.0, 3.0)) -> Room:
    return Room(size, (material(absorption),) * 6)


def test_air_swallows_what_the_standard_lists() -> None:
    listed = {500: 2.73, 1000: 4.66, 2000: 9.86, 4000: 29.4, 8000: 104.0}  # dB/km at 20 degrees, 50 %
    found = AIR.attenuation(np.array([*map(float, listed)])) * 10 / np.log(10) * 1000
    np.testing.assert_allclose(found, [*listed.values()], rtol=0.03)
    assert AIR.speed == pytest.approx(343.2, abs=0.1)
    assert Air(temperature=0.0).speed == pytest.approx(331.3)


@pytest.mark.parametrize("name", ABSORPTION)
def test_a_drawn_material_lies_around_its_table(name: str) -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([draw_material(rng, name, (0.1, 0.2)).absorption for _ in range(200)])
    assert ((drawn >= 0) & (drawn <= 1)).all()
    assert np.median(drawn[:, 3]) == pytest.approx(ABSORPTION[name][-1], rel=0.15)  # at 4 kHz


def test_a_cylinder_is_as_far_as_its_round_side() -> None:
    column = Cylinder((4.0, 2.5, 1.5), 0.5, 3.0, material(0.1), fixed=True)
    room, pose = replace(bare(), cylinders=(column,)), Pose((1.0, 2.5, 1.5), 0.0)
    depth = render_depth(room, pose, 65)
    assert depth[32, 32] == pytest.approx(2.5)
    ray = np.array([[1.0, 0.0, 0.0]])
    hits = cast_rays(room, np.array(pose.position), ray.T)
    assert (hits.distance[0], hits.surface[0]) == (pytest.approx(2.5), 0)
    np.testing.assert_allclose(facing(room, np.array(pose.position), ray, hits), [[-1, 0, 0]], atol=1e-9)
    above = Pose((4.0, 2.5, 1.2), 0.0)
    low = replace(column, center=(4.0, 2.5, 0.25), height=0.5)
    down = cast_rays(replace(room, cylinders=(low,)), np.array(above.position), np.array([[0.0], [0.0], [-1.0]]))
    assert (down.distance[0], down.axis[0]) == (pytest.approx(0.7), 2)


def test_rays_and_depth_agree_in_rich_rooms() -> None:
    rng = np.random.default_rng(4)
    for _ in range(6):
        room, _ = draw_space(rng)
        pose = draw_pose(rng, room)
        assert pose is not None
        depth, centres = render_depth(room, pose, 16), (np.arange(16) + 0.5) / 8 - 1
        forward, right, up = pose.axes()
        rays = forward + centres[None, :, None] * right - centres[:, None, None] * up
        hits = cast_rays(room, np.array(pose.position), rays.reshape(-1, 3).T)
        np.testing.assert_allclose(hits.distance.reshape(16, 16), depth, rtol=1e-9)


def test_a_place_is_decided_by_its_generator_and_holds_the_robot() -> None:
    for seed in range(30):
        room, air = draw_space(np.random.default_rng(seed))
        assert (room, air) == draw_space(np.random.default_rng(seed))
        pose = draw_pose(np.random.default_rng(seed), room)
        assert pose is None or not any(is_inside(solid, pose.position) for solid in room.solids)
        assert {len(surface.absorption) for surface in room.materials} == {len(BANDS)}


def test_an_empty_room_hides_nothing_and_keeps_the_building() -> None:
    rng, hidden, built = np.random.default_rng(1), 0, 0
    for _ in range(40):
        room, _ = draw_space(rng)
        pose = draw_pose(rng, room)
        if pose is None:
            continue
        seen, layout = (render_depth(place, pose, 16) for place in (room, room.emptied()))
        assert (layout >= seen).all()
        hidden, built = hidden + (layout > seen).any(), built + bool(room.emptied().solids)
    assert hidden > 10
    assert built > 8


@pytest.mark.parametrize("plan", PLANS)
def test_the_parts_of_a_plan_lie_in_its_rectangle(plan: object) -> None:
    for seed in range(20):
        size, parts = plan(np.random.default_rng(seed))  # type: ignore[operator]
        for center, extent, _ in parts:
            assert (np.array(center) + np.array(extent) / 2 <= np.array(size) + 1e-9).all()
            assert (np.array(center) - np.array(extent) / 2 >= -1e-9).all()
            assert min(extent) > 0


@pytest.mark.parametrize("rig", RIGS)
def test_rendering_commutes_with_mirroring(rig: str) -> None:
    rng = np.random.default_rng(2)
    for _ in range(3):
        room, air = draw_space(rng)
        pose, drawn, chance = draw_pose(rng, room), RIGS[rig](rng, 1.0), draw_chance(rng, 2000)
        assert pose is not None
        here = render_echo(room, pose, drawn, chance, air)
        there = render_echo(room.mirrored(), pose.mirrored(room), drawn.mirrored(), chance.mirrored(), air)
        np.testing.assert_allclose(there[::-1], here, atol=2e-4 * np.abs(here).max())


def test_late_reverberation_has_the_energy_of_what_is_not_followed() -> None:
    """The integral of exp(-b x) (1 - exp(-x) (1 + x)) is 1/b - 1/(1 + b) - 1/(1 + b)^2; 4 pi way / V is 16 pi / S."""
    room = bare(absorption=0.3)
    volume, surface, absorption, _ = measures(room)
    assert (volume, surface) == (pytest.approx(90), pytest.approx(126))
    still = Air(humidity=50.0)._replace(temperature=20.0)
    time = np.arange(0, 2.0, 1 / SAMPLE_RATE)
    found = late_energy(measures(room), still, 1, time, SAMPLE_RATE)[:, 0].sum()  # at 300 Hz air takes next to nothing
    rate = -np.log(1 - absorption[0])
    assert found == pytest.approx(16 * np.pi / surface * (1 / rate - 1 / (1 + rate) - 1 / (1 + rate) ** 2), rel=0.02)


def test_late_reverberation_decays_at_eyrings_rate() -> None:
    room = bare(absorption=0.25)
    energy = late_energy(measures(room), AIR, 3, np.array([0.2, 0.3]), SAMPLE_RATE)[:, 0]
    volume, surface, _, _ = measures(room)
    reverberation_time = 24 * np.log(10) * volume / (AIR.speed * -np.log(0.75) * surface)
    assert 10 * np.log10(energy[0] / energy[1]) == pytest.approx(60 * 0.1 / reverberation_time, rel=0.03)


def test_early_and_late_sound_join_without_a_step() -> None:
    """Three orders of mirror images and the late field decay as eleven orders of images do."""
    room, pose = bare(absorption=0.3, size=(5.0, 4.0, 3.0)), Pose((2.2, 1.7, 1.2), 0.4)
    chance = Chance(np.zeros(SCATTER_RAYS), np.zeros((2, 1600)), np.random.default_rng(0).standard_normal((1, 2, 1600)))
    joined = render_echo(room, pose, Rig(), chance, AIR)
    followed = render_echo(room, pose, Rig(), replace(chance, field=0 * chance.field), AIR, max_order=7)
    for start in range(300, 1500, 300):
        part = slice(start, start + 300)
        step = 10 * np.log10((joined[:, part] ** 2).sum() / (followed[:, part] ** 2).sum())
        assert abs(step) < 3.0, start


def heard_late(chance: Chance) -> NDArray[np.float64]:
    """The late reverberation alone, (2, T)."""
    room, rig = bare(absorption=0.1, size=(5.0, 4.0, 3.0)), Rig(recorder=Recorder(noise=0.0))
    pose = Pose((2.2, 1.7, 1.2), 0.4)
    without = replace(chance, field=0 * chance.field)
    heard = render_echo(room, pose, rig, chance, AIR) - render_echo(room, pose, rig, without, AIR)
    return np.asarray(heard)


def test_late_sound_begins_as_clicks_and_turns_into_noise() -> None:
    """Behind a matched filter, the mean squared power over the squared mean is 2 for noise, and higher for clicks."""
    chance = replace(reverberant(np.random.default_rng(0), 16_000), roughness=np.zeros(SCATTER_RAYS))

    def peakedness(chance: Chance, milliseconds: slice) -> float:
        sound, chirp = (torch.from_numpy(x).float() for x in (heard_late(chance), ChirpDesign().waveform()))
        part = slice(*(round(44.1 * ms) for ms in (milliseconds.start, milliseconds.stop)))
        power = compress(sound[None], chirp)[..., part].abs() ** 2
        return float((power**2).mean() / power.mean() ** 2)

    early, late = slice(15, 35), slice(150, 350)
    assert peakedness(chance, early) > 1.5 * peakedness(replace(chance, rank=None), early)
    assert peakedness(chance, late) == pytest.approx(peakedness(replace(chance, rank=None), late), rel=0.15)
    assert peakedness(replace(chance, density=0.1), early) > peakedness(chance, early)


def test_clicks_and_bursts_keep_the_energy_of_late_sound() -> None:
    def energy(chance: Chance) -> float:
        return float((heard_late(chance)[:, 1500:] ** 2).sum())

    ratios = []
    for seed in range(40):
        drawn = reverberant(np.random.default_rng(seed), 6000)
        ratios.append(energy(drawn) / energy(replace(drawn, rank=None)))
    assert np.mean(ratios) == pytest.approx(1, abs=0.1)
    bursts = [draw_late(np.random.default_rng(seed), 6000, burst_level=6.0)[0] for seed in range(150)]
    assert np.mean(np.square(bursts)) == pytest.approx(1, abs=0.1)


def test_bursts_have_a_level_and_a_direction_that_both_ears_agree_on() -> None:
    steady, bursting = (draw_late(np.random.default_rng(1), 40_000, burst_level=level)[0] for level in (0.0, 8.0))
    milliseconds = [np.square(noise[0]).mean(axis=0).reshape(-1, 40).mean(axis=1) for noise in (steady, bursting)]
    assert np.std(np.log(milliseconds[1])) > 2 * np.std(np.log(milliseconds[0]))
    noise, rank = draw_late(np.random.default_rng(2), 40_000, burst_level=0.0)
    for left, right, left_rank, right_rank in zip(*noise.swapaxes(0, 1), *rank.swapaxes(0, 1), strict=True):
        seen = 0
        for lag in range(-BETWEEN_EARS, BETWEEN_EARS + 1):  # the right ear hears it so many samples earlier
            same = np.flatnonzero(right_rank[30:-30] == np.roll(left_rank, -lag)[30:-30]) + 30
            seen += len(same)
            if abs(lag) > 3 and len(same):
                assert np.sign(abs(right[same]).mean() - abs(left[same + lag]).mean()) == np.sign(lag)
        assert seen > 0.95 * 39_940


def test_few_reflections_arrive_at_first() -> None:
    rate = reflections_per_second(100.0, AIR, np.array([0.0, 0.01, 0.02]))
    assert rate[0] == 0
    assert rate[2] == pytest.approx(4 * rate[1])
    # Every image source within c t lies in a sphere that holds one for each volume of the room.
    images = 4 / 3 * np.pi * (AIR.speed * 0.02) ** 3 / 100
    times = np.linspace(0, 0.02, 2001)
    assert np.trapezoid(reflections_per_second(100.0, AIR, times), times) == pytest.approx(images, rel=1e-3)


def test_the_ears_share_low_late_sound_and_not_high() -> None:
    room, pose = bare(absorption=0.1), Pose((2.0, 2.0, 1.2), 0.3)
    drawn = [reverberant(np.random.default_rng(seed), 30_000) for seed in range(5)]
    quiet = [replace(chance, roughness=np.zeros(SCATTER_RAYS)) for chance in drawn]
    echo = np.concatenate([render_echo(room, pose, Rig(), chance, AIR)[:, 4000:] for chance in quiet], axis=1)
    spectra = np.fft.rfft(echo.reshape(2, -1, 1000))
    coherence = np.abs((spectra[0] * spectra[1].conj()).mean(0)) / np.sqrt((np.abs(spectra) ** 2).mean(1).prod(0))
    frequency = np.fft.rfftfreq(1000, 1 / SAMPLE_RATE)
    assert coherence[(frequency > 100) & (frequency < 300)].mean() > 0.7
    assert coherence[frequency > 5000].mean() < 0.4


def test_a_room_without_a_ceiling_reverberates_less() -> None:
    sky = material(1.0)
    closed, time = bare(absorption=0.05), np.array([0.1])
    opened = replace(closed, surfaces=(*closed.surfaces[:5], sky))
    assert (late_energy(measures(opened), AIR, 3, time, 1) < 0.1 * late_energy(measures(closed), AIR, 3, time, 1)).all()


def test_furniture_takes_volume_and_adds_surface() -> None:
    box = Box((2.0, 2.0, 0.5), (1.0, 1.0, 1.0), 0.0, material(0.9))
    volume, surface, absorption, _ = measures(replace(bare(absorption=0.1), boxes=(box,)))
    assert volume == pytest.approx(89)
    assert surface == pytest.approx(126 + 4)
    assert absorption[0] == pytest.approx((126 * 0.1 + 4 * 0.9) / 130)


def test_a_column_to_the_ceiling_covers_floor_and_ceiling() -> None:
    column = Box((2.0, 2.0, 1.5), (0.4, 0.7, 3.0), 0.0, material(0.9))
    volume, surface, absorption, _ = measures(replace(bare(absorption=0.1), boxes=(column,)))
    assert volume == pytest.approx(90 - 0.84)
    assert surface == pytest.approx(126 + 6.6 - 0.56)
    assert absorption[0] == pytest.approx((126 * 0.1 + 6.04 * 0.9) / 132.04)


def test_some_air_is_left_however_full_a_room_is() -> None:
    boxes = (Box((3.0, 2.5, 1.0), (4.0, 4.0, 2.0), 0.0, material(0.1)),) * 3
    assert measures(replace(bare(), boxes=boxes)).volume == pytest.approx(9)


def test_walls_that_swallow_all_leave_no_late_sound() -> None:
    energy = late_energy(measures(bare(absorption=1.0)), AIR, 3, np.array([0.0, 0.1]), 1)
    np.testing.assert_allclose(energy, 0, atol=1e-20)


@pytest.fixture
def many() -> list[Room]:
    return [draw_space(np.random.default_rng(seed))[0] for seed in range(300)]


def test_courtyards_are_open_above_and_no_other_place_is(many: list[Room]) -> None:
    heights = {True: [], False: []}  # type: dict[bool, list[float]]
    for room in many:
        heights[min(room.surfaces[5].absorption) == 1].append(room.size[2])
    assert 5 < len(heights[True]) < 30
    assert min(heights[True]) > 5
    assert np.median(heights[False]) < 3


def test_round_columns_carry_the_ceiling_and_belong_to_the_building(many: list[Room]) -> None:
    found = [[column for column in room.cylinders if column.fixed] for room in many]
    assert 20 < sum(map(bool, found)) < 80
    assert {len(columns) for columns in found} == {0, 1, 2, 3, 4}
    for room, columns in zip(many, found, strict=True):
        for column in columns:
            assert 0.12 < column.radius < 0.4
            assert column.center[2] == column.height / 2 == room.size[2] / 2
            assert all(
                0.2 * side < place < 0.8 * side for side, place in zip(room.size[:2], column.center, strict=False)
            )


def test_there_are_one_to_four_columns_where_there_are_any() -> None:
    drawn = [[*_columns(np.random.default_rng(seed), (5.0, 4.0, 3.0), material(0.1))] for seed in range(50)]
    assert {len(columns) for columns in drawn} == {1, 2, 3, 4}


def test_curtains_scatter_more_than_walls(many: list[Room]) -> None:
    most = np.array([max(max(surface.scattering) for surface in room.surfaces[:4]) for room in many])
    assert 5 < (most > 0.5).sum() < 100
    assert np.median(most) < 0.3


def test_furniture_and_doors_end_below_the_ceiling() -> None:
    low = (4.0, 4.0, 1.5)
    for seed in range(50):
        rng = np.random.default_rng(seed)
        solids = [*shelf(rng, low), *tall_cabinet(rng, low)]
        assert max(solid.center[2] + solid.size[2] / 2 for solid in solids if isinstance(solid, Box)) < 1.5
    for seed in range(400):
        size, (_, _, (_, lintel, _)) = two_rooms(np.random.default_rng(seed))
        assert 0.1 - 1e-9 < lintel[2] < size[2]


def test_a_spiral_covers_the_sphere_evenly() -> None:
    directions = _spiral(500)
    np.testing.assert_allclose(np.linalg.norm(directions, axis=1), 1)
    np.testing.assert_allclose(directions.mean(axis=0), 0, atol=0.003)
    np.testing.assert_allclose(directions.T @ directions / 500, np.eye(3) / 3, atol=0.003)
    nearest = np.sort(directions @ directions.T, axis=1)[:, -2]
    assert np.arccos(nearest).min() > 0.5 * np.sqrt(4 * np.pi / 500)


def test_varied_rigs_differ() -> None:
    rigs = [varied(np.random.default_rng(seed), 1.0) for seed in range(30)]
    distances = np.array([rig.ear_distance for rig in rigs])
    assert distances.min() < 0.16
    assert distances.max() > 0.24
    assert 5 < sum(rig.ears.head > 0 for rig in rigs) < 20  # type: ignore[attr-defined]
    exact = [varied(np.random.default_rng(seed), 0.0) for seed in range(5)]
    assert {rig.ear_distance for rig in exact} == {0.2}


@pytest.mark.parametrize(
    ("rig", "angles", "forward", "up"),
    [
        ("batvisionv2", ((82, 90), (54, 60)), (-0.06, 0.10), (-0.1, 0.1)),
        ("batvisionv1", ((60, 80), (60, 80)), (-0.06, 0.10), (-0.1, 0.1)),
        ("varied", ((90, 90), (90, 90)), (-0.05, 0.05), (-0.05, 0.05)),
        ("replica", ((90, 90), (90, 90)), (0.0, 0.0), (0.0, 0.0)),
    ],
)
def test_cameras_are_drawn_all_over_what_is_not_known_of_them(
    rig: str, angles: tuple[tuple[int, int], ...], forward: tuple[float, float], up: tuple[float, float]
) -> None:
    cameras = [RIGS[rig](np.random.default_rng(seed), 1.0).camera for seed in range(200)]
    drawn = np.array([(*camera.field_of_view, camera.forward, camera.up) for camera in cameras])
    low, high = np.transpose([*angles, forward, up])
    margin = 0.05 * (high - low) + 1e-9
    assert ((drawn.min(axis=0) > low - 1e-9) & (drawn.min(axis=0) < low + margin)).all()
    assert ((drawn.max(axis=0) < high + 1e-9) & (drawn.max(axis=0) > high - margin)).all()
    assert {camera.nearest for camera in cameras} == {0.3 if rig.startswith("batvision") else 0.0}
    exact = [RIGS[rig](np.random.default_rng(seed), 0.0).camera for seed in range(3)]
    assert exact[0] == exact[1] == exact[2]
    np.testing.assert_allclose((*exact[0].field_of_view, exact[0].forward, exact[0].up), (low + high) / 2, atol=1e-9)


def test_a_far_wall_is_at_the_largest_depth_however_much_the_camera_errs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = np.full((16, 16), 30.0)
    seen[0], seen[1] = np.inf, 11.0  # no wall at all, and one that is measured
    monkeypatch.setattr(rendering, "render_views", lambda *_: (seen.copy(), seen.copy()))
    simulation = make_config({"simulation": {"rig": "batvisionv2", "poses": 1}}).simulation.model_dump(mode="json")
    for kind in ("audio", "depth", "layout", "done"):
        (tmp_path / LOCATION / kind).mkdir(parents=True)
    description = {"simulation": simulation, "frames": 500, "output_size": 16, "max_depth": 12.0}
    for number in range(8):
        rendering.render_room(tmp_path, "train", number, description)
        depth, layout = (
            np.load(tmp_path / LOCATION / kind / f"train_{number:06d}_0.npy") for kind in ("depth", "layout")
        )
        assert set(np.unique(depth[2:])) <= {0, 12_000}  # but for holes
        assert not depth[0].any()
        assert depth[1][depth[1] > 0].std() > 100
        assert (layout[0] == 0).all()
        assert (layout[1] == 11_000).all()
        assert (layout[2:] == 12_000).all()


def test_a_camera_measures_nothing_nearer_than_it_can() -> None:
    depth = np.array([[0.1, 0.29], [0.31, 2.0]])
    measured = Camera(nearest=0.3).measure(np.random.default_rng(0), depth)
    np.testing.assert_array_equal(measured, [[0, 0], [0.31, 2.0]])
    assert measured is not depth


def test_fades_of_chirps_are_a_share_that_fits() -> None:
    fades = [varied(np.random.default_rng(seed), 3.0).chirp.fade for seed in range(60)]
    assert (min(fades), max(fades)) == (0.02, 0.5)


def test_a_measured_head_takes_the_place_of_the_ears() -> None:
    class Head:
        ear_distance = 0.31

        def varied(self, rng: np.random.Generator, spread: float) -> Head:
            assert (rng, spread) == (chance, 0.4)
            return self

    chance, head = np.random.default_rng(5), Head()
    found = draw_rig(chance, "varied", 0.4, "rich", head)  # type: ignore[arg-type]
    own = draw_rig(np.random.default_rng(5), "varied", 0.4, "rich")
    assert found.ears is head
    assert replace(found, ears=own.ears) == replace(own, ear_distance=0.31)
