"""Samples, each an echo and its depth map, and batches of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from base_residual.acoustics.framing import echo_frames
from base_residual.acoustics.hearing import fit_echo
from base_residual.config.schema import AudioConfig, DataConfig
from base_residual.data.depth_maps import check_unit, resize_depth
from base_residual.errors import DataError

HEARD_AT_ONCE = 2**19  # samples of each ear, of several recordings together: more of them take memory and no less time
MAX_NAMED = 8  # recordings that a sentence names


class EchoSample(NamedTuple):
    """One recording.

    Attributes:
        waveform: float32 (2, T) in [-1, 1], left ear first.
        depth: float32 (S, S) in metres, 0 where nothing was measured.
        id: name of the recording within its dataset.
        empty_room: float32 (S, S) in metres, the depth of the same view without furniture, 0 where nothing is; None
            where it is not known, as of all that was recorded.
    """

    waveform: Tensor
    depth: Tensor
    id: str
    empty_room: Tensor | None = None


class Recorded(NamedTuple):
    """One recording as it was read.

    Attributes:
        waveform: float32 (2, T) in [-1, 1], left ear first.
        rate: its rate, in Hz.
        depth: (H, W) in metres, 0 where nothing was measured.
        id: name of the recording within its dataset.
        empty_room: (H, W) in metres, or None; see `EchoSample`.
    """

    waveform: Tensor
    rate: int
    depth: NDArray[np.float32]
    id: str
    empty_room: NDArray[np.float32] | None = None


class EchoBatch(NamedTuple):
    """Several recordings: waveform (B, 2, T), depth (B, 1, S, S), their ids, and the empty room (B, 1, S, S) if known.

    The empty room is 0 for a recording of which it is not known.
    """

    waveform: Tensor
    depth: Tensor
    ids: list[str]
    empty_room: Tensor | None = None


class EchoDataset(Protocol):
    """A dataset for training and evaluation: a length, and samples of equal shapes."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> EchoSample: ...


def collate(samples: list[EchoSample] | EchoBatch, max_depth: float = math.inf) -> EchoBatch:
    """Stack samples into a batch; a batch is returned as it is.

    Args:
        samples: of one shape.
        max_depth: larger depths are cut to it, in metres.

    Raises:
        DataError: something else came than samples, their shapes differ, a tensor is not float32, or a depth map is not
            finite or not in metres.
    """
    if isinstance(samples, EchoBatch):
        return samples
    first = samples[0]
    for sample in samples:
        if not isinstance(sample, EchoSample):
            raise DataError(
                f"The dataset gives a {type(sample).__name__}; expected is EchoSample(waveform, depth, id), from "
                "base_residual.data.sample."
            )
        _check_empty_room(sample)
        if sample.waveform.shape != first.waveform.shape or sample.depth.shape != first.depth.shape:
            raise DataError(
                f"Recordings {first.id} and {sample.id} differ in shape: waveforms {tuple(first.waveform.shape)} "
                f"and {tuple(sample.waveform.shape)}, depth maps {tuple(first.depth.shape)} and "
                f"{tuple(sample.depth.shape)}. All samples of a dataset must have the same shapes."
            )
        if sample.waveform.dtype != torch.float32 or sample.depth.dtype != torch.float32:
            raise DataError(
                f"Recording {sample.id} has a waveform of {sample.waveform.dtype} and depth of {sample.depth.dtype}; "
                "expected is float32 (torch.float32), such as tensor.float() makes."
            )
        if not sample.depth.sum().isfinite():
            raise DataError(f"The depth map of {sample.id} holds NaN or infinity; where nothing was measured it has 0.")
        if sample.depth.max() > max_depth:
            check_unit(sample.depth.cpu().numpy(), max_depth, f"The depth map of {sample.id}", "metres")
    depth = torch.stack([sample.depth for sample in samples])[:, None].clamp(max=max_depth)
    empty_room = None
    if any(sample.empty_room is not None for sample in samples):
        nothing = torch.zeros_like(first.depth)
        known = [nothing if sample.empty_room is None else sample.empty_room for sample in samples]
        empty_room = torch.stack(known)[:, None].clamp(max=max_depth)
    waveform = torch.stack([sample.waveform for sample in samples])
    return EchoBatch(waveform, depth, [sample.id for sample in samples], empty_room)


def _check_empty_room(sample: EchoSample) -> None:
    """Raise a DataError unless the empty room of a sample is a map like its depth, or not known."""
    empty, depth = sample.empty_room, sample.depth
    if empty is None:
        return
    if empty.shape != depth.shape or empty.dtype != torch.float32 or not empty.sum().isfinite() or empty.min() < 0:
        raise DataError(
            f"The empty room of {sample.id} has shape {tuple(empty.shape)} and type {empty.dtype}; expected is "
            f"float32 {tuple(depth.shape)}, finite and at least 0, as its depth map, or None."
        )


def check_dataset(dataset: object) -> None:
    """Raise a DataError unless an object has a length and samples, as a dataset has."""
    if hasattr(dataset, "echo") and not hasattr(dataset, "__getitem__"):
        raise DataError(
            f"This {type(dataset).__name__} is made of recordings and not yet of samples. Give "
            "open_dataset(recordings, config=config), which cuts and resizes them."
        )
    if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise DataError(
            f"This {type(dataset).__name__} is no dataset: expected are a length and samples by their index, such as "
            "open_dataset gives."
        )


def abbreviate_names(ids: Sequence[str]) -> str:
    """Return the first few names as text, followed by the number of the others."""
    named = ", ".join(ids[:MAX_NAMED])
    return named if len(ids) <= MAX_NAMED else f"{named} and {len(ids) - MAX_NAMED} others"


def spread_indices(length: int, count: int) -> list[int]:
    """Return at most `count` different indices, spread evenly over a dataset of that length."""
    return sorted(set(np.linspace(0, length - 1, min(count, length)).astype(int).tolist()))


def fit_samples(recorded: Sequence[Recorded], data: DataConfig, audio: AudioConfig) -> list[EchoSample]:
    """Bring recordings to the shapes that the settings ask for; neighbours of one length and rate are heard together.

    Args:
        recorded: the recordings.
        data: gives the depth maps' side and the largest depth.
        audio: gives the rate that the echoes are brought to, and where in a recording they begin.
    """
    frames, waveforms = echo_frames(data.max_depth, audio.sample_rate), []
    for (rate, shape), alike in groupby(recorded, lambda one: (one.rate, one.waveform.shape)):
        together = torch.stack([one.waveform for one in alike])
        for some in together.split(max(1, HEARD_AT_ONCE // shape[-1])):
            waveforms += fit_echo(some, rate, frames, audio)
    return [
        EchoSample(
            waveform,
            torch.from_numpy(resize_depth(one.depth, data.output_size)),
            one.id,
            None if one.empty_room is None else torch.from_numpy(resize_depth(one.empty_room, data.output_size)),
        )
        for waveform, one in zip(waveforms, recorded, strict=True)
    ]
