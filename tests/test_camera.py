"""Depth maps in space: where pixels lie, planar scans, and the files that a robot reads."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from test_cli import brdepth, sentence

from base_residual.camera import BAND, DepthCamera
from base_residual.config.resolve import make_config
from base_residual.deploy.predict import Wanted, write_predictions
from base_residual.errors import ConfigError, ShapeError
from base_residual.models.checkpoint import save_checkpoint
from base_residual.models.factory import create_model, load_model
from base_residual.models.released import DEFAULT, sample
from base_residual.simulation.depth import render_depth
from base_residual.simulation.rooms import Material, Pose, Room

SIZE = 32
BARE = Material((0.1,), (0.1,))
ROOM = Room((6.0, 5.0, 2.5), (BARE,) * 6)


def seen(heading: float, view: tuple[float, float], along: str) -> tuple[torch.Tensor, DepthCamera]:
    """A depth map of the bare room from (2, 1.5, 1), and its camera."""
    camera = DepthCamera(view, along)
    depth = torch.from_numpy(render_depth(ROOM, Pose((2.0, 1.5, 1.0), heading), SIZE, view)).float()
    if along == "ray":
        depth = depth * DepthCamera(view).rays(SIZE).norm(dim=-1)
    return depth, camera


@pytest.mark.parametrize("along", ["axis", "ray"])
@pytest.mark.parametrize(("heading", "view"), [(0.0, (90.0, 90.0)), (0.7, (86.0, 57.0)), (-2.0, (120.0, 40.0))])
def test_all_points_lie_on_the_walls_that_were_seen(heading: float, view: tuple[float, float], along: str) -> None:
    depth, camera = seen(heading, view, along)
    forward, left, up = camera.points(depth).reshape(-1, 3).double().numpy().T
    x = 2.0 + math.cos(heading) * forward - math.sin(heading) * left
    y = 1.5 + math.sin(heading) * forward + math.cos(heading) * left
    z = 1.0 + up
    to_walls = np.abs([x, x - 6.0, y, y - 5.0, z, z - 2.5]).min(axis=0)
    assert to_walls.max() < 1e-4
    assert (left[: SIZE // 2] > 0).all()  # column 0 is on the left, row 0 on top
    assert up[0] > 0


def test_a_scan_measures_the_wall_ahead_and_neither_floor_nor_ceiling() -> None:
    depth, camera = seen(0.0, (90.0, 90.0), "axis")
    scan = camera.scan(depth)
    angles = scan.angle_min + scan.angle_increment * np.arange(SIZE)
    assert angles[-1] == pytest.approx(scan.angle_max)
    assert scan.angle_max - scan.angle_min + scan.angle_increment == pytest.approx(math.pi / 2)
    # The wall ahead is 4 m away, that on the left 3.5 m and that on the right 1.5 m.
    expected = np.minimum(4 / np.cos(angles), np.where(angles > 0, 3.5, 1.5) / np.abs(np.sin(angles)))
    np.testing.assert_allclose(scan.ranges.numpy(), expected, rtol=0.05)
    assert scan.ranges.max() <= camera.farthest(4.0)
    floor = torch.full((SIZE, SIZE), 50.0)
    floor[SIZE // 2 :] = 0.5 / -camera.rays(SIZE)[SIZE // 2 :, :, 2]  # half a metre below
    assert camera.scan(floor).ranges.min() > 0.5 * SIZE - 1  # where the row below the middle meets it
    assert camera.scan(floor, (-0.6, 0.3)).ranges.min() < 1


@pytest.mark.parametrize(("across", "along"), [(90.0, "axis"), (120.0, "axis"), (60.0, "ray")])
def test_no_column_is_overlooked_and_each_lies_where_it_is_seen(across: float, along: str) -> None:
    camera = DepthCamera((across, 60.0), along)
    assert camera.farthest(8.0) == pytest.approx(8.0 / math.cos(math.radians(across) / 2) if along == "axis" else 8.0)
    for column in range(SIZE):
        depth = torch.full((SIZE, SIZE), 8.0)
        depth[SIZE // 3, column] = 0.5  # higher than the middle rows, within the band
        scan = camera.scan(depth)
        found = (scan.ranges < 2).nonzero().flatten()
        assert len(found) >= 1
        angles = scan.angle_min + scan.angle_increment * found
        x, y, _ = camera.points(depth)[SIZE // 3, column].tolist()
        assert (angles - math.atan2(y, x)).abs().max() <= 1.5 * scan.angle_increment + 1e-6
        assert scan.ranges.min() == pytest.approx(math.hypot(x, y))


@pytest.mark.parametrize(
    ("camera", "band"),
    [
        (DepthCamera((86.0, 57.0)), BAND),
        (DepthCamera((57.0, 86.0)), (-0.8, 0.1)),
        (DepthCamera((120.0, 40.0), "ray"), (-0.1, 0.6)),
    ],
)
def test_a_scan_is_the_nearest_of_what_each_beam_holds(camera: DepthCamera, band: tuple[float, float]) -> None:
    depth = 0.3 + 3 * torch.rand(16, 16)
    scan, points = camera.scan(depth, band), camera.points(depth).numpy()
    far = np.hypot(points[..., 0], points[..., 1])
    counts = (points[..., 2] >= band[0]) & (points[..., 2] <= band[1])
    counts[7:9] = True
    nearest = np.where(counts, far, np.inf).min(axis=0)
    azimuth = np.arctan2(points[0, :, 1], points[0, :, 0])  # of each column, falling from left to right
    half = math.radians(camera.field_of_view[0]) / 2
    edges = np.tan(half) * np.linspace(1, -1, 17)
    for beam, found in enumerate(scan.ranges.tolist()):
        angle = -half + (beam + 0.5) * half / 8
        assert angle == pytest.approx(scan.angle_min + beam * scan.angle_increment)
        within = np.abs(azimuth - angle) < half / 16
        within[np.searchsorted(-edges, -np.tan(angle)) - 1] = True
        assert found == pytest.approx(nearest[within].min())


def test_the_band_is_thirty_centimetres_either_way() -> None:
    camera = DepthCamera((90.0, 90.0))
    for row, seen in ((10, False), (12, True), (19, True), (21, False)):  # 34, 22, 22 and 34 cm above or below
        depth = torch.full((SIZE, SIZE), 50.0)
        depth[row] = 1.0
        assert bool(camera.scan(depth).ranges.min() < 2) is seen
    for row, seen in ((13, False), (14, False), (15, True), (16, True), (17, False)):  # a third of a metre, and more
        depth = torch.full((SIZE, SIZE), 50.0)
        depth[row] = 12.0
        assert bool(camera.scan(depth).ranges.min() < 20) is seen


def test_what_touches_the_camera_is_no_free_space_and_far_walls_are_seen_in_small_maps() -> None:
    camera = DepthCamera((90.0, 90.0))
    assert camera.scan(torch.zeros(SIZE, SIZE)).ranges.eq(0).all()
    assert camera.scan(torch.full((16, 16), 30.0)).ranges.isfinite().all()


def test_a_prediction_knows_its_camera_and_unpacks_as_before(tmp_path: Path) -> None:
    sound, rate = soundfile.read(sample()[0], dtype="float32")
    prediction = load_model(DEFAULT).predict(sound.T, rate)
    assert len(prediction) == 3
    _, _, final = prediction
    side = final.shape[-1]
    assert prediction.points().shape == (side, side, 3)
    torch.testing.assert_close(prediction.points()[..., 0], final[0, 0])
    assert torch.equal(prediction.scan().ranges, DepthCamera((90.0, 90.0)).scan(final[0, 0]).ranges)
    low = prediction.scan((-0.9, -0.6)).ranges
    assert torch.equal(low, DepthCamera((90.0, 90.0)).scan(final[0, 0], (-0.9, -0.6)).ranges)
    assert not torch.equal(low, prediction.scan().ranges)
    both = load_model(DEFAULT).predict(np.stack([sound.T, sound.T]), rate)
    assert both.points().shape == (2, side, side, 3)
    with pytest.raises(ShapeError, match="There are 2 echoes; a scan is made of one"):
        both.scan()


def test_datasets_have_the_views_of_their_cameras() -> None:
    assert make_config().data.field_of_view == (90, 90)
    assert make_config({"simulation": {"rig": "batvisionv2"}}).data.field_of_view == (86, 57)
    assert make_config({"data": {"name": "batvisionv2"}}).data.field_of_view == (86, 57)
    assert make_config({"data": {"name": "own"}}).data.field_of_view is None
    assert make_config({"data": {"name": "own", "field_of_view": [70, 50]}}).data.field_of_view == (70, 50)
    written = make_config().model_dump(mode="json")
    assert make_config(written, {"simulation": {"rig": "batvisionv2"}}).data.field_of_view == (86, 57)
    for camera in ({"field_of_view": [70, 50]}, {"depth_along": "ray"}):
        with pytest.raises(ConfigError, match=r"^The camera of simulated rooms is that of simulation\.rig\."):
            make_config({"data": camera})
    for wrong in ([90], [0, 90], [90, 180]):
        with pytest.raises(ConfigError, match=r"data\.field_of_view"):
            make_config({"data": {"field_of_view": wrong}})


def test_a_robots_files_hold_what_the_map_holds(tmp_path: Path) -> None:
    wanted = ("--points", "ply", "--scan", "--parts", "--no-picture")
    (found,) = json.loads(brdepth("predict", "--out", tmp_path, *wanted, "--json"))["predictions"]
    assert {path.name for path in tmp_path.iterdir()} == {
        f"room_{end}" for end in ("depth.npy", "remainder.npy", "points.ply", "scan.json", "parts.npz")
    }
    depth, camera = np.load(found["depth"]), DepthCamera((90.0, 90.0))
    with np.load(found["parts"]) as parts:
        assert np.array_equal(parts["final"], depth)
        np.testing.assert_allclose(parts["base"] + parts["residual"], depth, atol=1e-4)
        assert (str(parts["unit"]), str(parts["depth_along"]), parts["field_of_view"].tolist()) == (
            "metres",
            "axis",
            [90, 90],
        )
    trimesh = pytest.importorskip("trimesh")
    cloud = trimesh.load(io.BytesIO(Path(found["points"]).read_bytes()), file_type="ply")
    np.testing.assert_allclose(cloud.vertices, camera.points(torch.from_numpy(depth)).reshape(-1, 3), atol=1e-5)
    near, far = cloud.colors[depth.argmin()], cloud.colors[depth.argmax()]
    assert near[:3].tolist() == [68, 1, 84]  # the colours of the pictures
    assert far[:3].tolist() == [253, 231, 36]
    scan = json.loads(Path(found["scan"]).read_text())
    np.testing.assert_allclose(scan["ranges"], camera.scan(torch.from_numpy(depth)).ranges, atol=1e-4)
    assert scan["range_max"] == pytest.approx(load_model(DEFAULT).max_depth * 2**0.5)


def test_without_a_field_of_view_there_is_a_map_and_no_points(tmp_path: Path) -> None:
    config = make_config({"data": {"name": "own", "output_size": 16, "max_depth": 4.0}, "model": {"base_channels": 4}})
    path, echo = tmp_path / "own.safetensors", sample()[0]
    save_checkpoint(path, create_model(config), 1, [], config)
    for asked in (["--points", "ply"], ["--scan"]):
        said = sentence(brdepth("predict", path, echo, "--out", tmp_path / "out", *asked, code=2))
        assert "The field of view of this network's depth maps is not known" in said
        assert not (tmp_path / "out").exists()
    (written,) = write_predictions(load_model(path), [echo], tmp_path / "out", wanted=Wanted(False, parts=True))
    assert set(written.files) == {"depth", "parts"}
    with np.load(written.files["parts"]) as parts:
        assert set(parts) == {"base", "residual", "final", "unit"}
    assert "Unknown format 'pcd'" in sentence(brdepth("predict", "--points", "pcd", code=2))
