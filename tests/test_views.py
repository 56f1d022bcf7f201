"""Depth maps of one camera as another one sees them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from base_residual.camera import DepthCamera
from base_residual.cli.main import app
from base_residual.data.sample import EchoDataset
from base_residual.data.views import reframe, seen_from
from base_residual.evaluation.elsewhere import OTHER_ROOMS

WIDE, NARROW = DepthCamera((90.0, 90.0)), DepthCamera((86.0, 57.0))


def tilted(camera: DepthCamera, size: int) -> torch.Tensor:
    """The depth map of a tilted plane, whose inverse depth is linear over the image."""
    x, y, z = camera.rays(size).unbind(-1)
    along = 1 / (0.5 + 0.1 * y / x - 0.15 * z / x)
    return along / x


@pytest.mark.parametrize("along", ["axis", "ray"])
def test_a_plane_is_the_same_plane_to_another_camera(along: str) -> None:
    other = WIDE._replace(along=along)
    seen = reframe(tilted(NARROW, 256), NARROW, other)
    inside = seen > 0
    torch.testing.assert_close(seen[inside], tilted(other, 256)[inside], rtol=0.005, atol=0)
    across, upward = (math.tan(math.radians(angle) / 2) for angle in NARROW.field_of_view)
    assert float(inside.float().mean()) == pytest.approx(across * upward, abs=0.01)
    columns, rows = inside.any(dim=0).sum(), inside.any(dim=1).sum()
    assert columns / 256 == pytest.approx(across, abs=0.01)
    assert rows / 256 == pytest.approx(upward, abs=0.01)


def test_a_wider_view_is_cut_and_holes_stay_holes() -> None:
    depth = tilted(WIDE, 128)
    depth[60:68, 60:68] = 0
    seen = reframe(depth, WIDE, NARROW)
    assert 0 < int((seen == 0).sum()) < 300
    torch.testing.assert_close(seen[seen > 0], tilted(NARROW, 128)[seen > 0], rtol=0.01, atol=0)


def test_a_dataset_of_the_same_camera_or_of_an_unknown_one_is_left_alone(rooms: Callable[[str], EchoDataset]) -> None:
    own = rooms("test")
    assert seen_from(own, WIDE, WIDE) is seen_from(own, None, WIDE) is seen_from(own, WIDE, None) is own
    other = seen_from(own, WIDE, NARROW)
    assert len(other) == len(own)
    assert other[1].id == own[1].id
    torch.testing.assert_close(other[1].waveform, own[1].waveform)
    torch.testing.assert_close(other[1].depth, reframe(own[1].depth, WIDE, NARROW))


def test_eval_compares_what_both_cameras_see(tmp_path: Path) -> None:
    robot = Path(shutil.copytree(OTHER_ROOMS, tmp_path / "robot"))
    shutil.copy(robot / "Exam" / "test.csv", robot / "Exam" / "train.csv")
    words = ["eval", "small", "--dataset", "batvisionv2", "--data-root", str(robot)]
    found = {}
    for view in ([], ["--field-of-view", "90", "90"], ["--field-of-view", "60", "40"]):
        done = CliRunner().invoke(app, [*words, *view, "--json"])
        assert done.exit_code == 0, done.output
        found[tuple(view)] = json.loads(done.stdout)
    assert [row["field_of_view"] for row in found.values()] == [[86, 57], [90, 90], [60, 40]]
    assert len({row["metrics"]["rmse"] for row in found.values()}) == 3
    assert len({row["blind_rmse"]["mean_map"] for row in found.values()}) == 3
    said = CliRunner().invoke(app, words).stdout
    assert "The network sees 90 x 90 degrees" in " ".join(said.split())
    assert "The network sees" not in CliRunner().invoke(app, [*words, "--field-of-view", "90", "90"]).stdout
    refused = CliRunner().invoke(app, [*words, "--field-of-view", "0", "90"])
    assert refused.exit_code == 2
    assert "field_of_view" in refused.stderr
