"""The machine: its cores, devices and precision."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from base_residual.errors import ConfigError

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
CONTAINER_SHARE = Path("/sys/fs/cgroup/cpu.max")  # microseconds of all cores in a period, and the period
LARGEST_KEPT = 2**25  # bytes; larger pieces in one heap would hold up small ones that come to lie between them
WIDE = 32  # base channels; from so many on, AVX2 trains a U-Net up to a third faster channels first than channels last

Item = TypeVar("Item")
Found = TypeVar("Found")


def own_cores() -> int:
    """Return the number of cores that this process may use; a cluster or a container sets them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        share, period = map(int, CONTAINER_SHARE.read_text().split())
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return cores
    return max(1, min(cores, share // period))


def many_threads() -> int:
    """Return how many threads training and batches take: what PyTorch takes, and no more than there are cores."""
    return min(torch.get_num_threads(), own_cores())


def few_threads() -> int:
    """Return how many threads one echo takes: one, because it is too little work to share, or OMP_NUM_THREADS."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else 1


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let PyTorch use so many threads on the CPU within the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def side_by_side(function: Callable[[Item], Found], items: Iterable[Item], threads: int) -> Iterator[Found]:
    """Yield what a function makes of each item, in order; as many items as threads are at work, each on a core.

    Threads that share every operation of one item wait for each other at each of them: on a machine that others use,
    several times as long as one thread takes by itself. Within this iterator, PyTorch has one thread.

    Args:
        function: called in the threads, which know nothing of the caller's `torch.inference_mode` and the like.
        items: read in the caller's thread, and not far ahead.
        threads: how many.
    """
    if threads == 1:
        yield from map(function, items)
        return
    begun: deque[Future[Found]] = deque()
    with cpu_threads(1), ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for item in items:
            begun.append(pool.submit(function, item))
            if len(begun) > threads:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()


def threads_beside(device: torch.device) -> int:
    """Return how many batches `side_by_side` takes: one for each of PyTorch's threads on the CPU, else one."""
    return torch.get_num_threads() if device.type == "cpu" else 1


def load() -> float | None:
    """Return how many cores of the machine were at work or wanted over the last minute; None where nobody tells."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def busy(found: float | None) -> str:
    """Return a sentence if a load leaves less than half of the cores; else nothing."""
    cores = os.cpu_count() or 1
    if found is None or found <= cores / 2:
        return ""
    return f"This machine is busy, with a load of {found:.1f} on {cores} cores: alone, it would be faster."


def resolve_device(name: str) -> torch.device:
    """Return the device that a setting means; auto takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: it is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, yes in there.items() if yes))
    kind, colon, number = name.partition(":")
    beyond = colon and not (number.isdecimal() and int(number) < torch.cuda.device_count())
    if not there.get(kind) or beyond:
        known = ", ".join(kind for kind, yes in there.items() if yes)
        raise ConfigError(f"The device '{name}' is not on this machine. It has {known}; 'auto' takes the fastest.")
    return torch.device(kind, int(number)) if colon else torch.device(kind)


@contextmanager
def standard_torch() -> Iterator[None]:
    """Give PyTorch the defaults that it begins with, within the context, whatever the program has made of them.

    Tensors are float32 and on the CPU unless something else is said, gradients are there, and nothing is cast unasked.
    """
    kind = torch.get_default_dtype()
    with ExitStack() as stack:
        if torch.get_default_device().type != "cpu":  # a context for it would make every call slower
            stack.enter_context(torch.device("cpu"))
        if kind != torch.float32:
            stack.callback(torch.set_default_dtype, kind)
            torch.set_default_dtype(torch.float32)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


def mixed_precision(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Compute in bf16 within the context: when asked, or by itself on devices that have it in hardware."""
    native = precision == "bf16"
    if precision == "auto":
        cuda = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        native = cuda or (device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16")))
    # A cache of weights in bf16 lives until the outermost autocast ends, which may be around the whole training: its
    # steps would go on with the first weights.
    return torch.autocast(device.type, torch.bfloat16 if native else None, enabled=native, cache_enabled=False)


def device_name(device: torch.device) -> str:
    """Return the maker's name of a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def prefers_channels_last(images: bool, base_channels: int) -> bool:
    """Return whether convolutions are faster channels last: with AVX-512 or tensor cores, else in all but wide U-Nets.

    Args:
        images: the network convolves whole spectrograms, as a U-Net does.
        base_channels: of the network.
    """
    wide = images and base_channels >= WIDE
    return not wide or torch.cuda.is_available() or "AVX512" in torch.backends.cpu.get_cpu_capability()


def keep_freed_memory(device: torch.device) -> None:
    """Let this process keep the memory of freed tensors for the next training step, if they are on the CPU.

    A step asks for the same memory as the one before. Memory that went back to the system comes anew page by page, each
    filled with zeros first. Only the C library of Linux can be asked to keep it, and it is left alone where the
    environment tunes it (`MALLOC_...`, or `glibc.malloc` in `GLIBC_TUNABLES`).
    """
    tuned = any(name.startswith("MALLOC_") for name in os.environ)
    tuned |= "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if device.type != "cpu" or sys.platform != "linux" or tuned:
        return
    library = ctypes.CDLL(None)
    # musl has no mallopt; a C library of 32 bits refuses so large a piece.
    if hasattr(library, "mallopt") and library.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT):
        library.mallopt(M_TRIM_THRESHOLD, -1)
