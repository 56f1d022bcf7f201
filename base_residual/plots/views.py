"""Depth maps as places: the points that the robot believes in, from above and from behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from base_residual.camera import DepthCamera
from base_residual.plots.figures import (
    DEPTH_COLOURS,
    MAX_LABEL,
    MAX_TITLE,
    Map,
    Panel,
    replace_missing_glyphs,
    shorten,
    standard_style,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.figure import Figure
    from mpl_toolkits.mplot3d import Axes3D

MOST = 48  # points along a side of a map that are drawn
TRUE_COLOUR, FINAL_COLOUR, BAND_COLOUR, ROBOT = "0.5", "C0", "C0", "C3"


@standard_style()
def view_figure(rows: Sequence[Panel], camera: DepthCamera, title: str = "") -> Figure:
    """Draw where the predicted points lie, one row per recording: from above, and obliquely from behind the robot.

    From above, it is the slice at the height of the camera: the prediction as a line, the remainder as a band around
    it, the ground truth as grey points. From behind, all points of the prediction have the colours of depth.

    Args:
        rows: from top to bottom.
        camera: that the maps are seen by.
        title: of the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.6, 4.3 * len(rows) + 0.4), dpi=120, layout="constrained")
    for place, row in enumerate(rows):
        above = figure.add_subplot(len(rows), 2, 2 * place + 1)
        behind = figure.add_subplot(len(rows), 2, 2 * place + 2, projection="3d")
        _draw_above(above, camera, row)
        drawn = _draw_behind(behind, camera, row)
        figure.colorbar(drawn, ax=behind, shrink=0.6, pad=0.08).set_label("depth (m)", fontsize=8)
        if place == 0:
            above.set_title("from above", fontsize=12)
            behind.set_title("from behind", fontsize=12)
            figure.legend(
                *above.get_legend_handles_labels(), loc="outside lower left", fontsize=9, ncols=4, frameon=False
            )
        above.set_ylabel(
            f"{shorten(replace_missing_glyphs(row.title), MAX_LABEL)}\nahead (m)", fontsize=9, parse_math=False
        )
    if title:
        figure.suptitle(shorten(replace_missing_glyphs(title), 3 * MAX_TITLE), fontsize=13, parse_math=False)
    return figure


def _in_space(camera: DepthCamera, depth: Map) -> NDArray[np.float32]:
    """Return the points of a map's pixels, (S, S, 3) in metres."""
    points: NDArray[np.float32] = camera.points(torch.from_numpy(np.ascontiguousarray(depth, np.float32))).numpy()
    return points


def _points(camera: DepthCamera, depth: Map) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the points of a map's measured pixels, (N, 3) in metres, and their depths; some of a large map's."""
    points = _in_space(camera, depth)
    step = max(1, -(-len(depth) // MOST))
    some = slice(step // 2, None, step)
    points, depths = points[some, some].reshape(-1, 3), depth[some, some].reshape(-1)
    return points[depths > 0], depths[depths > 0]


def _draw_above(axis: Axes, camera: DepthCamera, row: Panel) -> None:
    """Draw what lies at the height of the camera, over right and ahead."""
    if row.gt is not None:
        true = _slice(camera, np.where(row.gt > 0, row.gt, np.nan))
        axis.plot(*true, ".", color=TRUE_COLOUR, ms=5, label="ground truth")
    if row.remainder is not None:
        near, far = (_slice(camera, row.final + off) for off in (-row.remainder, row.remainder))
        band = np.concatenate([np.array(near), np.array(far)[:, ::-1]], axis=1)
        axis.fill(*band, color=BAND_COLOUR, alpha=0.25, linewidth=0, label="\N{PLUS-MINUS SIGN} remainder")
    axis.plot(*_slice(camera, row.final), color=FINAL_COLOUR, lw=1.8, label="final")
    axis.plot(0, 0, marker="^", color=ROBOT, ms=9, ls="", label="robot")
    axis.set_aspect("equal", adjustable="datalim")
    axis.set_xlabel("right (m)", fontsize=9)
    axis.tick_params(labelsize=8)


def _slice(camera: DepthCamera, depth: Map) -> tuple[Map, Map]:
    """Return a map's row at the height of the camera as points in metres: right and ahead, (S,) each."""
    points = _in_space(camera, depth.clip(0))
    middle = points[len(points) // 2]
    return -middle[:, 1], middle[:, 0]


def _draw_behind(axis: Axes3D, camera: DepthCamera, row: Panel) -> PathCollection:
    """Draw points in space, as seen from behind and above the robot; return those that are coloured by depth."""
    from matplotlib.ticker import MaxNLocator

    if row.gt is not None:
        true, _ = _points(camera, row.gt)
        axis.scatter(*true.T, s=2, color=TRUE_COLOUR, linewidths=0, depthshade=False)
    points, depths = _points(camera, row.final)
    drawn = axis.scatter(*points.T, s=4, c=depths, cmap=DEPTH_COLOURS, linewidths=0, depthshade=False)
    axis.plot([0], [0], [0], marker="^", color=ROBOT, ms=7, ls="")
    axis.set_aspect("equal")
    axis.view_init(elev=32, azim=-150)
    axis.set_xlabel("ahead (m)", fontsize=8)
    axis.set_ylabel("right (m)", fontsize=8)
    axis.yaxis.set_major_formatter(lambda left, _: f"{0 - left:g}".replace("-", "\N{MINUS SIGN}"))
    axis.zaxis.set_rotate_label(False)
    axis.set_zlabel("up (m)", fontsize=8, rotation=90)
    for way in (axis.xaxis, axis.yaxis, axis.zaxis):
        way.set_major_locator(MaxNLocator(4))
    axis.tick_params(labelsize=7)
    return drawn
