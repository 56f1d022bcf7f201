"""Reader of the BatVision V2 layout: a folder per location, a CSV file per split, WAV echoes and `.npy` depth."""

from __future__ import annotations

import csv
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from base_residual.audio import echo_frames, echo_header, fit_echo, read_echo
from base_residual.config import DataConfig
from base_residual.data.sample import EchoSample, resize_depth
from base_residual.errors import DataError

log = logging.getLogger("base_residual")

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
        DataError: the file is missing, is no `.npy`, or has another rank or type.
    """
    try:
        stored = np.load(path, allow_pickle=False, mmap_mode="r")
    except FileNotFoundError as error:
        raise DataError(f"The depth map {path} does not exist.") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"The depth map {path} is not a readable .npy file.") from error
    if not isinstance(stored, np.ndarray) or stored.ndim != 2 or 0 in stored.shape or stored.dtype.kind not in "uif":
        shape = getattr(stored, "shape", None)
        raise DataError(
            f"The depth map {path} has shape {shape} and type {getattr(stored, 'dtype', None)}; "
            "expected are two dimensions of numbers, in millimetres."
        )
    depth = stored.astype(np.float32)
    if stored.dtype.kind != "u":
        depth[~np.isfinite(depth) | (depth < 0)] = 0
    depth *= np.float32(0.001)
    return np.minimum(depth, np.float32(max_depth), out=depth)


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


def _read_table(root: Path, table: Path) -> list[Recording]:
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            lacking = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"Cannot read the table {table}: {error}.") from error
    if lacking:
        names = ", ".join(f"'{column}'" for column in lacking)
        raise DataError(f"The table {table} has no column {names}. Expected is {LAYOUT}.")
    recordings = []
    for line, row in enumerate(rows, start=2):
        empty = [column for column in COLUMNS if not row[column]]
        if empty:
            raise DataError(f"{table}, line {line}: nothing in the column '{empty[0]}'.")
        audio = _inside(root, table, line, row["audio path"], row["audio file name"])
        depth = _inside(root, table, line, row["depth path"], row["depth file name"])
        recordings.append(Recording(f"{table.parent.name}/{audio.stem}", audio, depth))
    return recordings


def _inside(root: Path, table: Path, line: int, *parts: str) -> Path:
    path = root.joinpath(*parts)
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{table}, line {line}: the path {'/'.join(parts)} leaves the dataset folder {root}.")
    return path
