"""Worlds that no training has seen, rendered into folders in the layout of BatVision V2."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from exam_echoes import RATE, RAYS, Rig, draw_head_rig, draw_spaced_rig, kemar, record
from exam_heads import drawn_head
from exam_rooms import Pose, Room, draw_pose, draw_room, render_depth

from base_residual.config.presets import SPLITS
from base_residual.data.batvision import write_table
from base_residual.errors import DataError
from base_residual.files.atomic import replacing

POSES = 2  # in each room
VERSION = 1  # of what is drawn: a change of it renders anew
HEAD = Path("heads/mit_kemar_normal_pinna.sofa")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class World:
    """A family of rooms and rigs.

    Attributes:
        name: of its folder.
        plans: kinds of plans.
        boxes: most pieces of furniture in a room.
        database: whether its materials come from pyroomacoustics' table.
        listens: `measured` for the measured head, `head` for another one in each place, `microphones` for two of them.
    """

    name: str
    plans: tuple[str, ...]
    boxes: int
    database: bool
    listens: str

    def rig(self, rng: np.random.Generator, shared: Path) -> Rig:
        """Draw a rig; the measured head lies in the shared folder."""
        if self.listens == "microphones":
            return draw_spaced_rig(rng)
        return draw_head_rig(rng, kemar(shared / HEAD) if self.listens == "measured" else drawn_head(rng))


EXAM = World("exam", ("box", "box", "L", "T", "trapezoid", "corridor"), 5, database=True, listens="measured")
CHOOSE = World("choose", ("box",), 3, database=False, listens="microphones")
HEADS = World("heads", ("box", "L"), 4, database=False, listens="head")


def max_order(room: Room) -> int:
    """Return the order of mirror images that the engine can afford: its work grows as a power of the faces."""
    faces = len(room.faces())
    return 6 if faces <= 6 else 5 if faces <= 8 else 4 if faces <= 14 else 3


def view(world: World, seed: int, split: str, number: int, pose: int) -> tuple[np.random.Generator, Room, Pose]:
    """Draw a room of a split, and a place in it, anew from the seed; the generator goes on with the echo.

    The room depends on the seed, the split and the number alone, whatever else is drawn.
    """
    key = [seed, int(hashlib.sha256(world.name.encode()).hexdigest()[:8], 16), SPLITS.index(split), number]
    rng = np.random.default_rng(key)
    while True:
        room = draw_room(rng, world.plans, world.boxes, world.database)
        rngs = [np.random.default_rng([*key, which]) for which in range(POSES)]
        places = [draw_pose(each, room) for each in rngs]
        if (place := places[pose]) is not None and None not in places:
            return rngs[pose], room, place


def names(split: str, count: int) -> list[str]:
    """Return the names of a split's recordings: `POSES` of each room."""
    return [f"{split}_{index // POSES:05d}_{index % POSES}" for index in range(count)]


def write_world(
    world: World,
    root: Path,
    counts: Mapping[str, int],
    shared: Path,
    seed: int = 0,
    progress: Progress = lambda *_: None,
) -> Path:
    """Render a world, and go on where it was stopped.

    Args:
        world: the family of rooms.
        root: folder for it.
        counts: recordings of each split.
        shared: folder that holds the measured head.
        seed: decides everything.
        progress: told how far it is.

    Returns:
        `root`.

    Raises:
        DataError: the measured head is not there.
    """
    if world.listens == "measured" and not (shared / HEAD).is_file():
        raise DataError(f"There is no measured head at {shared / HEAD}. Name the folder that holds it with --shared.")
    place = root / world.name.capitalize()
    for split, count in counts.items():
        for done, name in enumerate(names(split, count)):
            progress(f"{world.name} {split}", done, count)
            if not all(path.is_file() for path in _paths(place, name)):
                _write_view(world, place, name, seed, shared)
        progress(f"{world.name} {split}", count, count)
        write_table(root, place.name, split, names(split, count))
    return root


def write_bundle(world: World, root: Path, shared: Path, count: int = 20, seed: int = 1, frames: int = 3840) -> Path:
    """Render rooms of a world, a short echo in each, which are small enough to lie in a package; return `root`.

    With its seed, they are other rooms than those of the exam.
    """
    place, named = root / world.name.capitalize(), [f"test_{number:05d}_0" for number in range(count)]
    for name in named:
        _write_view(world, place, name, seed, shared, frames)
    write_table(root, place.name, "test", named)
    return root


def _write_view(world: World, place: Path, name: str, seed: int, shared: Path, frames: int | None = None) -> None:
    split, number, pose = name.split("_")
    rng, room, head = view(world, seed, split, int(number), int(pose))
    rig = world.rig(rng, shared)
    audio, depth = _paths(place, name)
    with replacing(depth) as file:
        np.save(file, np.round(render_depth(room, head) * 1000).astype(np.uint16))
    with replacing(audio) as file:
        echo = record(rng, room, head, rig, max_order(room), RAYS)[:frames]
        soundfile.write(file, echo, RATE, "PCM_16", format="WAV")


def _paths(place: Path, name: str) -> tuple[Path, Path]:
    return place / "audio" / f"{name}.wav", place / "depth" / f"{name}.npy"
