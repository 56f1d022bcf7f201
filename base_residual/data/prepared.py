"""A prepared set: a split of a dataset as two memory-mapped arrays, which training reads out of the page cache.

It is a folder with `waveform.npy`, float16 (N, 2, T), the loudest sample of each recording 1, `depth.npy`, uint16
(N, S, S) in the unit that the index states, `empty_room.npy`, the same of the empty rooms where they are known, and
`index.json`: the settings, and name, size, times and hash of every file that it was made from.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from base_residual.acoustics.hearing import unit_peak
from base_residual.data.batvision import BatVision
from base_residual.data.sample import EchoBatch, EchoSample
from base_residual.errors import DataError, RunError
from base_residual.files.atomic import read_at_most, write_whole
from base_residual.files.cache import Progress, cache_folder, locked
from base_residual.files.npy import RowLayout, map_array
from base_residual.machine import own_cores

VERSION = 4
"""Raised whenever the same files and settings would give other arrays."""

MILLIMETRE = 0.001
MAPS = ("depth.npy", "empty_room.npy")
MAX_STAMPS = 1152  # bytes in the index for the three stamps of a recording
AT_ONCE = 64  # recordings in memory at a time, or `TOGETHER` for each core, if these are more
TOGETHER = 16  # recordings that a thread reads and hears together; one by one takes three times as long
INDEX_WRITES = 50  # times that the index of a set is written while the set is made


class Stamp(NamedTuple):
    """The identity of a file's content.

    An archive gives many files one time and restores it, so that files of one size can change places unnoticed by size
    and time alone. Nothing restores the time of the last change of a file's entry or its number on the disk.

    Attributes:
        size: in bytes.
        time: of the last change of the content, in ns.
        entry_time: of the last change of the file's entry (ctime), in ns; on Windows, of its creation.
        number: of the file on its disk (inode).
        xxh3: hash of the content, of 128 bits; much faster than a cryptographic one, and no protection against forgery.
    """

    size: int
    time: int
    entry_time: int
    number: int
    xxh3: str

    @classmethod
    def of(cls, status: os.stat_result, xxh3: str) -> Stamp:
        """Return the stamp of a file with that status and content."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, xxh3)


class Index(BaseModel):
    """The settings and files that a prepared set, or an unfinished one, was made from.

    Attributes:
        settings: all settings that decide the arrays.
        depth_unit: of the depth array, in metres.
        ids: names of all recordings.
        files: of each recording, relative to the root.
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
        index: of the set.
    """

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder, self.ids, self.unit = folder, index.ids, index.depth_unit
        contents = "".join(stamp.xxh3 for stamps in index.stamps for stamp in stamps)
        self.files_hash = xxhash.xxh3_128(contents.encode()).hexdigest()
        self._open()

    def matches(self, source: BatVision) -> bool:
        """Return whether the arrays have the types and shapes that the settings of a split ask for."""
        arrays, layouts = {"waveform.npy": self._waveform} | self._maps, _layouts(source)
        return arrays.keys() == layouts.keys() and all(
            arrays[name].dtype == layout.kind and arrays[name].shape == layout.shape for name, layout in layouts.items()
        )

    def _open(self) -> None:
        self._waveform = map_array(self.folder / "waveform.npy")
        names = [name for name in MAPS if (self.folder / name).exists()]
        self._maps = {name: map_array(self.folder / name) for name in names}

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> EchoSample:
        waveform, depth, (name,), empty = self.__getitems__([range(len(self))[index]])
        return EchoSample(waveform[0], depth[0, 0], name, None if empty is None else empty[0, 0])

    def __getitems__(self, indices: Sequence[int]) -> EchoBatch:
        """Read a whole batch; PyTorch's loader calls this method by name."""
        waveform = torch.from_numpy(self._waveform[indices]).float()
        depth, *empty = (self._metres(stored, indices) for stored in self._maps.values())
        return EchoBatch(waveform, depth, [self.ids[index] for index in indices], empty[0] if empty else None)

    def _metres(self, stored: NDArray[np.uint16], indices: Sequence[int]) -> Tensor:
        """Read maps in metres, (B, 1, S, S)."""
        maps = np.empty((len(indices), 1, *stored.shape[1:]), np.float32)
        for row, index in zip(maps, indices, strict=True):  # one pass from the page cache to metres, without a copy
            np.multiply(stored[index], np.float32(self.unit), out=row[0], dtype=np.float32)
        return torch.from_numpy(maps)

    def __getstate__(self) -> dict[str, Any]:
        # The arrays are left out, because another process maps the files itself.
        return {key: value for key, value in self.__dict__.items() if key not in ("_waveform", "_maps")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open()


def prepared(source: BatVision, progress: Progress | None = None) -> PreparedSet:
    """Return the prepared set of a split. It is made on first use, and anew when a file or a setting has changed.

    Args:
        source: the split, read file by file.
        progress: told how far the preparing is.

    Raises:
        DataError: a recording cannot be read, or the set cannot be written.
    """
    folder = cache_folder("prepared", _settings(source))
    opened = _open_fresh(folder, source)  # without a lock, which needs a writable cache
    if opened is not None:
        return opened
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(Path(f"{folder}.lock"), progress=progress):
            opened = _open_fresh(folder, source)  # another process may just have made it
            if opened is None:
                _make(folder, source, progress)
                opened = _open_fresh(folder, source)
    except OSError as error:
        raise DataError(f"Cannot prepare {source.root} in {folder}: {error.strerror or error}.") from error
    if opened is None:
        raise DataError(f"The recordings in {source.root} changed while they were being prepared. Try again.")
    return opened


def _settings(source: BatVision) -> dict[str, str | int | float]:
    """Return all settings that decide the arrays of a split."""
    return {
        "version": VERSION,
        "root": str(source.root.resolve()),
        "tables": source.layout.tables,
        "split": source.split,
        "output_size": source.data.output_size,
        "max_depth": source.data.max_depth,
        "sample_rate": source.audio.sample_rate,
        "emission": source.audio.emission,
    }


def _open_fresh(folder: Path, source: BatVision) -> PreparedSet | None:
    """Open a set that is complete and up to date; return None if it must be made."""
    index = _fresh_index(folder, source)
    if index is None or len(index.stamps) < len(source):
        return None
    try:
        opened = PreparedSet(folder, index)
    except (OSError, ValueError):  # an array is gone or cut short
        return None
    return opened if opened.matches(source) else None


def _fresh_index(folder: Path, source: BatVision) -> Index | None:
    """Read the index in a folder. Return None unless it fits the split and no file of its recordings has changed.

    The index of an unfinished set covers only the first recordings of the split.
    """
    expected = _empty_index(source)
    most = len(expected.model_dump_json().encode()) + MAX_STAMPS * len(source)
    try:
        index = Index.model_validate_json(read_at_most(folder / "index.json", most))
    except (OSError, ValidationError):
        return None
    if index.model_copy(update={"stamps": []}) != expected or len(index.stamps) > len(source):
        return None
    done = list(zip(source.recordings, index.stamps, strict=False))
    if any(len(recording.files) != len(stamps) for recording, stamps in done):
        return None
    stamps = []
    for recording, old in done:
        current = tuple(_unchanged(path, stamp) for path, stamp in zip(recording.files, old, strict=True))
        if None in current:
            return None
        stamps.append(current)
    if stamps != index.stamps:  # files with the same content were written again; with their new time they are not read
        index = index.model_copy(update={"stamps": stamps})
        with suppress(RunError):
            write_whole(folder / "index.json", index.model_dump_json())
    return index


def _empty_index(source: BatVision) -> Index:
    """Return the index of a split before its first recording is done."""
    unit = max(MILLIMETRE, source.data.max_depth / np.iinfo(np.uint16).max)
    root = f"{source.root}{os.sep}"
    files = [tuple(str(path).removeprefix(root) for path in recording.files) for recording in source.recordings]
    ids = [recording.id for recording in source.recordings]
    return Index(settings=_settings(source), depth_unit=unit, ids=ids, files=files, stamps=[])


def _layouts(source: BatVision) -> dict[str, RowLayout]:
    """Return the layouts of the arrays of a split, by the names of their files; a row is a recording."""
    count, size = len(source), source.data.output_size
    known = any(recording.empty_room for recording in source.recordings)
    maps = dict.fromkeys(MAPS if known else MAPS[:1], RowLayout(np.uint16, (count, size, size)))
    return {"waveform.npy": RowLayout(np.float16, (count, 2, source.frames))} | maps


def _has_rows(folder: Path, source: BatVision, done: int) -> bool:
    """Return whether all arrays are long enough to hold the first `done` recordings."""
    try:
        return all((folder / name).stat().st_size >= layout.size(done) for name, layout in _layouts(source).items())
    except OSError:
        return False


def _unchanged(path: Path, stamp: Stamp) -> Stamp | None:
    """Return the current stamp of a file with the same content; None if it has changed or is gone.

    Its content is compared if anything but the size differs from the stamp.
    """
    try:
        status = path.stat()
        if Stamp.of(status, stamp.xxh3) == stamp:
            return stamp
        new = _stamp(path) if status.st_size == stamp.size else None
        return new if new and new.xxh3 == stamp.xxh3 else None
    except OSError:
        return None


def _stamp(path: Path) -> Stamp:
    """Read a file and return its stamp."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        return Stamp.of(status, hashlib.file_digest(file, xxhash.xxh3_128).hexdigest())


def _make(folder: Path, source: BatVision, progress: Progress | None) -> None:
    """Read every recording on all cores, write the arrays into a folder beside the set, and rename it when all is done.

    A preparation that was killed continues where it ended, as long as the recordings are the same.
    """
    partial, count = folder.with_name(f"{folder.name}.partial"), len(source)
    index = _fresh_index(partial, source)
    if index is None or partial.is_symlink() or not _has_rows(partial, source, len(index.stamps)):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        index = _empty_index(source)
    done = len(index.stamps)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(own_cores()))
        files = {
            name: stack.enter_context(layout.open(partial / name, done)) for name, layout in _layouts(source).items()
        }
        next_write = done
        for places in _chunks(range(done, count), max(AT_ONCE, TOGETHER * own_cores())):
            read = pool.map(lambda part: _read(source, part, index.depth_unit), _chunks(places, TOGETHER))
            for row in chain.from_iterable(read):
                for name, file in files.items():
                    file.write(row.arrays[name].tobytes())
                index.stamps.append(row.stamps)
            if progress is not None:
                progress("Preparing recordings", len(index.stamps), count)
            if len(index.stamps) >= next_write or len(index.stamps) == count:
                next_write = len(index.stamps) + count // INDEX_WRITES
                for file in files.values():  # the rows must be on the disk before the index says so
                    file.flush()
                    os.fsync(file.fileno())
                write_whole(partial / "index.json", index.model_dump_json())
    shutil.rmtree(folder, ignore_errors=True)
    partial.replace(folder)


class _Row(NamedTuple):
    """One recording in the types of the arrays, by their files' names, and the stamps of its own files."""

    arrays: dict[str, NDArray[Any]]
    stamps: tuple[Stamp, ...]


def _read(source: BatVision, places: range, unit: float) -> list[_Row]:
    """Read recordings, their depth in units of `unit` metres."""
    rows = []
    stamps = [tuple(map(_stamp_of, source.recordings[place].files)) for place in places]
    for sample, files in zip(source.__getitems__(places), stamps, strict=True):
        empty = torch.zeros_like(sample.depth) if sample.empty_room is None else sample.empty_room
        maps = {name: _in_steps(metres, unit) for name, metres in zip(MAPS, (sample.depth, empty), strict=True)}
        waveform = unit_peak(sample.waveform[None])[0].half()  # a quiet one would lose bits
        rows.append(_Row({"waveform.npy": waveform.numpy()} | maps, files))
    return rows


def _in_steps(depth: Tensor, unit: float) -> NDArray[np.uint16]:
    """Return a map in units of `unit` metres, at least one of them, because 0 means that nothing was measured."""
    metres = depth.numpy()
    return np.where(metres > 0, np.maximum(np.round(metres / unit), 1), 0).astype(np.uint16)


def _stamp_of(path: Path) -> Stamp:
    """Return the stamp of a file; of one that is missing, one that no file has."""
    return _stamp(path) if path.is_file() else Stamp(0, 0, 0, 0, "")


def _chunks(places: range, size: int) -> Iterator[range]:
    """Split a range into ranges of at most `size` places."""
    for start in range(0, len(places), size):
        yield places[start : start + size]
