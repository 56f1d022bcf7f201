"""Echo rooms that the package renders itself, written in the layout of BatVision V2."""

from __future__ import annotations

import glob
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from base_residual.acoustics.framing import echo_frames
from base_residual.config.presets import SPLITS
from base_residual.config.schema import DataConfig, SimulationConfig
from base_residual.data.batvision import write_table
from base_residual.errors import ConfigError, DataError
from base_residual.files.atomic import discard, read_at_most, replacing
from base_residual.files.cache import Progress, cached, is_held, locked
from base_residual.machine import own_cores
from base_residual.simulation.rendering import LOCATION, UNFINISHED, count_done, list_rooms, pose_name, render_every

NOTE = "rooms.json"  # says what the rooms in a folder are; the last that comes there
MAX_NOTE = 2**16  # bytes of it
VERSION = 2
"""Raised whenever the same settings would give other recordings."""


def simulated_root(data: DataConfig, simulation: SimulationConfig, progress: Progress | None = None) -> Path:
    """The cached set of rooms with these settings, rendered on first use.

    Args:
        data: gives the depth maps' side and the largest depth.
        simulation: gives the rooms.
        progress: told how far the rendering is.

    Returns:
        Root of a dataset in the layout of BatVision V2.
    """
    root = cached("rooms", _description(data, simulation))
    if not (root / NOTE).exists():
        simulate(root, data, simulation, progress)
    return root


class Shard(NamedTuple):
    """Part `part` (from 1) of a set of rooms in `of` parts; every `of`-th room is in it."""

    part: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The part that `"2/8"` means.

        Raises:
            ConfigError: the text has no such form.
        """
        part, slash, of = text.partition("/")
        if slash and part.isdecimal() and of.isdecimal() and 1 <= int(part) <= int(of):
            return cls(int(part), int(of))
        raise ConfigError(f"Cannot read the shard '{text}'. Write it as i/n with 1 <= i <= n, such as 2/8.")


def simulate(
    root: Path,
    data: DataConfig,
    simulation: SimulationConfig,
    progress: Progress | None = None,
    shard: Shard = Shard(),  # noqa: B008 - immutable
) -> bool:
    """Render rooms on all cores and write them as a dataset.

    Rooms are rendered in a folder beside `root`, its name with `.partial`, and moved when all are done. What was killed
    is taken up where it ended.

    Args:
        root: folder to create; it must not exist yet, or be empty.
        data: gives the depth maps' side and the largest depth.
        simulation: gives the rooms.
        progress: told how far the rendering is.
        shard: the part to render; others may render theirs at the same time, on other machines, too. Each room has its
            own seed, so that it does not matter how they are shared out.

    Returns:
        Whether all rooms are there; False while other parts are missing.

    Raises:
        DataError: the folder is none, is not empty, cannot be written to, or a worker failed; or something else lies
            in the folder beside it.
    """
    root = root.resolve()
    if not root.name or root.is_mount():  # which cannot be replaced by another folder
        raise DataError(f"{root} is a whole disk. Give a new folder in it for the simulated rooms.")
    partial = root.with_name(f"{root.name}.partial")
    own_lock = Path(f"{partial}.{shard.part}-{shard.of}.lock")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with locked(own_lock, progress=progress):
            with FileLock(f"{partial}.lock"):
                if _complete(root, data, simulation):
                    return True  # another process has just made it
                rendered = _complete(partial, data, simulation)
                moving = rendered and not (partial / LOCATION).exists()
                if not moving and root.exists() and any(root.iterdir()):
                    raise DataError(f"{root} is not empty. Give a new folder for the simulated rooms.")
                if not rendered:
                    _prepare(partial, data, simulation, own_lock)
            if not rendered:
                _render_on_all_cores(partial, simulation, progress, shard)
            with FileLock(f"{partial}.lock"):
                if not _complete(root, data, simulation):
                    if (partial / UNFINISHED).exists() and count_done(partial) == len(list_rooms(simulation)):
                        _write_index(partial, simulation)
                    if _complete(partial, data, simulation):
                        _move(partial, root)
                return _complete(root, data, simulation)
    except OSError as error:
        raise DataError(f"Cannot write the simulated rooms to {root}: {error.strerror or error}.") from error
    finally:
        if not partial.exists():
            discard(Path(f"{partial}.lock"))


def _move(partial: Path, root: Path) -> None:
    """Give a folder what is complete, its note last; it may be the one that the command was called in."""
    root.mkdir(exist_ok=True)
    for name in (LOCATION, NOTE):
        if (partial / name).exists():  # a move that was killed goes on
            (partial / name).replace(root / name)
    partial.rmdir()


def _complete(root: Path, data: DataConfig, simulation: SimulationConfig) -> bool:
    """Whether a folder holds all rooms with these settings."""
    note, text = root / NOTE, json.dumps(_description(data, simulation), indent=2)
    return note.exists() and note.stat().st_size == len(text) and note.read_bytes() == text.encode()


def _description(data: DataConfig, simulation: SimulationConfig) -> dict[str, object]:
    """All that decides the recordings, as JSON."""
    return {
        "version": VERSION,
        "simulation": simulation.model_dump(mode="json"),
        "output_size": data.output_size,
        "max_depth": data.max_depth,
        "frames": echo_frames(data.max_depth),
    }


def _prepare(folder: Path, data: DataConfig, simulation: SimulationConfig, own_lock: Path) -> None:
    """Make the folders, and forget what another setting left there, unless somebody is still at it."""
    note, text = folder / UNFINISHED, json.dumps(_description(data, simulation), indent=2)
    folder.mkdir(exist_ok=True)
    if not (note.exists() and note.read_text() == text):
        foreign = [path.name for path in folder.iterdir() if path.name != LOCATION and UNFINISHED not in path.name]
        if foreign:
            raise DataError(
                f"Rooms are rendered in {folder} before they get their name, and it holds something else: "
                f"{foreign[0]}. Move it, or give another folder."
            )
        others = folder.parent.glob(f"{glob.escape(folder.name)}.*-*.lock")
        if any(is_held(lock) for lock in others if lock != own_lock):
            raise DataError(
                f"Rooms with other settings are being rendered into {folder}. Wait for them, or give another folder."
            )
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        with replacing(note) as aside:  # before anything that would be taken for somebody else's
            aside.write_bytes(text.encode())
    for name in ("audio", "depth", "done"):
        (folder / LOCATION / name).mkdir(parents=True, exist_ok=True)


def check_reach(root: Path, max_depth: float) -> None:
    """Refuse rooms that were cut nearer than a training looks: what is cut would count as measured there.

    Raises:
        DataError: they were.
    """
    try:
        cut = json.loads(read_at_most(root / NOTE, MAX_NOTE))["max_depth"]
    except (OSError, ValueError, TypeError, LookupError):
        return  # these are not rooms that were rendered here
    if isinstance(cut, int | float) and cut < max_depth:
        raise DataError(
            f"The rooms in {root} were rendered up to {cut:g} m, and data.max_depth is {max_depth:g} m. "
            f"Train with --set data.max_depth={cut:g}, or render them anew with --max-depth {max_depth:g}."
        )


def _render_on_all_cores(folder: Path, simulation: SimulationConfig, progress: Progress | None, shard: Shard) -> None:
    """Run one process per core, each with its share of a part of the rooms, and watch them."""
    total = len(list_rooms(simulation))
    cores = min(own_cores(), max(1, total // shard.of // 8))
    shares = [(shard.part - 1 + shard.of * core, shard.of * cores) for core in range(cores)]
    if cores == 1:
        for _ in render_every(folder, *shares[0]):
            if progress is not None:
                progress("Rendering rooms", count_done(folder), total)
        return
    # Nothing is imported from the folder that the command happens to be called in.
    command = [
        sys.executable,
        "-P",
        "-c",
        "import sys; from base_residual.simulation.rendering import work; work(*sys.argv[1:])",
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    with ExitStack() as stack:
        workers = [
            stack.enter_context(
                subprocess.Popen(
                    [*command, str(folder), str(first), str(step)], env=environment, stderr=subprocess.PIPE
                )
            )
            for first, step in shares
        ]
        for worker in workers:
            stack.callback(worker.kill)  # runs before the worker is waited for
        while any(worker.poll() is None for worker in workers):
            time.sleep(0.1)
            if progress is not None:
                progress("Rendering rooms", count_done(folder), total)
        for worker in workers:
            if worker.returncode != 0:
                assert worker.stderr is not None
                said = worker.stderr.read().decode(errors="replace").strip().splitlines()
                reason = said[-1] if said else f"a worker ended with code {worker.returncode}"
                raise DataError(f"Rendering the simulated rooms failed: {reason}.")


def _write_index(folder: Path, simulation: SimulationConfig) -> None:
    """The CSV file of each split, and the note that says that all is there."""
    for split in SPLITS:
        names = [
            pose_name(split, number, pose)
            for other, number in list_rooms(simulation)
            if other == split
            for pose in range(simulation.poses)
        ]
        write_table(folder, LOCATION, split, names)
    for path in (folder / LOCATION / "done").iterdir():
        path.unlink()
    (folder / LOCATION / "done").rmdir()
    (folder / UNFINISHED).replace(folder / NOTE)
