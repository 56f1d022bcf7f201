"""Load batches of a dataset, with processes that read or without."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from base_residual.data.sample import EchoBatch, EchoDataset, collate
from base_residual.errors import DataError


def reader(dataset: EchoDataset, workers: int, max_depth: float, **how: Any) -> DataLoader[Any]:
    """Make a loader of batches, with processes that read or without.

    Args:
        dataset: to read.
        workers: processes that read.
        max_depth: larger depths are cut to it, in metres.
        how: what `DataLoader` takes.
    """
    end_unguarded_script()
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        num_workers=workers,
        collate_fn=partial(collate, max_depth=max_depth),
        worker_init_fn=_end_with_the_run if workers else None,
        generator=torch.Generator(),  # leaves the global one alone
        **how,
    )


def _end_with_the_run(_: int) -> None:
    """Let a process that reads end when the run tells it to, and not when others ask the run to end.

    Ctrl-C reaches every process of a terminal, and a cluster's SIGTERM every process of a job, but the run needs its
    batches until it has saved where it stands. It ends its readers by a SIGTERM of its own and waits for them, so they
    cannot ignore that signal. A thread waits for it, because Python's handlers do not say who has sent a signal.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # elsewhere nobody can tell who asks
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_wait_for_the_run, daemon=True).start()


def _wait_for_the_run() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)  # at once, as PyTorch's own handler does, whatever is being read


def end_unguarded_script() -> None:
    """End a process that is to read and, on its way there, runs the whole script that has started it once more.

    Where processes start anew, they import that script; the process that began tells the user what it lacks.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # as multiprocessing itself asks
        sys.exit(1)


def read_batches(loader: Iterable[EchoBatch]) -> Iterator[EchoBatch]:
    """Yield the batches of a loader; an error in one of its processes comes as it was raised there, in one sentence.

    Raises:
        DataError: a recording cannot be read, or one of the processes has ended.
    """
    try:
        with readers_in_words():
            yield from loader
    except DataError as error:  # the loader puts the other process's traceback before the sentence
        raise DataError(error.args[0].strip().rpartition(f"{DataError.__name__}: ")[2]) from error


@contextmanager
def readers_in_words() -> Iterator[None]:
    """Say in a sentence that a process which reads has ended, whatever is being done when that is noticed.

    Raises:
        DataError: one has.
    """
    try:
        yield
    except (BrokenPipeError, RuntimeError) as error:
        anew = multiprocessing.get_start_method() != "fork"
        if not str(error).startswith("DataLoader worker") and not (anew and isinstance(error, BrokenPipeError)):
            raise
        if anew and "killed" not in str(error):
            raise DataError(
                "A process that reads recordings has ended at once. Where processes start anew, as on macOS and "
                "Windows, each imports the script that starts it: put all that the script does under "
                'if __name__ == "__main__": (or set data.num_workers=0, which needs no process).'
            ) from error
        raise DataError(
            "A process that reads recordings was ended from outside, as the system does when memory or shared memory "
            "(/dev/shm, of which a container has little) is short. Lower data.num_workers; 0 needs no process."
        ) from error
