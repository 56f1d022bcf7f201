"""Reader of the BatVision V2 layout: a folder per location, a CSV file per split, WAV echoes and `.npy` depth."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from base_residual.audio import echo_frames, echo_header, fit_echo, read_echo
from base_residual.config import DataConfig
from base_residual.data.sample import EchoSample, resize_depth
from base_residual.errors import DataError
from base_residual.files import read_at_most, writable

log = logging.getLogger("base_residual")

MAX_TABLE = 2**26  # bytes of a CSV file: half a million recordings
MAX_SIDE = 4096  # pixels of a stored depth map
MAX_HEADER = 10_000  # bytes of the header of an `.npy` file, as numpy has it
COLUMNS = ("audio path", "audio file name", "depth path", "depth file name")
LAYOUT = (
    "ROOT/LOCATION/{train,val,test}.csv with the columns "
    + ", ".join(f"'{column}'" for column in COLUMNS)
    + ", whose paths are relative to ROOT"
)


@dataclass(frozen=True)
class Recording:
    """The files of one recording, and its name."""

    id: str
    audio: Path
    depth: Path

    @property
    def files(self) -> tuple[Path, Path]:
        """All that belongs to it."""
        return self.audio, self.depth


def list_recordings(root: Path, split: str) -> list[Recording]:
    """The recordings of a split, over all locations in order of their names.

    Args:
        root: folder of the dataset.
        split: train, val or test.

    Raises:
        DataError: nothing is laid out as expected, a column is missing, or a path leaves the root.
    """
    if not root.is_dir():
        raise DataError(f"The dataset folder {root} does not exist.")
    tables = sorted(root.glob(f"*/{split}.csv"))
    if not tables:
        raise DataError(f"No recordings for the split '{split}' under {root}. Expected is {LAYOUT}.")
    recordings = [recording for table in tables for recording in _read_table(root, table)]
    if not recordings:
        raise DataError(f"The tables of the split '{split}' under {root} list no recordings.")
    return recordings


def read_depth(path: Path, max_depth: float) -> NDArray[np.float32]:
    """A depth map as stored: `.npy`, two dimensions, millimetres.

    Args:
        path: file to read.
        max_depth: larger depths are cut to it, in metres.

    Returns:
        float32 (H, W) in metres, 0 where nothing was measured (0, negative, NaN or infinite in the file).

    Raises:
        DataError: the file is missing, is no `.npy`, has another rank or type, or a side beyond `MAX_SIDE`.
    """
    try:
        stored = map_array(path)
    except FileNotFoundError as error:
        raise DataError(f"The depth map {path} does not exist.") from error
    except (OSError, ValueError) as error:
        raise DataError(f"The depth map {path} is not a readable .npy file.") from error
    if stored.ndim != 2 or not all(0 < side <= MAX_SIDE for side in stored.shape) or stored.dtype.kind not in "uif":
        raise DataError(
            f"The depth map {path} has shape {stored.shape} and type {stored.dtype}; "
            f"expected are two dimensions of numbers, in millimetres, at most {MAX_SIDE} x {MAX_SIDE} of them."
        )
    with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite
        depth = stored.astype(np.float32)
    if stored.dtype.kind != "u":
        depth[~np.isfinite(depth) | (depth < 0)] = 0
    depth *= np.float32(0.001)
    return np.minimum(depth, np.float32(max_depth), out=depth)


def map_array(path: Path) -> NDArray[Any]:
    """An `.npy` file as an array that is read from the disk where it is looked at.

    Unlike `numpy.load` it opens neither zip archives nor pickled objects, and a header that states more than the file
    holds is refused before anything is allocated.

    Raises:
        OSError: the file is missing or cannot be read.
        ValueError: it is no `.npy` file, its header is damaged, or it is shorter than its header says.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    with path.open("rb") as file:
        major, _ = np.lib.format.read_magic(file)
        if int.from_bytes(file.read(2 if major == 1 else 4), "little") > MAX_HEADER:
            raise ValueError(f"{path} has a header of more than {MAX_HEADER} bytes")
    try:
        with np.errstate(over="raise"):  # a shape of more bytes than can be counted
            return np.lib.format.open_memmap(path, mode="r")
    except (ArithmeticError, LookupError, MemoryError, RecursionError, SyntaxError, TokenError, TypeError) as error:
        raise ValueError(f"{path} has a damaged header") from error  # numpy has it parsed as Python


class BatVisionV2:
    """Echoes and depth maps in the layout of BatVision V2, cut and resized to one shape.

    Args:
        root: folder of the dataset.
        split: train, val or test.
        data: gives the depth maps' side and the largest depth.
        sample_rate: rate that every echo is brought to, in Hz.

    Raises:
        DataError: the dataset is not laid out as expected; reading a sample raises it, too.
    """

    def __init__(self, root: Path, split: str, data: DataConfig, sample_rate: int) -> None:
        self.root, self.split, self.data = root, split, data
        self.recordings = list_recordings(root, split)
        self.sample_rate = sample_rate
        self.frames = echo_frames(data.max_depth, sample_rate)
        rate = echo_header(self.recordings[0].audio).sample_rate
        if rate != sample_rate:
            log.warning("The echoes of %s have %d Hz; they are resampled to %d Hz.", root, rate, sample_rate)

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, index: int) -> EchoSample:
        recording = self.recordings[index]
        depth = resize_depth(read_depth(recording.depth, self.data.max_depth), self.data.output_size)
        header, waveform = read_echo(recording.audio)
        waveform = fit_echo(waveform, header.sample_rate, self.sample_rate, self.frames)
        return EchoSample(waveform, torch.from_numpy(depth), recording.id)


def _read_table(root: Path, table: Path) -> Iterator[Recording]:
    try:
        rows = csv.reader(io.StringIO(read_at_most(table, MAX_TABLE).decode("utf-8-sig"), newline=""), strict=True)
        columns = next(rows, [])
        lacking = [column for column in COLUMNS if column not in columns]
        if lacking:
            names = ", ".join(f"'{column}'" for column in lacking)
            raise DataError(f"The table {table} has no column {names}. Expected is {LAYOUT}.")
        places = [columns.index(column) for column in COLUMNS]
        for row in filter(None, rows):
            cells = [row[place] if place < len(row) else "" for place in places]
            if not all(cells):
                empty = COLUMNS[cells.index("")]
                raise DataError(f"{table}, line {rows.line_num}: nothing in the column '{empty}'.")
            audio, depth = (_inside(root, table, rows.line_num, *parts) for parts in (cells[:2], cells[2:]))
            yield Recording(f"{table.parent.name}/{audio.stem}", audio, depth)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"Cannot read the table {table}: {error}.") from error


def _inside(root: Path, table: Path, line: int, *parts: str) -> Path:
    if not writable("".join(parts)):
        raise DataError(f"{table}, line {line}: a path with control characters, {'/'.join(parts)[:200]!r}.")
    path = root.joinpath(*parts)
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError) as error:  # links in a circle
        raise DataError(f"{table}, line {line}: the path {'/'.join(parts)} cannot be followed.") from error
    if not inside:
        raise DataError(f"{table}, line {line}: the path {'/'.join(parts)} leaves the dataset folder {root}.")
    return path
