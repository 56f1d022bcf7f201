"""A split of a dataset as two memory-mapped arrays: what training reads is a copy out of the page cache.

A prepared set is a folder with `waveform.npy`, float16 (N, 2, T) in [-1, 1], `depth.npy`, uint16 (N, S, S) in the unit
that the index states, and `index.json`: the settings, and name, size, time and hash of every file it was made from.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from base_residual.data.batvision import BatVision, Recording
from base_residual.data.sample import EchoBatch, EchoSample
from base_residual.errors import DataError, RunError
from base_residual.files.atomic import read_at_most, replacing
from base_residual.files.cache import Progress, cached, locked
from base_residual.files.npy import map_array
from base_residual.machine import own_cores

VERSION = 1
"""Raised whenever the same files and settings would give other arrays."""

MILLIMETRE = 0.001
MAX_STAMPS = 512  # bytes in the index for the two stamps of a recording
AT_ONCE = 64  # recordings in memory at a time
NOTES = 50  # times that a preparing writes down how far it is


class Stamp(NamedTuple):
    """What tells whether a file is still the one that was read: size in bytes, time in ns, and 128 bits of its content.

    XXH3 is much faster than a cryptographic hash. It finds what has changed, and not what somebody has made to look
    unchanged.
    """

    size: int
    time: int
    xxh3: str


class Index(BaseModel):
    """What a prepared set, or the part of one that is done, was made from.

    Attributes:
        settings: all that decides the arrays, but the files themselves.
        depth_unit: of the depth array, in metres.
        ids: names of all recordings.
        files: of each recording, from the root on.
        stamps: of the files of each recording that is done.
    """

    model_config = ConfigDict(extra="forbid")

    settings: dict[str, str | int | float]
    depth_unit: float
    ids: list[str]
    files: list[tuple[str, ...]]
    stamps: list[tuple[Stamp, ...]]


class PreparedSet:
    """Samples of a prepared set, one at a time or a whole batch at once.

    Args:
        folder: of the set.
        index: what its index.json holds.
    """

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder, self.ids, self.unit = folder, index.ids, index.depth_unit
        self._open()

    def fits(self, source: BatVision) -> bool:
        """Whether the arrays have the types and shapes of a split's."""
        arrays = {"waveform.npy": self._waveform, "depth.npy": self._depth}
        return all(
            arrays[name].dtype == kind and arrays[name].shape == shape
            for name, (kind, shape) in _arrays(source).items()
        )

    def _open(self) -> None:
        self._waveform = map_array(self.folder / "waveform.npy")
        self._depth = map_array(self.folder / "depth.npy")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> EchoSample:
        waveform, depth, (name,) = self.__getitems__([range(len(self))[index]])
        return EchoSample(waveform[0], depth[0, 0], name)

    def __getitems__(self, indices: Sequence[int]) -> EchoBatch:
        """A whole batch; PyTorch's loader asks for it by this name."""
        waveform = torch.from_numpy(self._waveform[indices]).float()
        depth = np.empty((len(indices), 1, *self._depth.shape[1:]), np.float32)
        for row, index in zip(depth, indices, strict=True):  # one pass from the page cache to metres, and no copy
            np.multiply(self._depth[index], np.float32(self.unit), out=row[0], dtype=np.float32)
        return EchoBatch(waveform, torch.from_numpy(depth), [self.ids[index] for index in indices])

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the files itself instead of being sent what they hold.
        return {key: value for key, value in self.__dict__.items() if key not in ("_waveform", "_depth")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def prepared(source: BatVision, progress: Progress | None = None) -> PreparedSet:
    """The prepared set of a split, made on first use and made anew when a file or a setting has changed.

    Args:
        source: the split, read file by file.
        progress: told how far the preparing is.

    Raises:
        DataError: a recording cannot be read, or the set cannot be written.
    """
    folder = cached("prepared", _settings(source))
    made = _open_fresh(folder, source)  # without a lock, for which the cache would have to be one to write to
    if made is not None:
        return made
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(Path(f"{folder}.lock"), progress=progress):
            made = _open_fresh(folder, source)  # another process may just have made it
            if made is None:
                _make(folder, source, progress)
                made = _open_fresh(folder, source)
    except OSError as error:
        raise DataError(f"Cannot prepare {source.root} in {folder}: {error.strerror or error}.") from error
    if made is None:
        raise DataError(f"The recordings in {source.root} changed while they were being prepared. Try again.")
    return made


def _settings(source: BatVision) -> dict[str, str | int | float]:
    return {
        "version": VERSION,
        "root": str(source.root.resolve()),
        "tables": source.layout.tables,
        "split": source.split,
        "output_size": source.data.output_size,
        "max_depth": source.data.max_depth,
        "sample_rate": source.sample_rate,
        "align_onset": source.data.align_onset,
    }


def _open_fresh(folder: Path, source: BatVision) -> PreparedSet | None:
    """A set that is there, complete and up to date; None where it must be made."""
    index = _fresh_index(folder, source)
    if index is None or len(index.stamps) < len(source):
        return None
    try:
        found = PreparedSet(folder, index)
    except (OSError, ValueError):  # an array is gone or cut short
        return None
    return found if found.fits(source) else None


def _fresh_index(folder: Path, source: BatVision) -> Index | None:
    """The index in a folder, if every file that it names is still as it was; it may name only the first ones."""
    expected = _empty_index(source)
    most = len(expected.model_dump_json().encode()) + MAX_STAMPS * len(source)
    try:
        index = Index.model_validate_json(read_at_most(folder / "index.json", most))
    except (OSError, ValidationError):
        return None
    if index.model_copy(update={"stamps": []}) != expected or len(index.stamps) > len(source):
        return None
    done = list(zip(source.recordings, index.stamps, strict=False))
    if any(len(item.files) != len(stamps) for item, stamps in done):
        return None
    stamps = []
    for item, noted in done:
        found = tuple(_unchanged(path, stamp) for path, stamp in zip(item.files, noted, strict=True))
        if None in found:
            return None
        stamps.append(found)
    if stamps != index.stamps:  # the same files, written again: next time they need not be read to know that
        index = index.model_copy(update={"stamps": stamps})
        with suppress(RunError), replacing(folder / "index.json") as aside:
            aside.write_text(index.model_dump_json(), encoding="utf-8")
    return index


def _empty_index(source: BatVision) -> Index:
    """The index of a split of which nothing is done yet."""
    unit = max(MILLIMETRE, source.data.max_depth / np.iinfo(np.uint16).max)
    root = f"{source.root}{os.sep}"
    files = [tuple(str(path).removeprefix(root) for path in item.files) for item in source.recordings]
    ids = [item.id for item in source.recordings]
    return Index(settings=_settings(source), depth_unit=unit, ids=ids, files=files, stamps=[])


def _arrays(source: BatVision) -> dict[str, tuple[type, tuple[int, ...]]]:
    """Type and shape of the arrays of a split, by the names of their files."""
    count, size = len(source), source.data.output_size
    return {"waveform.npy": (np.float16, (count, 2, source.frames)), "depth.npy": (np.uint16, (count, size, size))}


def _has_rows(folder: Path, source: BatVision, done: int) -> bool:
    """Whether both arrays are long enough to hold the first `done` recordings."""
    try:
        return all(
            (folder / name).stat().st_size >= len(_header(kind, shape)) + done * _row_size(kind, shape)
            for name, (kind, shape) in _arrays(source).items()
        )
    except OSError:
        return False


def _unchanged(path: Path, stamp: Stamp) -> Stamp | None:
    """The stamp of a file that is as it was, by size and time, or by content where only the time differs; else None."""
    try:
        found = path.stat()
        if (found.st_size, found.st_mtime_ns) == (stamp.size, stamp.time):
            return stamp
        new = _stamp(path) if found.st_size == stamp.size else None
        return new if new and new.xxh3 == stamp.xxh3 else None
    except OSError:
        return None


def _stamp(path: Path) -> Stamp:
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        return Stamp(found.st_size, found.st_mtime_ns, hashlib.file_digest(file, xxhash.xxh3_128).hexdigest())


def _make(folder: Path, source: BatVision, progress: Progress | None) -> None:
    """Read every recording on all cores, write the arrays beside the set and move them there when all is done.

    What was killed is taken up where it ended, as long as the recordings are the same.
    """
    partial, count = folder.with_name(f"{folder.name}.partial"), len(source)
    index = _fresh_index(partial, source)
    if index is None or not _has_rows(partial, source, len(index.stamps)):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        index = _empty_index(source)
    done = len(index.stamps)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(own_cores()))
        waveforms, depths = (
            stack.enter_context(_rows(partial / name, kind, shape, done))
            for name, (kind, shape) in _arrays(source).items()
        )
        next_note = done
        for places in _chunks(range(done, count)):
            for item in pool.map(lambda place: _read(source, place, index.depth_unit), places):
                waveforms.write(item.waveform.tobytes())
                depths.write(item.depth.tobytes())
                index.stamps.append(item.stamps)
            if progress is not None:
                progress("Preparing recordings", len(index.stamps), count)
            if len(index.stamps) >= next_note or len(index.stamps) == count:
                next_note = len(index.stamps) + count // NOTES
                for file in (waveforms, depths):  # what the index says is done must be there, whatever happens next
                    file.flush()
                    os.fsync(file.fileno())
                with replacing(partial / "index.json") as aside:
                    aside.write_text(index.model_dump_json(), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


class _Row(NamedTuple):
    """One recording as it is stored."""

    waveform: NDArray[np.float16]
    depth: NDArray[np.uint16]
    stamps: tuple[Stamp, ...]


def _read(source: BatVision, place: int, unit: float) -> _Row:
    recording: Recording = source.recordings[place]
    stamps = tuple(_stamp(path) if path.is_file() else Stamp(0, 0, "") for path in recording.files)
    sample = source[place]
    depth = sample.depth.numpy()
    # What was measured stays measured, however near.
    steps = np.where(depth > 0, np.maximum(np.round(depth / unit), 1), 0)
    return _Row(sample.waveform.half().numpy(), steps.astype(np.uint16), stamps)


def _rows(path: Path, kind: type, shape: tuple[int, ...], done: int) -> BinaryIO:
    """An `.npy` file of that type and shape, opened to write the row after the first `done`."""
    file = path.open("r+b" if done else "w+b")
    file.write(_header(kind, shape))
    file.seek(done * _row_size(kind, shape), os.SEEK_CUR)
    file.truncate()
    return file


def _header(kind: type, shape: tuple[int, ...]) -> bytes:
    """The header of an `.npy` file of that type and shape."""
    header = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(np.dtype(kind))
    np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": shape})
    return header.getvalue()


def _row_size(kind: type, shape: tuple[int, ...]) -> int:
    """Bytes of one recording in an array of that type and shape."""
    return math.prod(shape[1:]) * np.dtype(kind).itemsize


def _chunks(places: range) -> Iterator[range]:
    for start in range(0, len(places), AT_ONCE):
        yield places[start : start + AT_ONCE]
