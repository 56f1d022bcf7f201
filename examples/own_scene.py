"""A scene of one's own: what a robot sees and hears in a triangle mesh, drawn as a picture.

    python examples/own_scene.py flat.glb --out scene.png

Without a file, a small furnished room is made with trimesh. `brdepth simulate OUT --scene flat.glb` makes a dataset of
the same. Both need the extra `scenes`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure

from base_residual.acoustics.chirp import SAMPLE_RATE, ChirpDesign
from base_residual.acoustics.framing import echo_frames
from base_residual.acoustics.matched_filter import compress
from base_residual.errors import BaseResidualError, MissingExtraError
from base_residual.plots.figures import DEPTH_COLOURS, save_figure
from base_residual.simulation.echo import draw_chance, render_echo
from base_residual.simulation.meshes import Mesh, read_mesh
from base_residual.simulation.rigs import Rig
from base_residual.simulation.scenes import draw_scene, draw_stand

FARTHEST = 8.0  # metres of range that are shown
SMOOTHED = 21  # samples over which energy is averaged: 8 cm of range
EARS = (("left ear", "#1f77b4"), ("right ear", "#d95f02"))


def make_room(path: Path) -> None:
    """Write a room of 5 x 4 x 2.6 m with a table, a sofa and a lamp; the names say what they are made of."""
    try:
        import trimesh
    except ImportError:
        raise MissingExtraError("A scene of one's own", "scenes") from None
    scene = trimesh.Scene()
    for name, size, center in (
        ("room", (5.0, 4.0, 2.6), (2.5, 2.0, 1.3)),
        ("wooden table", (1.2, 0.7, 0.72), (4.0, 0.9, 0.36)),
        ("sofa", (0.8, 1.8, 0.7), (0.5, 2.8, 0.35)),
    ):
        shape = trimesh.creation.box(extents=size)
        shape.apply_translation(center)
        scene.add_geometry(shape, geom_name=name, node_name=name)
    lamp = trimesh.creation.icosphere(radius=0.25)
    lamp.apply_translation((4.2, 3.2, 1.5))
    scene.add_geometry(lamp, geom_name="glass lamp", node_name="glass lamp")
    scene.export(path)


def scene_figure(mesh: Mesh, seed: int) -> Figure:
    """Two panels: the depth map from one place, and the level of both ears' echoes over range."""
    rng = np.random.default_rng(seed)
    scene, air = draw_scene(rng, mesh)
    pose, rig = draw_stand(rng, mesh), Rig()
    depth = scene.depth(pose, 128)
    echo = render_echo(scene, pose, rig, draw_chance(rng, echo_frames(FARTHEST) + 200), air)
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.6))
    image = left.imshow(np.where(np.isfinite(depth), depth, np.nan), cmap=DEPTH_COLOURS)
    figure.colorbar(image, ax=left, label="depth (m)")
    left.set_axis_off()
    left.set_title("what the robot sees", fontsize=10, loc="left")
    metres = np.arange(echo.shape[1]) / SAMPLE_RATE * air.speed / 2
    template = torch.from_numpy(ChirpDesign().waveform()).float()
    energy = compress(torch.from_numpy(echo).float()[None], template)[0].abs().square()
    energy = F.avg_pool1d(energy, SMOOTHED, stride=1, padding=SMOOTHED // 2)
    level = 10 * torch.log10(energy / energy.max() + 1e-9)[:, : len(metres)]
    for (ear, color), values in zip(EARS, level, strict=True):
        right.plot(metres[: len(values)], values, color=color, linewidth=0.8, label=ear)
    right.set(xlabel="range (m)", ylabel="level (dB)", xlim=(0, FARTHEST), ylim=(-70, 3))
    right.set_title("what it hears, compressed", fontsize=10, loc="left")
    right.legend(loc="upper right", fontsize=8)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scene", type=Path, nargs="?", help="triangle mesh in metres (a small room)")
    parser.add_argument("--up", choices=("auto", "y", "z"), default="auto", help="axis that points up (auto)")
    parser.add_argument("--seed", type=int, default=0, help="decides materials and place (0)")
    parser.add_argument("--out", type=Path, default=Path("scene.png"), help="picture to write (scene.png)")
    options = parser.parse_args()
    try:
        if options.scene is None:
            with tempfile.TemporaryDirectory() as folder:
                made = Path(folder) / "room.obj"
                make_room(made)
                mesh = read_mesh(made)
        else:
            mesh = read_mesh(options.scene, options.up)
        save_figure(scene_figure(mesh, options.seed), options.out)
    except BaseResidualError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"Scene: {mesh.size}\nWritten: {options.out}")


if __name__ == "__main__":
    main()
