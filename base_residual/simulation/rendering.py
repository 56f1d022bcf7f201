"""Rooms rendered into a folder, each decided by its own seed. Every rendering process runs this module.

It does not import PyTorch, which takes longer to start than a hundred poses take to render.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from base_residual.acoustics.chirp import SAMPLE_RATE
from base_residual.config.presets import SPLITS
from base_residual.config.schema import SimulationConfig
from base_residual.errors import BaseResidualError
from base_residual.files.atomic import no_links
from base_residual.files.npy import in_millimetres, npy_bytes
from base_residual.simulation.depth import render_depth
from base_residual.simulation.draws import STYLES, draw_pose, draw_room
from base_residual.simulation.echo import draw_chance, draw_still, render_echo
from base_residual.simulation.heads import MeasuredHead, read_head
from base_residual.simulation.materials import Air
from base_residual.simulation.meshes import Mesh, read_mesh
from base_residual.simulation.rigs import Camera, draw_rig
from base_residual.simulation.rooms import Array, Pose, Room
from base_residual.simulation.scenes import Scene, draw_scene, draw_stand
from base_residual.simulation.spaces import draw_space

LOCATION = "Simulated_Rooms"
UNFINISHED = "rooms.json.partial"
"""File with the settings of the rooms in a folder; renamed to `rooms.json` once all of them are there."""

ANYWHERE: dict[str, Any] = {"margin": 0.3, "ahead": 0.4, "height": (0.25, 1.8)}  # poses in rich rooms


def render_every(folder: Path, first: int, step: int, parent: int | None = None) -> Iterator[None]:
    """Render every `step`-th room, beginning with `first`, into a folder that `simulate` has prepared.

    Yields after each room.

    Args:
        folder: with the settings of the rooms.
        first: index of the first room.
        step: distance to the next.
        parent: id of the process that started this one; once it has ended, no more rooms are rendered.
    """
    description = json.loads((folder / UNFINISHED).read_text())
    simulation = SimulationConfig(**description["simulation"])
    head = read_head(simulation.head) if simulation.head else None
    mesh = read_mesh(simulation.scene, simulation.up) if simulation.scene else None
    for split, number in list_rooms(simulation)[first::step]:
        if parent not in (None, os.getppid()):  # the system gives a process whose parent has ended another one
            return
        if not finished_marker(folder, split, number).exists():
            render_room(folder, split, number, description, head, mesh)
        yield


def render_room(
    folder: Path,
    split: str,
    number: int,
    description: dict[str, Any],
    head: MeasuredHead | None = None,
    mesh: Mesh | None = None,
) -> None:
    """Write the echoes and depth maps of one room, and the depth of the empty room, which its own seed decides.

    Args:
        folder: that `simulate` has prepared.
        split: of the room.
        number: of the room in its split.
        description: the settings.
        head: whose ears the rigs have, instead of their own.
        mesh: the place that the room is, instead of a drawn one.
    """
    simulation = SimulationConfig(**description["simulation"])
    rng = np.random.default_rng([simulation.seed, SPLITS.index(split), number])
    room, air, poses = draw_place(rng, simulation, mesh)
    for index, pose in enumerate(poses):
        rig = draw_rig(rng, simulation.rig, simulation.spread, simulation.style, head)
        chance = (draw_chance if air else draw_still)(rng, description["frames"])
        echo = render_echo(room, pose, rig, chance, air)
        seen, layout = render_views(room, pose, description["output_size"], rig.camera)
        seen = rig.camera.measure(rng, seen)  # before the cut: what is far errs more
        seen, layout = (
            np.where(np.isinf(depth), 0, depth).clip(0, description["max_depth"]) for depth in (seen, layout)
        )
        name = pose_name(split, number, index)
        # Encoded in memory, so that only an OSError, which names the reason, can come from the disk.
        sound = io.BytesIO()
        soundfile.write(sound, np.clip(echo.T, -1, 1), SAMPLE_RATE, "PCM_16", format="WAV")
        _write(folder / LOCATION / "audio" / f"{name}.wav", sound.getvalue())
        for kind, depth in (("depth", seen), ("layout", layout)):
            _write(folder / LOCATION / kind / f"{name}.npy", npy_bytes(in_millimetres(depth)))
    _write(finished_marker(folder, split, number), b"")


def _write(path: Path, content: bytes) -> None:
    with open(path, "wb", opener=no_links) as file:
        file.write(content)


def render_views(place: Room | Scene, pose: Pose, size: int, camera: Camera) -> tuple[Array, Array]:
    """Return depth (size, size) in metres with and without furniture, infinite where nothing is."""
    view = pose, size, camera.field_of_view, camera.place
    if isinstance(place, Scene):
        return place.depth(*view), place.depth(*view, furnished=False)
    return render_depth(place, *view), render_depth(place.emptied(), *view)


def draw_place(
    rng: np.random.Generator, simulation: SimulationConfig, mesh: Mesh | None = None
) -> tuple[Room | Scene, Air | None, list[Pose]]:
    """Draw a room of the settings' style, or the materials of a mesh, its air, and the poses of the robot in it."""
    if mesh is not None:
        return *draw_scene(rng, mesh), [draw_stand(rng, mesh) for _ in range(simulation.poses)]
    while True:
        if simulation.style == "rich":
            room, air = draw_space(rng)
        else:
            room, air = draw_room(rng, STYLES[simulation.style]), None
        stand = ANYWHERE if simulation.style == "rich" else {}
        poses = [pose for _ in range(simulation.poses) if (pose := draw_pose(rng, room, **stand)) is not None]
        if len(poses) == simulation.poses:
            return room, air, poses


def run_worker(folder: str, first: str, step: str) -> None:
    """Run `render_every` in a process of its own; an error ends it with one sentence."""
    try:
        for _ in render_every(Path(folder), int(first), int(step), os.getppid()):
            pass
    except OSError as error:
        sys.exit(f"{error.filename or folder}: {error.strerror or error}")
    except BaseResidualError as error:
        sys.exit(str(error).rstrip("."))


def count_done(folder: Path) -> int:
    """Return the number of rooms that are finished."""
    done = folder / LOCATION / "done"
    return sum(1 for _ in done.iterdir()) if done.exists() else 0


def list_rooms(simulation: SimulationConfig) -> list[tuple[str, int]]:
    """Return split and number of every room."""
    counts = {"train": simulation.train_rooms, "val": simulation.val_rooms, "test": simulation.test_rooms}
    return [(split, number) for split in SPLITS for number in range(counts[split])]


def pose_name(split: str, number: int, pose: int) -> str:
    """Return the name of the files of one recording, without their endings."""
    return f"{split}_{number:06d}_{pose}"


def finished_marker(folder: Path, split: str, number: int) -> Path:
    """Return the path of the empty file that exists once a room is finished."""
    return folder / LOCATION / "done" / f"{split}_{number:06d}"
