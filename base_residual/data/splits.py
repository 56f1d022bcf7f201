"""A look at a split before anything is learned from it: its shapes and units, and which recordings it holds."""

from __future__ import annotations

import logging
import math
from typing import NamedTuple

import torch
from torch import Tensor

from base_residual.acoustics.doubts import examine
from base_residual.acoustics.framing import echo_frames
from base_residual.acoustics.recordings import SILENT_PEAK
from base_residual.config.schema import AudioConfig, DataConfig
from base_residual.data.depth_maps import check_unit
from base_residual.data.sample import EchoDataset, EchoSample, abbreviate_names, check_dataset, collate, spread_indices
from base_residual.errors import DataError
from base_residual.files.json import Number

log = logging.getLogger("base_residual")

LOOKED_AT = 64  # recordings of a split
ALIKE = 0.01  # share by which a figure of the same recording may differ, after other libraries have resampled it
BEYOND = 0.99  # of the measured pixels


class SplitIdentity(NamedTuple):
    """The figures that tell the recordings of a split from others.

    Attributes:
        recordings: their number.
        files: hash of the content of all their files, in order; None where samples do not come from files.
        samples: of some recordings, spread evenly over the split, the mean depth in metres and the sound's rms.
    """

    recordings: int
    files: str | None
    samples: list[tuple[Number, Number]]

    def differs(self, other: SplitIdentity) -> bool:
        """Return whether another split holds other recordings.

        Figures are compared where one of the two does not come from files. They are alike, and not equal, because
        machines that resample or render the same recordings differ in the last bits.
        """
        if self.recordings != other.recordings:
            return True
        if self.files and other.files:
            return self.files != other.files
        figures, others = (torch.tensor(identity.samples, dtype=torch.float64) for identity in (self, other))
        if figures.shape != others.shape:
            return True
        return not torch.allclose(figures, others, rtol=ALIKE, atol=1e-6, equal_nan=True)


def look_at_split(
    split: str, dataset: EchoDataset, data: DataConfig, audio: AudioConfig, files: str | None = None
) -> SplitIdentity:
    """Check that a split can be learned from and scored on; return what it holds.

    Args:
        split: its name.
        dataset: its samples. Some are read, and more where those have no sound or no measured pixel.
        data: gives the depth maps' side and the largest depth.
        audio: gives the rate of the echoes, and where they begin.
        files: hash of its files, if they decide the samples.

    Raises:
        DataError: it is empty, silent or without a measured pixel, or its samples have other shapes than the settings
            ask for, or depth in another unit.
    """
    check_dataset(dataset)
    if not len(dataset):
        raise DataError(f"The {split} split is empty.")
    indices = spread_indices(len(dataset), LOOKED_AT)
    samples = [_checked(split, dataset[index], data, audio.sample_rate) for index in indices]
    measured = torch.cat([sample.depth[sample.depth > 0] for sample in samples])
    if len(measured) and float((measured >= 0.999 * data.max_depth).double().mean()) > BEYOND:
        raise DataError(
            f"Nearly all depth in the {split} split lies at data.max_depth, {data.max_depth:g} m, or beyond it: as if "
            "its depth maps were in another unit, or cut. Expected are metres."
        )
    rest = [index for index in range(len(dataset)) if index not in set(indices)]
    if not len(measured) and not any((dataset[index].depth > 0).any() for index in rest):
        raise DataError(
            f"Not one depth map of the {split} split has a measured pixel: there is nothing to learn from, nor to "
            "score against."
        )
    if all(is_silent(sample.waveform) for sample in samples) and all(
        is_silent(dataset[index].waveform) for index in rest
    ):
        raise DataError(f"Every recording of the {split} split is silent: there is nothing to hear.")
    if audio.emission == "found":
        _warn_of_doubts(split, samples, audio)
    return SplitIdentity(len(dataset), files, [_figures(sample) for sample in samples])


def _warn_of_doubts(split: str, samples: list[EchoSample], audio: AudioConfig) -> None:
    """Log in one sentence which samples of a split are doubtful, such as those without a chirp, and why."""
    doubts = examine(collate(samples).waveform, audio.sample_rate, None, audio).doubts
    doubtful = [sample.id for sample, own in zip(samples, doubts, strict=True) if own]
    if doubtful:
        reasons = "; or ".join(dict.fromkeys(reason for own in doubts for reason in own))
        log.warning(
            "Doubtful recordings in the %s split: %d of the %d that were looked at (%s): %s.",
            split,
            len(doubtful),
            len(samples),
            reasons,
            abbreviate_names(doubtful),
        )


def is_silent(waveforms: Tensor) -> bool:
    """Return whether waveforms (..., T) hold no sound; an offset is none."""
    return bool(((waveforms - waveforms.mean(dim=-1, keepdim=True)).abs() < SILENT_PEAK).all())


def _checked(split: str, sample: EchoSample, data: DataConfig, sample_rate: int) -> EchoSample:
    """Return a sample; raise a DataError unless it has the shapes and the unit that the settings ask for."""
    batch, frames, size = collate([sample]), echo_frames(data.max_depth, sample_rate), data.output_size
    if batch.waveform.shape[1:] != (2, frames) or batch.depth.shape[1:] != (1, size, size):
        raise DataError(
            f"Recording {sample.id} of the {split} split has a waveform {tuple(batch.waveform.shape[1:])} and a depth "
            f"map {tuple(batch.depth.shape[2:])}; the settings ask for (2, {frames}) and ({size}, {size})."
        )
    what = f"The depth map of {sample.id} in the {split} split"
    check_unit(sample.depth.cpu().numpy(), data.max_depth, what, "metres")
    return sample


def _figures(sample: EchoSample) -> tuple[float, float]:
    """Return the mean depth of a sample in metres and the rms of its sound; NaN where one is not finite."""
    found = (float(sample.depth.double().mean()), float(sample.waveform.double().square().mean().sqrt()))
    mean, rms = (value if math.isfinite(value) else math.nan for value in found)
    return mean, rms
