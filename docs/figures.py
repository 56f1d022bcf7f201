"""Draws the figures of the documentation, from the package's own functions and one simulated room.

    python docs/figures.py                 # into docs/images
    python docs/figures.py --out FOLDER

Nothing is trained: what a network makes of an echo is drawn by `brdepth visualize` and `brdepth report`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from base_residual.data.depth_maps import resize_depth
from base_residual.losses import low_pass
from base_residual.models.decoders import spline_basis
from base_residual.models.decomposition import compose
from base_residual.plots.figures import DEPTH_COLOURS, HOLE, SIGNED_COLOURS, save_figure
from base_residual.simulation.depth import render_depth
from base_residual.simulation.draws import STYLES, draw_pose, draw_room

Map = NDArray[np.floating]

SEED = 16  # of a room with two cupboards
SIDE = 64  # pixels
MAX_DEPTH = 12.0  # metres
BOUND = 0.2  # of max_depth


def room(side: int = SIDE) -> Map:
    """Depth map (side, side) in metres of a simulated room with furniture."""
    rng = np.random.default_rng(SEED)
    pose = None
    while pose is None:
        place = draw_room(rng, STYLES["standard"])
        pose = draw_pose(rng, place)
    return np.minimum(render_depth(place, pose, side), MAX_DEPTH)


def smoothed(depth: Map, kernel: int) -> Map:
    """The low-pass of a map (H, W) in metres, as the loss sees it."""
    return low_pass(torch.from_numpy(depth)[None, None].float(), kernel)[0, 0].numpy()


def spline(depth: Map, grid: int) -> Map:
    """The surface of grid x grid control points that is nearest to a map (S, S) in metres."""
    basis = spline_basis(grid, len(depth)).double().numpy()  # (S, grid)
    inverse = np.linalg.pinv(basis)
    return basis @ (inverse @ depth @ inverse.T) @ basis.T


def show(axis: Axes, values: Map, title: str, high: float, signed: bool = False) -> None:
    """A map in metres with its scale."""
    colours, low = (SIGNED_COLOURS, -high) if signed else (DEPTH_COLOURS, 0.0)
    axis.set_facecolor(HOLE)
    image = axis.imshow(np.ma.masked_equal(values, 0) if not signed else values, cmap=colours, vmin=low, vmax=high)
    axis.set(xticks=[], yticks=[])
    axis.set_title(title, fontsize=11)
    bar = axis.figure.colorbar(image, ax=axis, shrink=0.85, pad=0.02)
    bar.ax.set_title("m", fontsize=8)
    bar.ax.tick_params(labelsize=8)


def tidy(axis: Axes, x: str, y: str, title: str = "") -> None:
    """The look of every plot: a pale grid, two spines, a legend without a frame."""
    axis.set(xlabel=x, ylabel=y)
    axis.set_title(title, fontsize=11)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize=9)


def split() -> Figure:
    """A room, its layout, and what the layout leaves out."""
    depth = room()
    layout = spline(depth, 4)
    figure = Figure(figsize=(10, 3.1), dpi=110, layout="constrained")
    panels = figure.subplots(1, 3)
    show(panels[0], depth, "a room", depth.max())
    show(panels[1], layout, "its layout: 4 x 4 control points", depth.max())
    show(panels[2], depth - layout, "what is missing", np.abs(depth - layout).max(), signed=True)
    return figure


def taylor() -> Figure:
    """One row of the room: the layout, and the band in which the residual can correct it."""
    depth = room()
    layout = spline(depth, 4)
    row = int(np.abs(depth - layout).mean(axis=1).argmax())
    pixels = np.arange(SIDE)
    reach = BOUND * MAX_DEPTH
    figure = Figure(figsize=(8, 3.6), dpi=110, layout="constrained")
    axis = figure.subplots()
    low, high = np.clip(layout[row] - reach, 0, None), layout[row] + reach
    axis.fill_between(pixels, low, high, color="C0", alpha=0.13, lw=0, label="what the residual can reach")
    axis.plot(pixels, layout[row], "C0", lw=2, label="base")
    axis.plot(pixels, depth[row], "k", lw=1.6, label="ground truth")
    axis.vlines(pixels[::3], layout[row][::3], depth[row][::3], color="C3", lw=1.2, label="residual")
    axis.set_ylim(0)
    tidy(axis, f"pixel of row {row}", "depth (m)")
    return figure


def bounds() -> Figure:
    """The curves that keep base and residual within their bounds, and the lines that they replace."""
    raw = torch.linspace(-8, 8, 401)[None, None, None]
    curves = compose(raw, raw, MAX_DEPTH, BOUND)
    tangents = {"base": (0.5 + raw / 4).clamp(0, 1) * MAX_DEPTH, "residual": raw.clamp(-1, 1) * BOUND * MAX_DEPTH}
    figure = Figure(figsize=(9, 3.4), dpi=110, layout="constrained")
    for axis, part, formula in zip(
        figure.subplots(1, 2), ("base", "residual"), ("sigmoid(raw) * 12 m", "tanh(raw) * 0.2 * 12 m"), strict=True
    ):
        axis.plot(raw[0, 0, 0], tangents[part][0, 0, 0], color="0.6", ls="--", lw=1.6, label="its tangent, cut off")
        axis.plot(raw[0, 0, 0], getattr(curves, part)[0, 0, 0], color="C0", lw=2, label=formula)
        tidy(axis, "what the decoder says (raw)", f"{part} (m)")
    return figure


def kernels() -> Figure:
    """The target of the base for three sizes of the low-pass, and how much detail each leaves to the residual."""
    depth = room()
    figure = Figure(figsize=(10, 5.4), dpi=110, layout="constrained")
    above, below = figure.subplots(2, 3)
    for kernel, target, rest in zip((2, 4, 6), above, below, strict=True):
        layout = smoothed(depth, kernel)
        show(target, layout, f"kernel {kernel}, as {4 * kernel} of 256 pixels", depth.max())
        left = np.abs(depth - layout).mean()
        show(rest, depth - layout, f"left out: {left:.2f} m on average", 1.5, signed=True)
    return figure


def holes() -> Figure:
    """The border of a hole, made smaller in two ways: one invents depths of a few centimetres, the other does not."""
    depth = room(256)
    depth[96:160, 96:200] = 0
    stacked = torch.from_numpy(depth)[None, None]  # (1, 1, 256, 256)
    blind = F.interpolate(stacked, (SIDE, SIDE), mode="bilinear", antialias=True)[0, 0].numpy()
    aware = resize_depth(depth.astype(np.float32), SIDE)
    row = SIDE // 2
    figure = Figure(figsize=(9, 3.4), dpi=110, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.6))
    show(left, aware, "a map with a hole", depth.max())
    left.axhline(row, color="C3", lw=1)
    pixels = np.arange(SIDE)
    for values, colour, name in ((blind, "C3", "antialiased bilinear"), (aware, "C0", "mask-aware")):
        right.plot(pixels[values[row] > 0], values[row][values[row] > 0], "o", ms=3.5, color=colour, label=name)
    right.set_ylim(0)
    tidy(right, f"pixel of row {row}", "depth that counts (m)")
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    "split": split,
    "taylor": taylor,
    "bounds": bounds,
    "kernels": kernels,
    "holes": holes,
}


def main() -> None:
    """Draw all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("images"), help="folder (docs/images)")
    folder = parser.parse_args().out
    for name, draw in FIGURES.items():
        print(save_figure(draw(), folder / f"{name}.png"))


if __name__ == "__main__":
    main()
