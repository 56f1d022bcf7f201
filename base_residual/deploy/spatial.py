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
from base_residual.models.decomposition import Prediction
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


def scan_message(
    camera: DepthCamera, depth: Tensor, max_depth: float, remainder: Tensor | None = None
) -> dict[str, Any]:
    """Return a scan of a depth map (S, S) by the names of ROS' LaserScan, ready for JSON.

    Angles are in radians, ranges in metres, null where nothing is. With a remainder (S, S) in metres, the scan also has
    `ranges_at_least`: how near the nearest obstacle may be where all lies as near as the remainder allows.
    """
    scan = camera.scan(depth)
    angles = {"angle_min": scan.angle_min, "angle_max": scan.angle_max, "angle_increment": scan.angle_increment}
    message = angles | {"range_min": 0.0, "range_max": camera.farthest(max_depth), "ranges": _metres(scan.ranges)}
    if remainder is not None:
        message["ranges_at_least"] = _metres(camera.scan((depth - remainder).clamp(min=0)).ranges)
    return message


def _metres(ranges: Tensor) -> list[float | None]:
    return [round(metres, 4) if metres < torch.inf else None for metres in ranges.tolist()]


def parts_bytes(parts: Prediction, row: int, camera: DepthCamera | None) -> bytes:
    """Return base, residual and final of a recording, each (S, S), as the content of an `.npz` file.

    With them are the remainder and its level, if the network is calibrated. It says the unit, and the camera if it is
    known: its field of view in degrees, and what depth is measured along.
    """
    arrays: dict[str, Any] = {name: part[row, 0].cpu().numpy() for name, part in parts._asdict().items()}
    if parts.half_width is not None:
        arrays |= {"remainder": parts.half_width[row, 0].cpu().numpy(), "level": np.array(parts.level)}
    arrays["unit"] = np.array("metres")
    if camera is not None:
        arrays |= {"field_of_view": np.array(camera.field_of_view), "depth_along": np.array(camera.along)}
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()
