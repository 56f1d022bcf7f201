"""Recordings of one's own, as an object with three methods."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray
from torch import Tensor

from base_residual.acoustics.recordings import as_float32, checked_rate
from base_residual.config.schema import AudioConfig, DataConfig
from base_residual.data.depth_maps import clean_depth
from base_residual.data.sample import EchoSample, fit_sample
from base_residual.errors import DataError


class Recordings(Protocol):
    """A split of one's own data, as it was recorded; rates, lengths and sizes may differ between recordings."""

    def __len__(self) -> int:
        """Return the number of recordings."""

    def echo(self, index: int) -> tuple[Tensor | NDArray[Any], int]:
        """Return the sound of both ears, (2, T) in [-1, 1], left ear first, and its rate in Hz."""

    def depth(self, index: int) -> Tensor | NDArray[Any]:
        """Return the depth map of the same moment, (H, W) in metres; 0, NaN or infinity where nothing was measured."""


class OwnDataset:
    """Recordings of one's own as samples of one shape; each access reads them anew.

    Args:
        recordings: the split.
        data: gives the depth maps' side and the largest depth.
        audio: gives the rate that every echo is brought to, and where in a recording it begins.

    Raises:
        DataError: there are no recordings; reading a sample whose shape or values are wrong raises it, too.
    """

    def __init__(self, recordings: Recordings, data: DataConfig, audio: AudioConfig) -> None:
        self.recordings, self.data, self.audio = recordings, data, audio
        if not len(recordings):
            raise DataError(f"There are no recordings in this {type(recordings).__name__}.")

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, index: int) -> EchoSample:
        index = range(len(self))[index]
        samples, rate = self.recordings.echo(index)
        echo = as_float32(samples).cpu()
        if echo.ndim != 2 or len(echo) != 2 or not echo.numel() or not echo.isfinite().all():
            raise DataError(f"The echo of recording {index} is {tuple(echo.shape)}; expected is (2, T), all finite.")
        depth = as_float32(self.recordings.depth(index)).cpu().numpy().copy()
        if depth.ndim != 2 or not depth.size:
            raise DataError(f"The depth map of recording {index} is {depth.shape}; expected is (H, W), in metres.")
        clean = clean_depth(depth, self.data.max_depth)
        return fit_sample(f"{index}", echo, checked_rate(rate, f"Recording {index}"), clean, self.data, self.audio)
