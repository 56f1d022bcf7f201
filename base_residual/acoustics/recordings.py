"""Recordings of two ears, read from sound files and arrays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from base_residual.acoustics.chirp import SAMPLE_RATE
from base_residual.config.presets import MAX_RATE, MIN_RATE
from base_residual.errors import DataError
from base_residual.files.npy import read_array
from base_residual.files.paths import no_file

MAX_SECONDS = 60.0  # of a recording; a longer file is no echo
MAX_SAMPLE = 2**15  # of a stored waveform; half precision overflows just above
SILENT_PEAK = 1e-6  # a recording whose loudest sample is below this is silent


class EchoHeader(NamedTuple):
    """The header of a sound file: rate in Hz, channels, frames, sample format."""

    sample_rate: int
    channels: int
    frames: int
    subtype: str


def echo_header(path: Path) -> EchoHeader:
    """Read the header of a sound file.

    Raises:
        DataError: the file is missing or no sound file.
    """
    with _opened(path) as file:
        return _header(file)


@contextmanager
def _opened(path: Path) -> Iterator[soundfile.SoundFile]:
    """Open a sound file, and turn every error while it is open into a DataError."""
    try:
        if not path.is_file():
            raise DataError(f"The recording {path} {no_file(path)}.")
        # As bytes, which any name has, also where the system's encoding lacks some of its characters.
        with soundfile.SoundFile(os.fsencode(path) if os.name == "posix" else str(path)) as file:  # pyrefly: ignore[bad-argument-type]
            yield file
    except (soundfile.LibsndfileError, RuntimeError, TypeError, OSError, UnicodeError) as error:
        raise DataError(f"The recording {path} is not a readable sound file.") from error


def check_echo(path: Path) -> None:
    """Check by its header that a file holds a two-eared recording; the sound is not read.

    Raises:
        DataError: it does not, or is missing.
    """
    _check_header(echo_header(path), path)


def _header(file: soundfile.SoundFile) -> EchoHeader:
    return EchoHeader(file.samplerate, file.channels, file.frames, file.subtype)


def read_echo(path: Path) -> tuple[EchoHeader, Tensor]:
    """Read a two-eared recording as it is.

    Args:
        path: WAV (PCM 16, 24, 32 or float) or another format that libsndfile knows.

    Returns:
        The file's header, and float32 (2, T) in [-1, 1], left ear first.

    Raises:
        DataError: the file is missing, broken, empty, too long, not two-channel, of a rate out of bounds, or its
            samples are not finite or too large.
    """
    with _opened(path) as file:
        header = _header(file)
        _check_header(header, path)
        samples = file.read(dtype="float32", always_2d=True)
    if len(samples) != header.frames:
        raise DataError(
            f"The recording {path} says that it has {header.frames} frames, and {len(samples)} can be read."
        )
    _check_samples(samples, path)  # pyrefly: ignore[bad-argument-type]
    return header, torch.from_numpy(samples.T.copy())


def _check_header(header: EchoHeader, path: Path) -> None:
    """Raise a DataError unless a header is that of an echo: two channels, rate and length within bounds."""
    if header.channels != 2:
        raise DataError(
            f"The recording {path} has {header.channels} channel{'s'[: header.channels != 1]}; expected are 2, left "
            "and right ear. One ear cannot tell left from right."
        )
    checked_rate(header.sample_rate, f"The recording {path}")
    if not 0 < header.frames <= MAX_SECONDS * header.sample_rate:
        raise DataError(
            f"The recording {path} has {header.frames} frames; expected are 1 frame to {MAX_SECONDS:.0f} s."
        )


def checked_rate(rate: float, what: str) -> int:
    """Return a rate in Hz as a whole number.

    Args:
        rate: in Hz.
        what: the subject of the error's sentence, such as "Recording 3".

    Raises:
        DataError: it is out of bounds or not whole.
    """
    if not MIN_RATE <= rate <= MAX_RATE or rate != int(rate):
        raise DataError(f"{what} has {rate} Hz; expected are {MIN_RATE} to {MAX_RATE} Hz.")
    return int(rate)


def as_float32(values: Any) -> Tensor:
    """Return values as float32: a tensor on its own device, anything else as a copy on the CPU."""
    if isinstance(values, Tensor):
        return values.float()
    return torch.from_numpy(np.array(values, np.float32, order="C"))


def as_waveform(values: Any, what: str) -> Tensor:
    """Return samples as float32 in full scale 1: a tensor on its own device, anything else on the CPU.

    Integers of any width mean full scale; unsigned ones are silent in the middle of their range, as in 8-bit WAV.

    Args:
        values: integers or floating-point numbers.
        what: the subject of an error's sentence, in the singular, such as "The echo of recording 3".

    Raises:
        DataError: the samples are no such numbers, not finite or too large.
    """
    given = values.detach() if isinstance(values, Tensor) else _from_numpy(values, what)
    if given.dtype == torch.bool or given.is_complex():
        raise DataError(f"{what} holds {str(given.dtype).removeprefix('torch.')}; expected are real numbers.")
    samples = given.float() if given.is_floating_point() else _in_full_scale(given)
    if samples.numel() and not samples.abs().max() <= MAX_SAMPLE:  # NaN fails the comparison, too
        raise DataError(
            f"{what} holds NaN, infinite samples or some beyond {MAX_SAMPLE}; full scale is 1, or the range of an "
            "integer type."
        )
    return samples


def _in_full_scale(integers: Tensor) -> Tensor:
    """Return integers of any width as float32 in [-1, 1]."""
    bounds = torch.iinfo(integers.dtype)
    half = (bounds.max - bounds.min + 1) // 2
    middle = bounds.min + half  # 0 for signed ones, which stay exact
    return ((integers.double() - middle) / half).float()


def _from_numpy(values: Any, what: str) -> Tensor:
    """Return anything that NumPy takes for an array of numbers as a tensor, of its own type if PyTorch has that."""
    try:
        array = np.array(values, order="C")
        kind = array.dtype.newbyteorder("=") if array.dtype.itemsize <= 8 or array.dtype.kind != "f" else np.float64
        return torch.from_numpy(array.astype(kind))
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{what} is no array of real numbers.") from error


def read_ears(left: Path, right: Path) -> tuple[EchoHeader, Tensor]:
    """Read a recording that is stored as an `.npy` file per ear.

    Such a file states no rate; 44,100 Hz are assumed.

    Args:
        left: file with (T,) integers, which are scaled by their type's range, or floats, which are taken as they are.
        right: file with as many samples of the other ear.

    Returns:
        As `read_echo`.

    Raises:
        DataError: a file is missing, is no `.npy` of one dimension, holds NaN, or the two differ in length.
    """
    ears = [_read_ear(path) for path in (left, right)]
    if len(ears[0]) != len(ears[1]):
        raise DataError(
            f"The recording {left} has {len(ears[0])} frames and {right} has {len(ears[1])}; "
            "expected are as many for both ears."
        )
    return EchoHeader(SAMPLE_RATE, 2, len(ears[0]), "NPY"), torch.stack(ears)


def _read_ear(path: Path) -> Tensor:
    """Read the samples (T,) of one ear."""
    stored = read_array(path, "recording")
    if stored.ndim != 1 or stored.dtype.kind not in "iuf" or not 0 < len(stored) <= MAX_SECONDS * SAMPLE_RATE:
        raise DataError(
            f"The recording {path} has shape {stored.shape} and type {stored.dtype}; expected is one dimension of "
            f"numbers, 1 frame to {MAX_SECONDS:.0f} s."
        )
    return as_waveform(stored, f"The recording {path}")


def _check_samples(samples: NDArray[np.float32], path: Path) -> None:
    """Raise a DataError if a sample is not finite or larger than half precision holds."""
    if not np.abs(samples).max() <= MAX_SAMPLE:  # NaN fails the comparison, too
        raise DataError(f"The recording {path} holds NaN, infinite samples or some beyond {MAX_SAMPLE}.")
