"""What a robot reads of a prediction: a point cloud (PLY), a planar scan (JSON), all parts (npz)."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from base_residual.camera import DepthCamera
from base_residual.errors import MissingExtraError
from base_residual.models.decomposition import DepthDecomposition
from base_residual.plots.figures import depth_colours


def cloud_bytes(camera: DepthCamera, depth: NDArray[np.float32]) -> bytes:
    """Return the pixels of a depth map (S, S) in metres as the content of a binary PLY file, coloured by depth.

    The axes are those of REP 103, from the camera: x forward, y left, z up, in metres.

    Raises:
        MissingExtraError: trimesh is not installed.
    """
    try:
        import trimesh
    except ImportError:
        raise MissingExtraError("A point cloud", "scenes") from None
    points = camera.points(torch.from_numpy(depth)).reshape(-1, 3).numpy()
    cloud = trimesh.PointCloud(points, depth_colours(depth).reshape(-1, 4))
    content: bytes = cloud.export(file_type="ply")
    return content


def scan_message(camera: DepthCamera, depth: Tensor, max_depth: float) -> dict[str, Any]:
    """Return a scan of a depth map (S, S) by the names of ROS' LaserScan, ready for JSON.

    Angles are in radians, ranges in metres, null where nothing is.
    """
    scan = camera.scan(depth)
    ranges = [round(metres, 4) if metres < torch.inf else None for metres in scan.ranges.tolist()]
    angles = {"angle_min": scan.angle_min, "angle_max": scan.angle_max, "angle_increment": scan.angle_increment}
    return angles | {"range_min": 0.0, "range_max": camera.farthest(max_depth), "ranges": ranges}


def parts_bytes(parts: DepthDecomposition, row: int, camera: DepthCamera | None) -> bytes:
    """Return base, residual and final of a recording, each (S, S), as the content of an `.npz` file.

    It says the unit, and the camera if it is known: its field of view in degrees, and what depth is measured along.
    """
    arrays: dict[str, Any] = {name: part[row, 0].cpu().numpy() for name, part in parts._asdict().items()}
    arrays["unit"] = np.array("metres")
    if camera is not None:
        arrays |= {"field_of_view": np.array(camera.field_of_view), "depth_along": np.array(camera.along)}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()
