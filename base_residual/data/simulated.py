"""Simulated rooms, rendered on all cores and written in the layout of BatVision V2."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from typing import NamedTuple

import xxhash
from filelock import FileLock
from rich.filesize import decimal

from base_residual.acoustics.chirp import SAMPLE_RATE
from base_residual.acoustics.framing import echo_frames
from base_residual.config.presets import SPLITS, VIEWS
from base_residual.config.resolve import make_config
from base_residual.config.schema import DataConfig, SimulationConfig
from base_residual.data.batvision import write_table
from base_residual.errors import ConfigError, DataError
from base_residual.files.atomic import discard, discard_temporary, read_at_most, write_whole
from base_residual.files.cache import Progress, cache_folder, is_held, locked
from base_residual.files.npy import FARTHEST
from base_residual.machine import own_cores
from base_residual.simulation.heads import read_head
from base_residual.simulation.meshes import read_mesh
from base_residual.simulation.rendering import LOCATION, UNFINISHED, count_done, list_rooms, pose_name, render_every

# Each pose takes the memory that the one before has freed, instead of new pages, which the system fills with zeros.
KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**28)}  # bytes, in glibc
LONGEST_WAIT = 0.012  # seconds until the direct sound has come: recordings last that much longer
FEW = 40_000  # recordings that are rendered because a file asks for them; some ten times those of the default
FINISHED = "rooms.json"  # file with the settings of the rooms in a folder, which is put there last
MAX_SETTINGS = 2**16  # bytes of it
RENDERED = re.compile(
    rf"{re.escape(UNFINISHED)}|{LOCATION}(/({'|'.join(SPLITS)})\.csv|/(audio|depth|layout|done)(/({'|'.join(SPLITS)})_\d{{6,}}"
    r"(_\d+\.(wav|npy))?)?)?"
)
"""The names of what is rendered, in a folder that is not finished."""

VERSION = 12
"""Raised whenever the same settings would give other recordings."""


def simulated_root(data: DataConfig, simulation: SimulationConfig, progress: Progress | None = None) -> Path:
    """Return the root of the cached rooms with these settings, which are rendered on first use.

    Args:
        data: gives the depth maps' side and the largest depth.
        simulation: the settings of the rooms.
        progress: told how far the rendering is.

    Returns:
        Root of a dataset in the layout of BatVision V2.
    """
    root = _cached(data, simulation)
    if not (root / FINISHED).exists():
        simulate(root, data, simulation, progress)
    return root


def _cached(data: DataConfig, simulation: SimulationConfig) -> Path:
    return cache_folder("rooms", _description(data, simulation))


def require_few(data: DataConfig, simulation: SimulationConfig) -> None:
    """Refuse to render many rooms that nobody at this machine has asked for, but a file.

    Raises:
        DataError: the rooms are not in the cache, and are more than a machine renders in half an hour.
    """
    if simulation.recordings <= FEW or (_cached(data, simulation) / FINISHED).exists():
        return
    usual = make_config()
    sections = {"simulation": (simulation, usual.simulation), "data": (data, usual.data)}
    settings = [
        f"--set {section}.{name}={quote(str(getattr(own, name)))}"
        for section, (own, default) in sections.items()
        for name in (type(own).model_fields if section == "simulation" else ("output_size", "max_depth"))
        if getattr(own, name) != getattr(default, name)
    ]
    raise DataError(
        f"The file asks for {simulation.recordings:,} simulated recordings, which are not here; no more than {FEW:,} "
        f"are rendered because a file says so. Render them with brdepth prepare {' '.join(settings)}, and try again."
    )


def _require_room(folder: Path, data: DataConfig, simulation: SimulationConfig, done: int) -> None:
    """Refuse to render what does not fit onto the disk.

    Raises:
        DataError: the recordings that are missing take more than there is.
    """
    each = 4 * echo_frames(data.max_depth) + 4 * data.output_size**2  # two ears and two maps, 2 bytes a number
    needed, free = each * max(0, simulation.recordings - done * simulation.poses), shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"The simulated rooms take {decimal(needed)}, and there are {decimal(free)} free in {folder.parent}. Make "
            "them fewer, or give another folder."
        )


class Shard(NamedTuple):
    """A part of a set of rooms: its number, from 1, and the number of all parts. It has every `total`-th room."""

    number: int = 1
    total: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read a part such as `"2/8"`.

        Raises:
            ConfigError: the text has no such form.
        """
        number, slash, total = text.partition("/")
        if slash and number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total):
            return cls(int(number), int(total))
        raise ConfigError(f"Cannot read the shard '{text}'. Write it as i/n with 1 <= i <= n, such as 2/8.")


def simulate(
    root: Path,
    data: DataConfig,
    simulation: SimulationConfig,
    progress: Progress | None = None,
    shard: Shard = Shard(),  # noqa: B008 - immutable
) -> bool:
    """Render rooms on all cores and write them as a dataset.

    Rooms are rendered in a folder beside `root`, named with `.partial`, and moved when all are done. A rendering that
    was killed continues where it ended.

    Args:
        root: folder to create; it must not exist yet, or be empty.
        data: gives the depth maps' side and the largest depth.
        simulation: the settings of the rooms.
        progress: told how far the rendering is.
        shard: the part to render; other processes and machines may render theirs at the same time. Each room has its
            own seed, so its content does not depend on the part.

    Returns:
        True if all rooms are finished, False while other parts are missing.

    Raises:
        DataError: the folder is a whole disk, is not empty or cannot be written to, a worker failed, the folder
            beside it holds other files, or there are no rooms with these settings.
    """
    _check_settings(data, simulation)
    root = root.resolve()
    if not root.name or root.is_mount():  # neither can be created or moved
        raise DataError(f"{root} is a whole disk. Give a new folder in it for the simulated rooms.")
    partial = root.with_name(f"{root.name}.partial")
    own_lock = Path(f"{partial}.{shard.number}-{shard.total}.lock")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with locked(own_lock, progress=progress):
            with FileLock(f"{partial}.lock"):
                if _is_complete(root, data, simulation):
                    return True  # another process has just made it
                rendered = _is_complete(partial, data, simulation)
                moving = rendered and not (partial / LOCATION).exists()
                if not moving and root.exists() and any(root.iterdir()):
                    raise DataError(f"{root} is not empty. Give a new folder for the simulated rooms.")
                if not rendered:
                    _prepare(partial, data, simulation, own_lock)
                    _require_room(partial, data, simulation, count_done(partial))
            if not rendered:
                _render_on_all_cores(partial, simulation, progress, shard)
            with FileLock(f"{partial}.lock"):
                if not _is_complete(root, data, simulation):
                    if (partial / UNFINISHED).exists() and count_done(partial) == len(list_rooms(simulation)):
                        _finish(partial, simulation)
                    if _is_complete(partial, data, simulation):
                        _move(partial, root)
                return _is_complete(root, data, simulation)
    except OSError as error:
        raise DataError(f"Cannot write the simulated rooms to {root}: {error.strerror or error}.") from error
    finally:
        if not partial.exists():
            discard(Path(f"{partial}.lock"))


def _check_settings(data: DataConfig, simulation: SimulationConfig) -> None:
    """Check the largest depth, and read the files that the settings name, before any process starts.

    Raises:
        DataError: a map cannot hold that depth, or the file with the measured head or the scene is broken.
    """
    if data.max_depth > FARTHEST:
        raise DataError(
            f"Maps of simulated rooms hold depth up to {FARTHEST:g} m, and data.max_depth is {data.max_depth:g} m. "
            "Lower it."
        )
    if simulation.head:
        read_head(simulation.head)
    if simulation.scene:
        read_mesh(simulation.scene, simulation.up)


def _move(partial: Path, root: Path) -> None:
    """Move complete rooms into `root`, their settings last.

    The folder `root` itself is kept, because the command may have been called in it.
    """
    root.mkdir(exist_ok=True)
    for name in (LOCATION, FINISHED):
        if (partial / name).exists():  # otherwise an earlier move, which was killed, has moved it
            (partial / name).replace(root / name)
    partial.rmdir()


def _is_complete(root: Path, data: DataConfig, simulation: SimulationConfig) -> bool:
    """Return whether a folder holds all rooms with these settings."""
    file, text = root / FINISHED, json.dumps(_description(data, simulation), indent=2)
    return file.exists() and file.stat().st_size == len(text) and file.read_bytes() == text.encode()


def _description(data: DataConfig, simulation: SimulationConfig) -> dict[str, object]:
    """Return all settings that decide the recordings, as plain data, and the hashes of the files among them.

    Raises:
        DataError: one of the files cannot be read.
    """
    return {
        "version": VERSION,
        "simulation": simulation.model_dump(mode="json"),
        "output_size": data.output_size,
        "max_depth": data.max_depth,
        "frames": echo_frames(data.max_depth) + round(LONGEST_WAIT * SAMPLE_RATE),
        "head": simulation.head and _digest(simulation.head),
        "scene": simulation.scene and _digest(simulation.scene),
    }


def _digest(path: Path) -> str:
    """Return the hash of a file's content."""
    if not path.is_file():  # a device has no end
        raise DataError(f"There is no file {path}, from which rooms are simulated.")
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error


def _prepare(folder: Path, data: DataConfig, simulation: SimulationConfig, own_lock: Path) -> None:
    """Create the folders, and remove unfinished rooms with other settings.

    Raises:
        DataError: another process is rendering those, or the folder holds other files.
    """
    file, text = folder / UNFINISHED, json.dumps(_description(data, simulation), indent=2)
    if folder.is_symlink():  # who has put it there would have the rooms where they like
        raise DataError(f"Rooms are rendered in {folder} before they get their name, and it is a link. Remove it.")
    folder.mkdir(exist_ok=True)
    discard_temporary(folder)
    if not (file.exists() and file.read_bytes() == text.encode()):
        found = sorted(folder.rglob("*"), reverse=True)  # what lies in a folder before the folder
        names = [path.relative_to(folder).as_posix() for path in found]
        foreign = [name for name in names if not RENDERED.fullmatch(name)]
        if foreign:
            raise DataError(
                f"Rooms are rendered in {folder} before they get their name, and it holds something else: "
                f"{foreign[-1]}. Move it, or give another folder."
            )
        others = folder.parent.glob(f"{glob.escape(folder.name)}.*-*.lock")
        if any(is_held(lock) for lock in others if lock != own_lock):
            raise DataError(
                f"Rooms with other settings are being rendered into {folder}. Wait for them, or give another folder."
            )
        for path in found:
            path.rmdir() if path.is_dir() else path.unlink()
        write_whole(file, text)  # first, because a folder with other files and without it is refused
    for name in ("audio", "depth", "layout", "done"):
        (folder / LOCATION / name).mkdir(parents=True, exist_ok=True)


def check_rendered(root: Path, data: DataConfig) -> None:
    """Check that simulated rooms were rendered up to `data.max_depth`, and seen by the camera of the settings.

    Depth beyond the rendered limit is clipped to it. A training with a larger limit would take the clipped depth for
    measured depth, and one with another camera would put every point elsewhere.

    Raises:
        DataError: they were rendered with a smaller limit, or by a rig with another camera.
    """
    try:
        rendered = json.loads(read_at_most(root / FINISHED, MAX_SETTINGS))
        reach = rendered["max_depth"]
    except (OSError, ValueError, TypeError, LookupError):
        return  # not rooms that this package has rendered
    if isinstance(reach, int | float) and reach < data.max_depth:
        raise DataError(
            f"The rooms in {root} were rendered up to {reach:g} m, and data.max_depth is {data.max_depth:g} m. "
            f"Train with --set data.max_depth={reach:g}, or render them anew with --max-depth {data.max_depth:g}."
        )
    try:
        rig = rendered["simulation"]["rig"]
        view = VIEWS[rig]
    except (TypeError, LookupError):
        return  # from before there were rigs
    if data.name == "simulated" and view != data.field_of_view:
        raise DataError(
            f"The rooms in {root} were seen by the camera of the rig '{rig}', {view[0]:g} x {view[1]:g} degrees, and "
            f"the settings have another. Train with --set simulation.rig={rig}, or read them as recordings, with "
            "--dataset batvisionv2."
        )


def _render_on_all_cores(folder: Path, simulation: SimulationConfig, progress: Progress | None, shard: Shard) -> None:
    """Render a part of the rooms with one process per core; raise a DataError if one of them fails."""
    total = len(list_rooms(simulation))
    cores = min(own_cores(), max(1, total // shard.total // 8))
    shares = [(shard.number - 1 + shard.total * core, shard.total * cores) for core in range(cores)]
    if cores == 1:
        for _ in render_every(folder, *shares[0]):
            if progress is not None:
                progress("Rendering rooms", count_done(folder), total)
        return
    # With -P, nothing is imported from the current folder.
    command = [
        sys.executable,
        "-P",
        "-c",
        "import sys; from base_residual.simulation.rendering import run_worker; run_worker(*sys.argv[1:])",
    ]
    environment = KEPT_MEMORY | os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
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
            stack.callback(worker.kill)  # runs before the exit of Popen, which waits for the worker
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


def _finish(folder: Path, simulation: SimulationConfig) -> None:
    """Write the table of each split, remove the markers, and mark the rooms as finished."""
    for split in SPLITS:
        names = [
            pose_name(split, number, pose)
            for other, number in list_rooms(simulation)
            if other == split
            for pose in range(simulation.poses)
        ]
        write_table(folder, LOCATION, split, names, empty_room="layout")
    for path in (folder / LOCATION / "done").iterdir():
        path.unlink()
    (folder / LOCATION / "done").rmdir()
    (folder / UNFINISHED).replace(folder / FINISHED)
