"""Recordings of one's own, as an object with three methods."""

from __future__ import annotations

from numbers import Real
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray
from torch import Tensor

from base_residual.acoustics.recordings import as_float32, as_waveform, checked_rate
from base_residual.config.schema import AudioConfig, DataConfig
from base_residual.data.depth_maps import check_unit, clean_depth
from base_residual.data.sample import EchoSample, Recorded, fit_samples
from base_residual.errors import DataError


class Recordings(Protocol):
    """A split of one's own data, as it was recorded; rates, lengths and sizes may differ between recordings."""

    def __len__(self) -> int:
        """Return the number of recordings."""

    def echo(self, index: int) -> tuple[Tensor | NDArray[Any], int]:
        """Return the sound of both ears, (2, T), left ear first, and its rate in Hz.

        Full scale is 1 for floating-point samples, and the range of the type for integers.
        """

    def depth(self, index: int) -> Tensor | NDArray[Any]:
        """Return the depth map of the same moment, (H, W) in metres; 0, NaN or infinity where nothing was measured."""


METHODS = ("__len__", "echo", "depth")


class OwnDataset:
    """Recordings of one's own as samples of one shape; each access reads them anew.

    Args:
        recordings: the split.
        data: gives the depth maps' side and the largest depth.
        audio: gives the rate that every echo is brought to, and where in a recording it begins.

    Raises:
        DataError: a method is missing, or there are no recordings; reading a sample whose shape, unit or values are
            wrong raises it, too.
    """

    def __init__(self, recordings: Recordings, data: DataConfig, audio: AudioConfig) -> None:
        _check_methods(recordings)
        self.recordings, self.data, self.audio = recordings, data, audio
        if not len(recordings):
            raise DataError(f"There are no recordings in this {type(recordings).__name__}.")

    def __len__(self) -> int:
        return len(self.recordings)

    def __getitem__(self, index: int) -> EchoSample:
        index = range(len(self))[index]
        samples, rate = _pair(self.recordings.echo(index), index)
        echo = as_waveform(samples, f"The echo of recording {index}").cpu()
        if echo.ndim != 2 or len(echo) != 2 or not echo.numel():
            raise DataError(f"The echo of recording {index} is {tuple(echo.shape)}; expected is (2, T).")
        depth = _numbers(self.recordings.depth(index), f"The depth map of recording {index}").numpy().copy()
        if depth.ndim != 2 or not depth.size:
            raise DataError(f"The depth map of recording {index} is {depth.shape}; expected is (H, W), in metres.")
        check_unit(depth, self.data.max_depth, f"The depth map of recording {index}", "metres")
        clean = clean_depth(depth, self.data.max_depth)
        whole = checked_rate(rate, f"Recording {index}")
        return fit_samples([Recorded(echo, whole, clean, f"{index}")], self.data, self.audio)[0]


def _check_methods(recordings: object) -> None:
    """Raise a DataError unless an object has the methods of `Recordings`."""
    if isinstance(recordings, Path):
        raise DataError(
            f"{recordings} is a folder and no name of a dataset. Name the dataset first, and then its root."
        )
    if isinstance(recordings, type):
        raise DataError(f"{recordings.__name__} is a class; give recordings, such as {recordings.__name__}() makes.")
    missing = [name for name in METHODS if not callable(getattr(recordings, name, None))]
    if missing:
        raise DataError(
            f"This {type(recordings).__name__} has no method {missing[0]}. Recordings of one's own are an object with "
            "__len__(), echo(index) and depth(index), as in examples/custom_dataset.py; a list of EchoSample is a "
            "dataset already, which Trainer and evaluate take as it is."
        )


def _pair(heard: Any, index: int) -> tuple[Any, float]:
    """Return the samples and the rate that `echo` has given.

    Raises:
        DataError: it has given something else, such as the samples alone.
    """
    if isinstance(heard, tuple | list) and len(heard) == 2:
        samples, rate = heard
        if isinstance(rate, Tensor) and rate.ndim == 0:
            rate = rate.item()
        if isinstance(rate, Real):
            return samples, float(rate)
        came = "the rate first" if isinstance(samples, Real) else f"{_kind(samples)} and {_kind(rate)}"
    else:
        came = f"{_kind(heard)} alone"
    raise DataError(
        f"The method echo has given {came} for recording {index}; expected are the samples (2, T) and their rate in "
        "Hz: end it with 'return samples, rate'."
    )


def _kind(value: Any) -> str:
    """Return what a value is, in words: its type, and its shape if it has one."""
    shape = getattr(value, "shape", None)
    return f"a {type(value).__name__}" + (f" of shape {tuple(shape)}" if shape is not None else "")


def _numbers(values: Any, what: str) -> Tensor:
    """Return an array as float32 on the CPU.

    Raises:
        DataError: it is no array of numbers.
    """
    try:
        return as_float32(values).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{what} is {_kind(values)}; expected is an array or a tensor of numbers.") from error
