"""The one-off conversion of VisualEchoes, echoes in the 18 scenes of Replica, into the layout of BatVision V2.

Its depth maps come as a pickle, a format that can run code. This is the only module that opens such a file. Not even
numpy's own classes are given to it, because their arguments would come from the file: sizes, object types, states. The
few names that an array needs are replaced by the stand-ins below, and all others are refused.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import Timeout
from numpy.typing import NDArray

from base_residual.data.batvision import write_table
from base_residual.data.depth_maps import check_unit, clean_depth
from base_residual.errors import DataError
from base_residual.files.cache import Progress, locked
from base_residual.files.npy import FARTHEST, in_millimetres

SWEEP = "3ms_sweep"
SCENES = {
    "train": [
        "apartment_0",
        "frl_apartment_0",
        "frl_apartment_1",
        "frl_apartment_2",
        "frl_apartment_3",
        "hotel_0",
        "office_0",
        "office_1",
        "office_2",
        "room_0",
        "room_1",
        "room_2",
    ],
    "val": ["apartment_1", "frl_apartment_4", "office_3"],
    "test": ["apartment_2", "frl_apartment_5", "office_4"],
}
"""The scenes of each split. The test scenes are those of the field; of its 15 training scenes, 3 are for validation."""

FOREIGN = {"PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "NEXT_BUFFER"}
"""The instructions of a pickle that arrays do not need; some find or make objects without asking `find_class`."""

PLAIN = re.compile(r"[biuf][1248]")  # booleans, integers and floats; no objects


def convert_replica(observations: Path, echoes: Path, out: Path, progress: Progress | None = None) -> int:
    """Convert VisualEchoes into the layout of BatVision V2, a location per scene, each scene in one split.

    Args:
        observations: `scene_observations_128.pkl`, {scene: {(location, angle): {"rgb", "depth"}}}, depth in metres.
        echoes: the folder `echoes_navigable`, with SCENE/3ms_sweep/ANGLE/LOCATION.wav.
        out: folder to create.
        progress: told how far the conversion is.

    Returns:
        Number of recordings.

    Raises:
        DataError: a file is missing or not as expected, the pickle names anything but numpy's arrays, or `out`
            exists, cannot be written, or is being written by another process.
    """
    if out.exists():
        raise DataError(f"{out} exists already. Name a folder that does not.")
    maps = _depth_maps(observations)
    partial = out.with_name(f".{out.name}.{secrets.token_hex(16)}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(out.with_name(f".{out.name}.partial.lock"), wait=False):
            left = re.compile(rf"\.{re.escape(out.name)}\.[0-9a-f]{{32}}\.partial")
            for path in [path for path in out.parent.iterdir() if left.fullmatch(path.name)]:
                shutil.rmtree(path, ignore_errors=True)  # of a conversion that was killed
            _write(maps, observations, echoes, partial, progress)
            partial.replace(out)
    except Timeout as error:
        raise DataError(f"Another process is converting into {out}. Wait for it, or name another folder.") from error
    except OSError as error:
        raise DataError(f"Cannot convert into {out}: {error.strerror or error}.") from error
    return len(maps)


def _write(
    maps: dict[tuple[str, int, int], NDArray[Any]],
    observations: Path,
    echoes: Path,
    partial: Path,
    progress: Progress | None,
) -> None:
    """Write all recordings into a new folder; remove the folder if that fails."""
    split_of = {scene: split for split, scenes in SCENES.items() for scene in scenes}
    names: dict[str, list[str]] = {}
    partial.mkdir()
    try:
        for done, ((scene, location, angle), depth) in enumerate(sorted(maps.items()), start=1):
            name = f"{location:04d}_{angle:03d}"
            if scene not in names:
                for kind in ("audio", "depth"):
                    (partial / scene / kind).mkdir(parents=True)
            names.setdefault(scene, []).append(name)
            echo = echoes / scene / SWEEP / f"{angle}" / f"{location}.wav"
            if not echo.is_file():
                raise DataError(f"The recording {echo} does not exist, but {observations} has its depth map.")
            shutil.copyfile(echo, partial / scene / "audio" / f"{name}.wav")
            metres = depth.astype(np.float32)
            check_unit(metres, FARTHEST, f"The depth map of {scene} at {(location, angle)} in {observations}", "metres")
            stored = in_millimetres(clean_depth(metres, FARTHEST))
            np.save(partial / scene / "depth" / f"{name}.npy", stored, allow_pickle=False)
            if progress is not None:
                progress("Converting recordings", done, len(maps))
        for scene, listed in names.items():
            write_table(partial, scene, split_of[scene], listed)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _depth_maps(path: Path) -> dict[tuple[str, int, int], NDArray[Any]]:
    """Read the depth maps (H, W) in metres, by scene, location and angle."""
    known = [scene for scenes in SCENES.values() for scene in scenes]
    maps = {}
    for scene, views in _entries(path, _load(path)):
        if scene not in known:
            raise DataError(f"{path} has a scene {scene!r}, which is none of Replica's {len(known)}.")
        for place, view in _entries(path, views):
            array = dict(_entries(path, view)).get("depth")
            named = isinstance(place, tuple) and len(place) == 2 and all(type(number) is int for number in place)
            if not named or not isinstance(array, _Array) or array.values.ndim != 2:
                raise DataError(f"{path} has no depth map (H, W) for each (location, angle) of {scene}.")
            maps[scene, *place] = array.values
    if not maps:
        raise DataError(f"{path} holds no depth map.")
    return maps


def _entries(path: Path, value: object) -> list[tuple[Any, Any]]:
    """Return the entries of a dictionary in the pickle; raise a DataError if it is none."""
    if not isinstance(value, dict):
        raise DataError(f"{path} does not hold {{scene: {{(location, angle): {{'rgb', 'depth'}}}}}}.")
    return list(value.items())


def _load(path: Path) -> object:
    """Load a pickle of arrays by stand-ins; no function or class that it names is called."""
    try:
        with path.open("rb") as file:
            _refuse_foreign(path, file)
            file.seek(0)
            return _Unpickler(file).load()
    except DataError:
        raise
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
    except MemoryError as error:  # a forged size cannot be told from a file that is too large
        raise DataError(f"{path} is no pickle of numpy arrays, or asks for more memory than there is.") from error
    except Exception as error:  # a broken pickle can raise any exception
        raise DataError(f"{path} is no pickle of numpy arrays.") from error


def _refuse_foreign(path: Path, file: IO[bytes]) -> None:
    """Refuse a pickle that an array does not need, or that costs more than it holds.

    It may not ask for objects by other ways than their names (persistent ids, the registry of extensions, buffers from
    outside), nor make objects of its own, nor skip indices of its memo, for which the unpickler would allocate all
    indices below.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name in FOREIGN:
            raise DataError(f"{path} is no pickle of numpy arrays: it holds the instruction {opcode.name}.")
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > count:
            raise DataError(f"{path} is no pickle of numpy arrays: it asks for more memory than it can fill.")


class _Type:
    """The stand-in for `numpy.dtype`: plain numbers of either byte order."""

    def __init__(self, code: str, *_: object) -> None:
        if not PLAIN.fullmatch(code):
            raise ValueError
        self.numpy = np.dtype(code)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.numpy = self.numpy.newbyteorder(state[1])


class _Array:
    """The stand-in for `numpy.ndarray`: a view of bytes in the file, so that a forged shape allocates nothing."""

    values: NDArray[Any]

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, kind, fortran, data = state
        self.values = np.frombuffer(data, kind.numpy).reshape(shape, order="F" if fortran else "C")


def _empty(*_: object) -> _Array:
    """Stand in for `_reconstruct`: return an array whose state follows."""
    return _Array()


def _from_buffer(data: bytes, kind: _Type, shape: tuple[int, ...], order: str) -> _Array:
    """Stand in for `_frombuffer`: return an array with its state."""
    array = _Array()
    array.__setstate__((1, shape, kind, order == "F", data))
    return array


def _number(kind: _Type, data: bytes) -> int | float:
    """Stand in for `scalar`: return a plain number."""
    value: int | float = np.frombuffer(data, kind.numpy)[0].item()
    return value


class _StandIn:
    """The object that a pickle gets for a name. It can be called, but its attributes cannot be set (opcode BUILD)."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., object]) -> None:
        self._call = call

    def __call__(self, *arguments: object) -> object:
        return self._call(*arguments)

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError


ADMITTED = {
    ("numpy", "dtype"): _StandIn(_Type),
    ("numpy", "ndarray"): _StandIn(_Array),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _StandIn(_empty) for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _StandIn(_number) for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _StandIn(_from_buffer) for core in ("core", "_core")},
}
"""The stand-in for each name that a pickle of arrays may use, from before and after numpy 2."""


class _Unpickler(pickle.Unpickler):
    """An unpickler that finds the admitted names only."""

    def find_class(self, module: str, name: str) -> _StandIn:
        if (module, name) not in ADMITTED:
            raise DataError(
                f"The pickle asks for {module}.{name}, which is no part of a numpy array. Nothing of it was run."
            )
        return ADMITTED[module, name]
