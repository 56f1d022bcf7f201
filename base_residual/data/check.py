"""Walking a dataset in one of the BatVision layouts: what is there, and what is wrong with which file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from base_residual.acoustics.recordings import SILENT
from base_residual.config.presets import SPLITS
from base_residual.data.batvision import find_layout, list_recordings
from base_residual.data.depth_maps import TOO_NEAR, read_depth
from base_residual.errors import DataError
from base_residual.files.cache import Progress


@dataclass
class Findings:
    """What a dataset holds.

    Attributes:
        recordings: number of recordings by (location, split).
        sample_rates: number of recordings by rate in Hz.
        formats: number of recordings by sample format.
        shapes: number of depth maps by (height, width).
        nearest: smallest measured depth, in metres.
        farthest: largest measured depth, in metres.
        invalid_share: mean share of pixels without a measurement.
        shared: number of recordings that more than one split lists: testing on them tests memory.
        problems: one sentence each, with the file.
    """

    recordings: Counter[tuple[str, str]] = field(default_factory=Counter)
    sample_rates: Counter[int] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    shapes: Counter[tuple[int, int]] = field(default_factory=Counter)
    nearest: float = float("inf")
    farthest: float = 0.0
    invalid_share: float = 0.0
    shared: int = 0
    problems: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "recordings": {f"{location}/{split}": count for (location, split), count in self.recordings.items()},
            "sample_rates": dict(self.sample_rates),
            "formats": dict(self.formats),
            "shapes": {f"{height}x{width}": count for (height, width), count in self.shapes.items()},
            "nearest": self.nearest if self.farthest else None,
            "farthest": self.farthest,
            "invalid_share": self.invalid_share,
            "shared": self.shared,
            "problems": self.problems,
        }


def check_data(root: Path, progress: Progress | None = None) -> Findings:
    """Read every recording of every split.

    Args:
        root: folder of the dataset.
        progress: told how far the reading is.

    Returns:
        What was found, problems included.

    Raises:
        DataError: the folder does not exist, or holds no table at all.
    """
    findings, layout = Findings(), find_layout(root)
    listed, missing = [], []
    for split in SPLITS:
        try:
            listed += [(split, recording) for recording in list_recordings(root, split, layout, findings.problems)]
        except DataError as error:
            missing.append(str(error))
    if len(missing) == len(SPLITS):
        raise DataError(missing[0])
    findings.problems += missing
    times = Counter((split, recording.audio) for split, recording in listed)
    findings.problems += [
        f"The split '{split}' lists the recording {audio[0]} {count} times."
        for (split, audio), count in times.items()
        if count > 1
    ]
    findings.shared = sum(count > 1 for count in Counter(audio for _, audio in times).values())
    measured_maps = 0
    for done, (split, recording) in enumerate(listed, start=1):
        findings.recordings[recording.id.split("/")[0], split] += 1
        try:
            header, waveform = recording.read_audio()
            findings.sample_rates[header.sample_rate] += 1
            findings.formats[header.subtype] += 1
            wrong = _wrong_ears(waveform)
            if wrong:
                findings.problems.append(f"The recording {recording.audio[0]} {wrong}.")
        except DataError as error:
            findings.problems.append(str(error))
        try:
            depth = read_depth(recording.depth, float("inf"))
            findings.shapes[depth.shape[0], depth.shape[1]] += 1
            valid = depth[depth > 0]
            findings.invalid_share += 1 - valid.size / depth.size
            measured_maps += 1
            if valid.size:
                findings.nearest = min(findings.nearest, float(valid.min()))
                findings.farthest = max(findings.farthest, float(valid.max()))
            else:
                findings.problems.append(f"The depth map {recording.depth} holds no measurement.")
        except DataError as error:
            findings.problems.append(str(error))
        if progress is not None:
            progress("Reading recordings", done, len(listed))
    findings.invalid_share /= max(1, measured_maps)
    if 0 < findings.farthest < TOO_NEAR:
        findings.problems.append(
            f"Nothing is farther away than {findings.farthest:.3f} m: the depth maps are as if they were in metres. "
            "Expected are millimetres."
        )
    return findings


def _wrong_ears(waveform: Tensor) -> str:
    """What is wrong with a recording (2, T) that holds numbers; empty if nothing is."""
    silent = (waveform.abs().amax(dim=1) < SILENT).tolist()
    if all(silent):
        return "is silent"
    if any(silent):
        return f"is silent in its {'left' if silent[0] else 'right'} ear"
    return "has the same in both ears, which then cannot tell left from right" if waveform[0].equal(waveform[1]) else ""
