"""Scenes of one's own: a mesh sounds and looks like the room that it is, and what is none is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, reverberant
from test_cli import brdepth

from base_residual.acoustics.chirp import SAMPLE_RATE
from base_residual.config.resolve import make_config, merge
from base_residual.data import open_dataset, simulated
from base_residual.data.simulated import Shard, simulate, simulated_root
from base_residual.errors import DataError, MissingExtraError
from base_residual.simulation import meshes, scenes
from base_residual.simulation.depth import render_depth
from base_residual.simulation.echo import Chance, render_echo
from base_residual.simulation.materials import BANDS, Air, draw_material
from base_residual.simulation.meshes import Mesh, read_mesh
from base_residual.simulation.places import Furnished
from base_residual.simulation.rays import SCATTER_RAYS
from base_residual.simulation.rendering import run_worker
from base_residual.simulation.reverberation import measures
from base_residual.simulation.rigs import Rig
from base_residual.simulation.rooms import Material, Pose, Room
from base_residual.simulation.scenes import Scene, _draw, draw_scene, draw_stand

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("embreex")

SIZE = (6.0, 4.5, 2.6)
PLASTER = draw_material(np.random.default_rng(0), "plaster", (0.1, 0.2))
POSE = Pose((2.1, 1.7, 1.0), 0.3)
EARS = np.array([POSE.place(right=-0.1), POSE.place(right=0.1)])
QUIET = Chance(np.zeros(SCATTER_RAYS), np.zeros((2, 2400)), np.zeros((1, 2, 2400)))
FEW: dict[str, Any] = {"train_rooms": 2, "val_rooms": 1, "test_rooms": 1, "poses": 1}


def box(size: tuple[float, float, float] = SIZE, center: tuple[float, float, float] | None = None) -> Any:
    shape = trimesh.creation.box(extents=size)
    shape.apply_translation(np.array(size) / 2 if center is None else center)
    return shape


def in_scene(shape: Any, material: Material = PLASTER) -> Scene:
    mesh = Mesh(np.asarray(shape.triangles), [""], np.zeros(len(shape.faces), np.int64))
    return Scene(mesh, (material,) * len(mesh.names))


def saved(path: Path, shapes: dict[str, Any]) -> Path:
    scene = trimesh.Scene()
    for name, shape in shapes.items():
        scene.add_geometry(shape, node_name=name, geom_name=name)
    if path.suffix == ".glb":  # whose y points up
        scene.apply_transform(np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]]))
    scene.export(path)
    return path


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A room with a table and a sofa, as a modelling program writes it."""
    shapes = {
        "room": box(),
        "Glass_Table": box((1.2, 0.7, 0.7), (4.5, 1.0, 0.36)),
        "sofa01": box((0.8, 1.6, 0.6), (1.0, 3.0, 0.31)),
    }
    return saved(tmp_path_factory.mktemp("flat") / "flat.glb", shapes)


def test_the_mesh_of_a_box_looks_and_sounds_like_the_room_of_its_size() -> None:
    scene, room = in_scene(box()), Room(SIZE, (PLASTER,) * 6)
    np.testing.assert_allclose(scene.depth(POSE, 24), render_depth(room, POSE, 24), atol=1e-3)
    for order in (1, 2, 3):
        here = scene.reflections(POSE, POSE.place(), EARS, order, 30.0)
        there = Furnished(room, every=False).reflections(POSE, POSE.place(), EARS, order, 30.0)
        for mine, own in zip(here, there, strict=True):
            assert mine.distance[0] == pytest.approx(0.1)
            np.testing.assert_allclose(np.sort(mine.distance), np.sort(own.distance), atol=1e-5)
            np.testing.assert_allclose(mine.gain.sum(axis=0), own.gain.sum(axis=0), rtol=1e-9)
    chance = reverberant(np.random.default_rng(1), 2400)
    mine, own = (render_echo(place, POSE, Rig(), chance, Air(), max_order=3) for place in (scene, room))
    np.testing.assert_allclose(mine, own, atol=0.005 * np.abs(own).max())


def test_the_diffuse_field_of_a_mesh_is_that_of_the_room() -> None:
    field, own = in_scene(box()).diffuse_field(POSE), measures(Room(SIZE, (PLASTER,) * 6))
    assert field.volume == pytest.approx(own.volume, rel=0.03)
    assert field.surface == pytest.approx(own.surface, rel=0.03)
    np.testing.assert_allclose(field.absorption, own.absorption)
    np.testing.assert_allclose(field.scattering, own.scattering)
    opened = box()
    opened.update_faces(opened.triangles_center[:, 2] < 2.5)  # no ceiling
    sky = in_scene(opened).diffuse_field(POSE)
    assert sky.volume == pytest.approx(own.volume, rel=0.03)
    share = SIZE[0] * SIZE[1] / own.surface
    mean = share + (1 - share) * own.absorption  # and more, as no sound comes from above
    assert ((sky.absorption > mean) & (sky.absorption < mean + 0.15)).all()


@pytest.mark.parametrize("distance", [0.8, 1.7, 4.6])
def test_a_lone_wall_answers_after_twice_its_distance(distance: float) -> None:
    scene = in_scene(box((0.1, 8.0, 8.0), (distance + 0.05, 0.0, 0.0)))
    paths = scene.reflections(Pose((0.0, 0.0, 0.0), 0.0), np.zeros(3), np.array([[0, 0.1, 0], [0, -0.1, 0]]), 3, 30.0)
    for ear in paths:
        np.testing.assert_allclose(ear.distance, [0.1, np.hypot(2 * distance, 0.1)], atol=1e-5)
    echo = np.abs(render_echo(scene, Pose((0.0, 0.0, 0.0), 0.0), Rig(), QUIET))
    after = echo[:, : round(2 * distance / 343 * SAMPLE_RATE) - 2]
    assert after[:, 200:].max(initial=0) < 5e-3 * echo.max()


def test_what_stands_left_is_heard_left_and_what_is_hidden_is_not_heard() -> None:
    wall = box((4.0, 0.1, 4.0), (0.0, 1.5, 0.0))  # at the left of a robot that looks along x
    robot, ears = Pose((0.0, 0.0, 0.0), 0.0), np.array([[0.0, 0.1, 0.0], [0.0, -0.1, 0.0]])
    left, right = in_scene(wall).reflections(robot, np.zeros(3), ears, 1, 30.0)
    assert left.distance[1] < right.distance[1]
    np.testing.assert_allclose(left.arriving[1], [0, 1, 0], atol=1e-9)
    hidden = trimesh.util.concatenate([wall, box((1.0, 0.02, 1.0), (0.0, 1.0, 0.0))])
    for ear, way in zip(in_scene(hidden).reflections(robot, np.zeros(3), ears, 1, 30.0), (1.88, 2.08), strict=True):
        np.testing.assert_allclose(ear.distance, [0.1, way], atol=1e-5)  # by the board, not by the wall behind it


def test_a_scanned_wall_mirrors_though_its_triangles_are_not_exact() -> None:
    rough = box().subdivide_to_size(0.12)
    rough.vertices += np.random.default_rng(0).normal(0, 0.003, rough.vertices.shape)
    scene = in_scene(rough)
    assert len(scene.mesh.planes.center) == 6
    found = scene.reflections(POSE, POSE.place(), EARS, 1, 30.0)[0].distance
    own = Furnished(Room(SIZE, (PLASTER,) * 6), False).reflections(POSE, POSE.place(), EARS, 1, 30.0)[0].distance
    np.testing.assert_allclose(np.sort(found), np.sort(own), atol=0.02)


def test_where_no_plane_is_only_the_direct_sound_and_scattered_sound_are_heard() -> None:
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.5)
    ball.apply_translation((2.0, 0.0, 0.0))
    scene, pose = in_scene(ball), Pose((0.0, 0.0, 0.0), 0.0)
    assert [len(ear.distance) for ear in scene.reflections(pose, np.zeros(3), EARS - POSE.place(), 3, 30.0)] == [1, 1]
    chance = reverberant(np.random.default_rng(0), 2400)
    echo = render_echo(scene, pose, Rig(), chance, Air())
    assert np.isfinite(echo).all()
    depth = scene.depth(pose, 16)
    assert np.isinf(depth[0, 0])
    assert depth.min() == pytest.approx(1.5, abs=0.05)


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply", ".stl"])
def test_each_format_is_read_upright_and_the_winding_does_not_matter(tmp_path: Path, suffix: str) -> None:
    shape = box()
    rng = np.random.default_rng(0)
    turned = rng.random(len(shape.faces)) < 0.5
    shape.faces[turned] = shape.faces[turned][:, ::-1]
    path = saved(tmp_path / f"room{suffix}", {"shell": shape})
    mesh = read_mesh(path)
    np.testing.assert_allclose(mesh.bounds, [[0, 0, 0], SIZE] if suffix != ".glb" else mesh.bounds, atol=1e-5)
    assert mesh.size == "6.00 x 4.50 x 2.60 m"
    assert sorted(name.split()[-1] for name in mesh.names) == ["ceiling", "floor", "wall"]
    assert len(mesh.planes.center) == 6
    pose = draw_stand(rng, mesh)
    assert 0.3 <= pose.position[2] <= 1.3
    lying = read_mesh(path, "z" if suffix == ".glb" else "y")
    assert lying.size == "6.00 x 2.60 x 4.50 m"


def test_the_robot_stands_within_clear_and_on_something(flat: Path) -> None:
    mesh, rng = read_mesh(flat), np.random.default_rng(3)
    low, high = mesh.bounds
    for _ in range(12):
        pose = draw_stand(rng, mesh)
        place = np.array(pose.position)
        assert ((place > low + 0.2) & (place < high - 0.2)).all()
        assert 0.3 <= mesh.cast(place, np.array([[0.0, 0.0, -1.0]]))[1][0] <= 1.3
        assert np.median(Scene(mesh, ()).depth(pose, 16)) >= 0.8


def test_names_and_shapes_tell_what_a_part_is_of(flat: Path) -> None:
    mesh = read_mesh(flat)
    absorption = {}
    for name in mesh.names:
        drawn = [_draw(np.random.default_rng(seed), name).absorption for seed in range(20)]
        absorption[name.split()[0] + name.split()[-1]] = np.array(drawn)[:, BANDS == 2000].ravel()
    assert len(absorption) == 5  # table, sofa, and the room's floor, walls and ceiling
    assert absorption["Glass_TableGlass_Table"].max() < 0.06
    assert absorption["sofa01sofa01"].min() > 0.3
    assert np.ptp(absorption["roomfloor"]) > 0.3  # tiles as well as carpets
    scene = draw_scene(np.random.default_rng(0), mesh)[0]
    assert len(scene.materials) == len(mesh.names)


def test_the_layout_is_the_scene_without_furniture(flat: Path) -> None:
    mesh = read_mesh(flat)
    scene = draw_scene(np.random.default_rng(0), mesh)[0]
    pose = Pose((2.5, mesh.bounds[0, 1] + 1.0, 0.5), 0.0)
    seen, layout = scene.depth(pose, 24), scene.depth(pose, 24, furnished=False)
    assert (layout >= seen - 1e-9).all()
    assert layout[12, 12] > seen[12, 12] + 0.5


def test_soup_of_many_parts_has_few_materials() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 5, (600, 1, 3)) + rng.normal(0, 0.1, (600, 3, 3))
    mesh = Mesh(corners, ["dust"], np.zeros(600, np.int64))
    assert len(mesh.names) == meshes.MAX_PARTS == mesh.part.max() + 1
    scene = draw_scene(rng, mesh)[0]
    assert mesh.fixed.all()  # nothing is large enough to be a building, so that nothing is left out of the layout
    pose = Pose((2.5, 2.5, 2.5), 0.0)
    np.testing.assert_array_equal(scene.depth(pose, 16), scene.depth(pose, 16, furnished=False))


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def scaled(path: Path, factor: float) -> Path:
    shape = box()
    shape.apply_scale(factor)
    return saved(path, {"room": shape})


def test_what_is_no_scene_is_refused_in_a_sentence(tmp_path: Path, flat: Path) -> None:
    whole = flat.read_bytes()
    refused = {
        written(tmp_path / "cut.glb", whole[: len(whole) // 2]): "cannot be read",
        written(tmp_path / "empty.ply", b""): "cannot be read",
        written(tmp_path / "none.obj", b"# nothing\n"): r"cannot be read|has 0 triangles",
        written(tmp_path / "line.obj", b"v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n"): "has 0 triangles",
        written(tmp_path / "text.stl", b"solid\nnonsense\n"): r"cannot be read|has 0 triangles",
        written(tmp_path / "room.gltf", b"{}"): r"none of .glb, .obj, .ply, .stl",
        scaled(tmp_path / "millimetres.stl", 1000.0): r"is 6000 m long. Expected are 0.5 to 200 m: scale it to metres",
        scaled(tmp_path / "toy.ply", 0.01): r"is 0.06 m long",
        tmp_path / "nowhere.glb": r"There is no file .*nowhere.glb",
        Path("/dev/zero"): "There is no file /dev/zero",
    }
    for path, words in refused.items():
        with pytest.raises(DataError, match=words):
            read_mesh(path)
    with pytest.raises(DataError, match=r"no place for the robot .* 0.90 x 0.90 x 0.90 m.*which axis points up"):
        draw_stand(np.random.default_rng(0), read_mesh(saved(tmp_path / "crate.ply", {"crate": box((0.9, 0.9, 0.9))})))


def test_without_the_extra_a_scene_names_it(flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meshes._read.cache_clear()
    monkeypatch.setitem(sys.modules, "trimesh.ray.ray_pyembree", None)
    with pytest.raises(MissingExtraError, match=r"base-residual-depth\[scenes\]"):
        read_mesh(flat)


def test_a_scene_becomes_a_dataset_in_the_layout_of_batvision(
    tmp_path: Path, flat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulated, "own_cores", lambda: 1)
    out = tmp_path / "flat"
    few = ("--rooms", 2, "--val-rooms", 1, "--test-rooms", 1, "--poses", 1, "--output-size", 32, "--max-depth", 8)
    said = brdepth("simulate", out, "--scene", flat, *few)
    assert "Scene: 6.00 x 4.50 x 2.60 m" in said
    assert "No problems" in brdepth("check-data", out)
    assert json.loads((out / "rooms.json").read_text())["scene"]
    config = make_config(merge(TINY, {"data": {"name": "batvisionv2", "root": out, "prepare": False}}))
    sample = open_dataset("batvisionv2", out, "val", config)[0]
    assert 0.3 < float(sample.depth[sample.depth > 0].median()) < 8
    assert float(sample.waveform.abs().max()) > 0
    layout = np.load(out / "Simulated_Rooms" / "layout" / "train_000000_0.npy")
    assert layout.shape == (32, 32)
    assert layout.all()


def test_shards_make_the_same_scene_and_its_content_decides_the_cache(
    tmp_path: Path, flat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulated, "own_cores", lambda: 1)
    config = make_config(merge(TINY, {"simulation": FEW | {"scene": flat}}))
    assert simulate(tmp_path / "whole", config.data, config.simulation)
    done = [simulate(tmp_path / "parts", config.data, config.simulation, shard=Shard(part, 2)) for part in (2, 1)]
    assert done == [False, True]
    for file in sorted((tmp_path / "whole" / "Simulated_Rooms").rglob("*.*")):
        other = tmp_path / "parts" / file.relative_to(tmp_path / "whole")
        assert other.read_bytes() == file.read_bytes()
    copy = written(tmp_path / "own.glb", flat.read_bytes())
    roots = []
    monkeypatch.setenv("BRDEPTH_CACHE", str(tmp_path))
    monkeypatch.setattr(simulated, "simulate", lambda *_: True)
    for content in (flat.read_bytes(), b"another"):
        moved = config.simulation.model_copy(update={"scene": written(copy, content)})
        roots.append(simulated_root(config.data, moved))
    assert roots[0] != roots[1]


def test_a_scene_without_a_place_ends_the_rendering_with_its_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulated, "own_cores", lambda: 1)
    monkeypatch.setattr(scenes, "TRIES", 5)
    crate = saved(tmp_path / "crate.ply", {"crate": box((0.9, 0.9, 0.9))})
    assert "no place for the robot" in brdepth("simulate", tmp_path / "rooms", "--scene", crate, "--rooms", 8, code=2)
    with pytest.raises(SystemExit, match=r"no place for the robot .*\(y or z\)$"):  # a worker's last words
        run_worker(str(tmp_path / "rooms.partial"), "0", "1")
