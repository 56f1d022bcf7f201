"""Readers of BatVision's layouts: CSV tables that name the sound files and the `.npy` depth map of each recording."""

from __future__ import annotations

import csv
import io
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from base_residual.acoustics.chirp import SAMPLE_RATE
from base_residual.acoustics.framing import echo_frames
from base_residual.acoustics.recordings import EchoHeader, echo_header, read_ears, read_echo
from base_residual.config.presets import SPLITS
from base_residual.config.schema import AudioConfig, DataConfig
from base_residual.data.depth_maps import read_depth
from base_residual.data.sample import EchoSample, Recorded, fit_samples
from base_residual.errors import DataError
from base_residual.files.atomic import no_links, read_at_most, writable
from base_residual.files.paths import no_folder

log = logging.getLogger("base_residual")

MAX_TABLE = 2**26  # bytes of a CSV file: half a million recordings


@dataclass(frozen=True)
class Layout:
    """The layout of a dataset: the places of its tables, and the columns in which they name files.

    Attributes:
        tables: the tables of a split, as a pattern relative to the root.
        audio: the columns that make up the path of each sound file: one with both ears, or one per ear, left first.
        depth: the columns that make up the path of the depth map.
        empty_room: the columns, which a table need not have, that make up the path of the map without furniture.
    """

    tables: str
    audio: tuple[tuple[str, ...], ...]
    depth: tuple[str, ...]
    empty_room: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Return all columns that a table must have."""
        return (*(column for names in self.audio for column in names), *self.depth)

    def __str__(self) -> str:
        tables = self.tables.replace("*", "LOCATION").replace("{split}", "{" + ",".join(SPLITS) + "}")
        columns = ", ".join(f"'{column}'" for column in self.columns)
        return f"ROOT/{tables} with the columns {columns}, whose paths are relative to ROOT"


V1 = Layout("{split}.csv", (("audio path left",), ("audio path right",)), ("depth path",))
V2 = Layout(
    "*/{split}.csv",
    (("audio path", "audio file name"),),
    ("depth path", "depth file name"),
    ("empty room path", "empty room file name"),
)


@dataclass(frozen=True)
class Recording:
    """A recording in a table: its name, its sound file or one for each ear, its depth map, and the empty room's."""

    id: str
    audio: tuple[Path, ...]
    depth: Path
    empty_room: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Return all files of the recording."""
        return *self.audio, self.depth, *([self.empty_room] if self.empty_room else [])

    @property
    def sample_rate(self) -> int:
        """Return the rate in Hz; only the file's header is read."""
        return echo_header(self.audio[0]).sample_rate if len(self.audio) == 1 else SAMPLE_RATE

    def read_audio(self) -> tuple[EchoHeader, Tensor]:
        """Read the sound of both ears, as `read_echo`: from one file, or from one per ear."""
        return read_echo(*self.audio) if len(self.audio) == 1 else read_ears(*self.audio)


def find_layout(root: Path) -> Layout:
    """Return the layout of a dataset, by the places of its tables."""
    return V1 if any((root / V1.tables.format(split=split)).exists() for split in SPLITS) else V2


def list_recordings(
    root: Path, split: str, layout: Layout = V2, problems: list[str] | None = None, follow_links: bool = False
) -> list[Recording]:
    """List the recordings of a split, over all locations in order of their names.

    Args:
        root: folder of the dataset.
        split: train, val or test.
        layout: of the dataset.
        problems: gets a sentence for each wrong row, which is then left out. Default: the first wrong row raises.
        follow_links: let links in the folder lead out of it.

    Raises:
        DataError: nothing is laid out as expected, a column is missing, or a path leaves the root.
    """
    if not root.is_dir():
        raise DataError(f"The dataset folder {root} {no_folder(root)}.")
    tables = sorted(root.glob(layout.tables.format(split=split)))
    for path in (root.resolve(), *tables):
        if not writable(str(path)):
            raise DataError(f"The path {path} holds characters that cannot be written. Give the folder another name.")
    if not tables:
        raise DataError(f"No recordings for the split '{split}' under {root}. Expected is {layout}.")
    recordings = [
        recording for table in tables for recording in _read_table(root, table, layout, problems, follow_links)
    ]
    if not recordings and not problems:
        raise DataError(f"The tables of the split '{split}' under {root} list no recordings.")
    return recordings


def write_table(root: Path, location: str, split: str, names: Sequence[str], empty_room: str = "") -> None:
    """Write the table of a location in the layout of V2, for recordings `audio/NAME.wav` and `depth/NAME.npy` in it.

    Args:
        root: folder of the dataset.
        location: folder in it.
        split: train, val or test.
        names: of the recordings.
        empty_room: folder in the location with the maps `NAME.npy` of the empty room, if there are any.
    """
    columns = [*V2.columns, "camera path", "camera file name", *(V2.empty_room if empty_room else ())]
    with open(root / location / f"{split}.csv", "w", newline="", encoding="utf-8", opener=no_links) as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for name in names:
            row = [f"{location}/audio", f"{name}.wav", f"{location}/depth", f"{name}.npy", "", ""]
            writer.writerow([*row, *([f"{location}/{empty_room}", f"{name}.npy"] if empty_room else [])])


class BatVision:
    """Echoes and depth maps that tables list, cut and resized to one shape.

    Args:
        root: folder of the dataset.
        split: train, val or test.
        data: gives the depth maps' side and the largest depth.
        audio: gives the rate that every echo is brought to, and where in a recording it begins.

    Raises:
        DataError: the dataset is not laid out as expected; reading a sample raises it, too.
    """

    layout: ClassVar[Layout]

    def __init__(self, root: Path, split: str, data: DataConfig, audio: AudioConfig) -> None:
        self.root, self.split, self.data = root, split, data
        self.recordings = list_recordings(root, split, self.layout, follow_links=data.follow_links)
        self.audio = audio
        self.frames = echo_frames(data.max_depth, audio.sample_rate)
        rate = self.recordings[0].sample_rate
        if rate != audio.sample_rate:
            log.warning("The echoes of %s have %d Hz; they are resampled to %d Hz.", root, rate, audio.sample_rate)

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, index: int) -> EchoSample:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[EchoSample]:
        """Read several samples; PyTorch's loader calls this method by name."""
        return fit_samples([self._read(self.recordings[index]) for index in indices], self.data, self.audio)

    def _read(self, recording: Recording) -> Recorded:
        depth = read_depth(recording.depth, self.data.max_depth)
        empty = read_depth(recording.empty_room, self.data.max_depth) if recording.empty_room else None
        header, waveform = recording.read_audio()
        return Recorded(waveform, header.sample_rate, depth, recording.id, empty)


class BatVisionV1(BatVision):
    """BatVision V1: one table per split, and an `.npy` file per ear."""

    layout = V1


class BatVisionV2(BatVision):
    """BatVision V2: a table per location and split, and WAV files; the layout of simulated and converted rooms, too."""

    layout = V2


def _read_table(
    root: Path, table: Path, layout: Layout, problems: list[str] | None, follow_links: bool
) -> Iterator[Recording]:
    """Yield the recordings of one table; the arguments are those of `list_recordings`."""
    try:
        rows = csv.reader(io.StringIO(read_at_most(table, MAX_TABLE).decode("utf-8-sig"), newline=""), strict=True)
        columns = next(rows, [])
        missing = [column for column in layout.columns if column not in columns]
        if missing:
            names = ", ".join(f"'{column}'" for column in missing)
            raise DataError(f"The table {table} has no column {names}. Expected is {layout}.")
        known = layout.empty_room if set(layout.empty_room) <= set(columns) else ()
        places = {column: columns.index(column) for column in (*layout.columns, *known)}
        for row in filter(None, rows):
            cells = {column: row[place] if place < len(row) else "" for column, place in places.items()}
            try:
                yield _recording(root, table, rows.line_num, layout, cells, follow_links)
            except DataError as error:
                if problems is None:
                    raise
                problems.append(str(error))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"Cannot read the table {table}: {error}.") from error


def _recording(
    root: Path, table: Path, line: int, layout: Layout, cells: Mapping[str, str], follow_links: bool
) -> Recording:
    """Return the recording that a row of a table names."""
    empty = [column for column in layout.columns if not cells[column]]
    if empty:
        raise DataError(f"{table}, line {line}: nothing in the column '{empty[0]}'.")
    known = layout.empty_room and all(cells.get(column) for column in layout.empty_room)
    paths = [
        _path_inside(root, f"{table}, line {line}", [cells[column] for column in names], follow_links)
        for names in (*layout.audio, layout.depth, *([layout.empty_room] if known else []))
    ]
    audio, (depth, *empty_room) = paths[: len(layout.audio)], paths[len(layout.audio) :]
    location = (root.resolve() / table.relative_to(root)).parent.name  # by its name here, wherever a link leads
    return Recording(f"{location}/{audio[0].stem}", tuple(audio), depth, *empty_room)


def _path_inside(root: Path, where: str, parts: Sequence[str], follow_links: bool) -> Path:
    """Join parts of a path to the root; raise a DataError if it leaves the root, or by a link that is not followed."""
    if not writable("".join(parts)):
        raise DataError(f"{where}: a path with control characters, {'/'.join(parts)[:200]!r}.")
    top, path = (Path(os.path.normpath(given.absolute())) for given in (root, root.joinpath(*parts)))
    if not path.is_relative_to(top):
        raise DataError(f"{where}: the path {'/'.join(parts)} leaves the dataset folder {root}.")
    inside = root / path.relative_to(top)  # without "..", which after a link would lead elsewhere
    try:
        linked = not inside.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError) as error:  # links in a circle
        raise DataError(f"{where}: the path {'/'.join(parts)} cannot be followed.") from error
    if linked and not follow_links:
        raise DataError(
            f"{where}: a link in the path {'/'.join(parts)} leaves the dataset folder {root}. If it is yours, such as "
            "one to another disk, allow it by --follow-links, or where settings are given by data.follow_links=true."
        )
    return inside
