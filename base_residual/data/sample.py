"""What a dataset gives: one echo and the depth map that belongs to it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from base_residual.audio import echo_frames, fit_echo
from base_residual.config import DataConfig
from base_residual.errors import DataError

TOO_NEAR = 0.1  # metres: no dataset ends there, but one in metres does that is read as millimetres
NAMED = 8  # recordings that a sentence names at most


class EchoSample(NamedTuple):
    """One recording.

    Attributes:
        waveform: float32 (2, T) in [-1, 1], left ear first.
        depth: float32 (S, S) in metres, 0 where nothing was measured.
        id: name of the recording within its dataset.
    """

    waveform: Tensor
    depth: Tensor
    id: str


class EchoBatch(NamedTuple):
    """Several recordings: waveform (B, 2, T), depth (B, 1, S, S), and their ids."""

    waveform: Tensor
    depth: Tensor
    ids: list[str]


class EchoDataset(Protocol):
    """What training and evaluation need of a dataset: a length and samples of equal shapes."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> EchoSample: ...


def collate(samples: list[EchoSample] | EchoBatch) -> EchoBatch:
    """Stack samples into a batch; a dataset that gives whole batches has done so already.

    Raises:
        DataError: the samples' shapes differ, are no float32, or a depth map is not finite.
    """
    if isinstance(samples, EchoBatch):
        return samples
    first = samples[0]
    for sample in samples:
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
    return EchoBatch(
        torch.stack([sample.waveform for sample in samples]),
        torch.stack([sample.depth for sample in samples])[:, None],
        [sample.id for sample in samples],
    )


def check_split(split: str, dataset: EchoDataset, data: DataConfig, sample_rate: int) -> None:
    """Refuse a split that holds nothing, or whose first sample has not the shapes that the settings ask for.

    Raises:
        DataError: it is one.
    """
    if not len(dataset):
        raise DataError(f"The {split} split is empty.")
    batch, frames, size = collate([dataset[0]]), echo_frames(data.max_depth, sample_rate), data.output_size
    if batch.waveform.shape[1:] != (2, frames) or batch.depth.shape[1:] != (1, size, size):
        raise DataError(
            f"The first recording of the {split} split has a waveform {tuple(batch.waveform.shape[1:])} and a depth "
            f"map {tuple(batch.depth.shape[2:])}; the settings ask for (2, {frames}) and ({size}, {size})."
        )


def reader(dataset: EchoDataset, workers: int, **how: Any) -> DataLoader[Any]:
    """A loader of batches, with processes that read or without; `how` is what `DataLoader` takes."""
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_serve_on if workers else None,
        generator=torch.Generator(),  # leaves the global one alone
        **how,
    )


def _serve_on(_: int) -> None:
    """What asks a run to end reaches the processes that read for it as well; they end when the run tells them to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # elsewhere nobody can tell who asks
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_told, daemon=True).start()


def _end_when_told() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def read_batches(loader: Iterable[EchoBatch]) -> Iterator[EchoBatch]:
    """The batches of a loader; an error in one of its processes comes as it was raised there, in one sentence.

    Raises:
        DataError: a recording cannot be read, or one of the processes has ended.
    """
    try:
        yield from loader
    except DataError as error:  # the loader puts the other process's traceback before the sentence
        raise DataError(str(error).strip().rpartition(f"{DataError.__name__}: ")[2]) from error
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise DataError(
            "A process that reads recordings was ended from outside, as the system does when memory or shared memory "
            "(/dev/shm, of which a container has little) is short. Lower data.num_workers; 0 needs no process."
        ) from error


def enumerated(ids: Sequence[str]) -> str:
    """The first few recordings by name, and how many there are besides."""
    named = ", ".join(ids[:NAMED])
    return named if len(ids) <= NAMED else f"{named} and {len(ids) - NAMED} others"


def spread(length: int, count: int) -> list[int]:
    """At most `count` different indices, spread evenly over a dataset of that length."""
    return sorted(set(np.linspace(0, length - 1, min(count, length)).astype(int).tolist()))


def fit_sample(
    name: str, waveform: Tensor, rate: int, depth: NDArray[np.float32], data: DataConfig, sample_rate: int
) -> EchoSample:
    """A recording brought to the shapes that the settings ask for.

    Args:
        name: of the recording.
        waveform: (2, T) in [-1, 1].
        rate: its rate, in Hz.
        depth: (H, W) in metres, 0 where nothing was measured.
        data: gives the depth map's side, the largest depth, and whether echoes are aligned.
        sample_rate: rate that the echo is brought to, in Hz.
    """
    frames = echo_frames(data.max_depth, sample_rate)
    fitted = fit_echo(waveform, rate, sample_rate, frames, data.align_onset)
    return EchoSample(fitted, torch.from_numpy(resize_depth(depth, data.output_size)), name)


def clean_depth(depth: NDArray[np.float32], max_depth: float, whole: bool = False) -> NDArray[np.float32]:
    """Depth in metres, in place: 0 where it is negative, NaN or infinite, and cut to `max_depth`.

    Args:
        depth: (H, W) in metres.
        max_depth: in metres.
        whole: it was stored as unsigned integers, among which there is nothing to set to 0.
    """
    if not (whole or (depth.min() >= 0 and depth.max() < np.inf)):  # nor is NaN; most maps need no mask
        depth[~np.isfinite(depth) | (depth < 0)] = 0
    torch.from_numpy(depth).clamp_(max=max_depth)  # several times as fast as numpy's
    return depth


def resize_depth(depth: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Shrink or enlarge a depth map without letting its holes bleed into their neighbours.

    Each new pixel is the area-weighted mean of the measured pixels that it covers, and a hole where less than half of
    what it covers was measured.

    Args:
        depth: (H, W) in metres, 0 where nothing was measured.
        size: new side S, in pixels.

    Returns:
        float32 (S, S) in metres, 0 where nothing was measured.
    """
    if depth.shape == (size, size):
        return depth
    rows, columns = _area_weights(depth.shape[0], size), _area_weights(depth.shape[1], size)

    def mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
        by_column = torch.from_numpy(rows @ values).T.contiguous()  # PyTorch transposes faster than numpy
        averaged: NDArray[np.float32] = (columns @ by_column.numpy()).T
        return averaged

    measured = depth > 0
    if measured.all():
        return mean(depth)
    share = mean(measured.astype(np.float32))
    return np.where(share >= 0.5, mean(depth) / np.maximum(share, 1e-6), 0).astype(np.float32)  # holes add nothing


@lru_cache(maxsize=64)
def _area_weights(old: int, new: int) -> Any:
    """(new, old) sparse matrix whose rows average the few old pixels that each new one covers."""
    edges = np.arange(new + 1) * old / new
    pixels = np.arange(old)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    overlap = np.clip(overlap, 0, None)
    from scipy.sparse import csr_array  # slow to import

    return csr_array((overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32))
