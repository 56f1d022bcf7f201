"""Checking a dataset in one of the BatVision layouts: its contents, and each file that is wrong."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from base_residual.acoustics.doubts import ear_delay, examine
from base_residual.config.presets import SPLITS
from base_residual.config.schema import AudioConfig
from base_residual.data.batvision import Recording, find_layout, list_recordings
from base_residual.data.depth_maps import find_background, find_unit_fault, read_stored
from base_residual.data.sample import abbreviate_names
from base_residual.errors import DataError, counted
from base_residual.files.cache import Progress

AUDIO = AudioConfig()
EMISSIONS = ("earliest", "median", "latest")
WANDERING = 1e-4  # seconds by which the direct sound's delay between the ears may vary
REACH = 30.0  # metres; beyond it, one number in many pixels is a background: no dataset has a larger `data.max_depth`


@dataclass
class Findings:
    """The contents of a dataset, and its problems.

    Attributes:
        recordings: number of recordings by (location, split).
        sample_rates: number of recordings by rate in Hz.
        formats: number of recordings by sample format.
        shapes: number of depth maps by (height, width).
        emissions: seconds at which the direct sound arrives in each recording that has one.
        ear_delays: seconds by which it comes later to the right ear in each of these.
        nearest: smallest measured depth, in metres.
        farthest: largest measured depth, in metres.
        invalid_share: mean share of pixels without a measurement.
        backgrounds: number of depth maps by the large number, in metres, that stands for "no measurement" in them.
        units: names of the depth maps that seem to be in another unit, by their split and the sentence's end about it.
        shared: number of recordings that more than one split lists; a network is tested on what it was trained on.
        problems: one sentence each, with the file.
    """

    recordings: Counter[tuple[str, str]] = field(default_factory=Counter)
    sample_rates: Counter[int] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)
    shapes: Counter[tuple[int, int]] = field(default_factory=Counter)
    emissions: list[float] = field(default_factory=list)
    ear_delays: list[float] = field(default_factory=list)
    nearest: float = float("inf")
    farthest: float = 0.0
    invalid_share: float = 0.0
    backgrounds: Counter[float] = field(default_factory=Counter)
    units: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    shared: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def ear_delay_spread(self) -> float | None:
        """Return the width in seconds of the middle half of all delays between the ears; None without a recording.

        It is about 0 where the direct sound is in the recordings, because the loudspeaker does not move.
        """
        return float(np.subtract(*np.quantile(self.ear_delays, [0.75, 0.25]))) if self.ear_delays else None

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        return {
            "recordings": {f"{location}/{split}": count for (location, split), count in self.recordings.items()},
            "sample_rates": dict(self.sample_rates),
            "formats": dict(self.formats),
            "shapes": {f"{height}x{width}": count for (height, width), count in self.shapes.items()},
            "emission": dict(zip(EMISSIONS, quantiles(self.emissions), strict=True)) if self.emissions else None,
            "ear_delay_spread": self.ear_delay_spread,
            "nearest": self.nearest if self.farthest else None,
            "farthest": self.farthest,
            "invalid_share": self.invalid_share,
            "backgrounds": dict(self.backgrounds),
            "shared": self.shared,
            "problems": self.problems,
        }


def check_data(root: Path, progress: Progress | None = None, follow_links: bool = False) -> Findings:
    """Read every recording of every split.

    Args:
        root: folder of the dataset.
        progress: told how far the reading is.
        follow_links: let links in the folder lead out of it.

    Returns:
        What was found, problems included.

    Raises:
        DataError: the folder does not exist, or holds no table at all.
    """
    findings = Findings()
    listed = _list_splits(root, findings, follow_links)
    _count_repeated(listed, findings)
    invalid_shares: list[float] = []
    for done, (split, recording) in enumerate(listed, start=1):
        findings.recordings[recording.id.split("/")[0], split] += 1
        try:
            _check_audio(recording, findings)
        except DataError as error:
            findings.problems.append(str(error))
        try:
            invalid_shares.append(_check_depth(split, recording, findings))
            if recording.empty_room:
                _read_depth(split, recording.empty_room, findings)
        except DataError as error:
            findings.problems.append(str(error))
        if progress is not None:
            progress("Reading recordings", done, len(listed))
    findings.invalid_share = sum(invalid_shares) / max(1, len(invalid_shares))
    count = Counter(split for split, _ in listed)
    for (split, fault), names in findings.units.items():
        findings.problems.append(
            f"By their medians, {len(names)} of {count[split]} depth maps of the split '{split}' are {fault}: "
            f"{abbreviate_names(names)}."
        )
    return findings


def quantiles(values: list[float]) -> list[float]:
    """Return the least, the median and the largest of some numbers."""
    return [min(values), float(np.median(values)), max(values)]


def _list_splits(root: Path, findings: Findings, follow_links: bool) -> list[tuple[str, Recording]]:
    """Return split and recording of every row of the tables; wrong rows and missing splits become problems.

    Raises:
        DataError: there is no table of any split.
    """
    layout = find_layout(root)
    listed: list[tuple[str, Recording]] = []
    missing = []
    for split in SPLITS:
        try:
            found = list_recordings(root, split, layout, findings.problems, follow_links)
            listed += [(split, recording) for recording in found]
        except DataError as error:
            missing.append(str(error))
    if len(missing) == len(SPLITS):
        raise DataError(missing[0])
    findings.problems += missing
    return listed


def _count_repeated(listed: list[tuple[str, Recording]], findings: Findings) -> None:
    """Make problems of the recordings that one split lists more than once, or several list; count the latter."""
    times = Counter((split, recording.audio) for split, recording in listed)
    findings.problems += [
        f"The split '{split}' lists the recording {audio[0]} {count} times."
        for (split, audio), count in times.items()
        if count > 1
    ]
    splits = Counter(audio for _, audio in times)
    shared = [str(audio[0]) for audio, count in splits.items() if count > 1]
    findings.shared = len(shared)
    if shared:
        findings.problems.append(
            f"Several splits list {counted(len(shared), 'recording')}, which a test would share with training: "
            f"{abbreviate_names(shared)}."
        )


def _check_audio(recording: Recording, findings: Findings) -> None:
    """Read the sound of a recording; count its rate and format, and note where its direct sound arrives."""
    header, waveform = recording.read_audio()
    findings.sample_rates[header.sample_rate] += 1
    findings.formats[header.subtype] += 1
    examined = examine(waveform[None], header.sample_rate, None, AUDIO)
    (emission,), (doubts,) = examined.emission, examined.doubts
    findings.problems += [f"The recording {recording.audio[0]} {doubt}." for doubt in doubts]
    if emission is not None:
        findings.emissions.append(emission)
        findings.ear_delays.append(float(ear_delay(examined.waveform, AUDIO.sample_rate)))


def _read_depth(split: str, path: Path, findings: Findings) -> NDArray[np.float32]:
    """Read a depth map (H, W) in metres with all that it holds; note where it is in another unit."""
    depth, _ = read_stored(path)
    fault = find_unit_fault(depth, REACH, "millimetres")
    if fault:
        findings.units.setdefault((split, fault), []).append(str(path))
    return depth


def _check_depth(split: str, recording: Recording, findings: Findings) -> float:
    """Read the depth map of a recording, count its shape, and return its share of pixels without a measurement."""
    depth = _read_depth(split, recording.depth, findings)
    findings.shapes[depth.shape[0], depth.shape[1]] += 1
    depth[~np.isfinite(depth) | (depth < 0)] = 0
    background = find_background(depth, REACH)
    if background.any():
        numbers, times = np.unique(depth[background], return_counts=True)
        findings.backgrounds[round(float(numbers[times.argmax()]), 3)] += 1
    measured = depth[(depth > 0) & ~background]
    if measured.size:
        findings.nearest = min(findings.nearest, float(measured.min()))
        findings.farthest = max(findings.farthest, float(measured.max()))
    else:
        findings.problems.append(f"The depth map {recording.depth} holds no measurement.")
    return 1 - measured.size / depth.size
