"""Load batches of a dataset, with processes that read or without."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from base_residual.data.sample import EchoBatch, EchoDataset, collate
from base_residual.errors import DataError


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
