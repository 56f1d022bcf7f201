"""The camera that a depth map is seen by: from pixels to points and to a planar scan, in metres."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

BAND = (-0.3, 0.3)  # metres below and above the camera in which a scan sees obstacles, and no floor or ceiling


class Scan(NamedTuple):
    """A planar scan, by the names of ROS' LaserScan.

    Attributes:
        angle_min: of the first beam, in radians; 0 is ahead, and left is positive.
        angle_max: of the last beam.
        angle_increment: between neighbouring beams.
        ranges: (S,) metres from the camera to the nearest obstacle, infinite where there is none.
    """

    angle_min: float
    angle_max: float
    angle_increment: float
    ranges: Tensor


class DepthCamera(NamedTuple):
    """A camera without distortion that looks level, and what its depth maps measure.

    Attributes:
        field_of_view: across and upward, in degrees.
        along: "axis" where depth is measured along the camera's axis (z-depth), "ray" where along each pixel's own ray
            (range).
    """

    field_of_view: tuple[float, float]
    along: str = "axis"

    def rays(self, size: int) -> Tensor:
        """Return the way (S, S, 3) of each pixel at a depth of 1 m: x forward, y left and z up, as in REP 103."""
        centres = (torch.arange(size) + 0.5) / size * 2 - 1  # (S,) from left to right, from top to bottom
        left, up = (-centres * math.tan(math.radians(angle) / 2) for angle in self.field_of_view)
        rays = torch.stack(torch.broadcast_tensors(torch.ones(()), left[None, :], up[:, None]), dim=-1)
        return rays if self.along == "axis" else rays / rays.norm(dim=-1, keepdim=True)

    def points(self, depth: Tensor) -> Tensor:
        """Return where pixels lie, (..., S, S, 3) in metres from the camera: x forward, y left and z up (REP 103).

        Args:
            depth: (..., S, S) in metres.
        """
        return depth[..., None] * self.rays(depth.shape[-1]).to(depth.device)

    def scan(self, depth: Tensor, band: tuple[float, float] = BAND) -> Scan:
        """Return the nearest obstacle in as many directions as there are columns, at even steps of the angle.

        Far away, a row of pixels is higher than the band. So the two rows in the middle always count.

        Args:
            depth: (S, S) in metres; 0 is an obstacle at the camera.
            band: metres below and above the camera; what lies lower or higher is no obstacle.
        """
        size = len(depth)
        x, y, z = self.points(depth).unbind(-1)
        counts = (z >= band[0]) & (z <= band[1])
        counts[size // 2 - 1 : size // 2 + 1] = True
        nearest = torch.where(counts, torch.hypot(x, y), torch.inf).amin(dim=0)  # (S,) by column
        half = math.radians(self.field_of_view[0]) / 2
        step = 2 * half / size
        # A beam sees the column in its middle, and every column whose own middle lies in it.
        columns = torch.arange(size, device=depth.device)
        middle = half - step * (columns + 0.5)  # of the beams, from left to right as the columns
        ranges = nearest[((1 - torch.tan(middle) / math.tan(half)) / 2 * size).long().clamp(0, size - 1)]
        angle = torch.atan((1 - 2 * (columns + 0.5) / size) * math.tan(half))  # of the columns
        beam = ((half - angle) / step).long().clamp(0, size - 1)
        ranges = ranges.scatter_reduce(0, beam, nearest, "amin")
        return Scan(step / 2 - half, half - step / 2, step, ranges.flip(0))

    def farthest(self, max_depth: float) -> float:
        """Return the largest range in metres that a scan of depths up to `max_depth` has."""
        return max_depth / math.cos(math.radians(self.field_of_view[0]) / 2) if self.along == "axis" else max_depth
