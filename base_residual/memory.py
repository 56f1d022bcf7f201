"""Memory that tensors leave behind, kept on the CPU for the next ones."""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST_KEPT = 2**25  # bytes; with larger pieces in one heap, small ones that come to lie between them hold up too much


def keep_freed_memory(device: torch.device) -> None:
    """Before work that repeats itself: let this process keep the memory of its tensors, if they are on the CPU.

    A step asks for the same memory as the one before. What went back to the system in between comes anew page by page,
    and the system fills each with zeros first. Only the C library of Linux can be asked to keep it, and is not where
    the environment tunes it (`MALLOC_...`, or `glibc.malloc` in `GLIBC_TUNABLES`).
    """
    if device.type == "cpu":
        _ask_c_library()


@cache
def _ask_c_library() -> None:
    tuned = any(name.startswith("MALLOC_") for name in os.environ)
    tuned |= "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "")
    if sys.platform != "linux" or tuned:
        return
    library = ctypes.CDLL(None)
    # musl's has none; one of 32 bits refuses so large a piece.
    if hasattr(library, "mallopt") and library.mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT):
        library.mallopt(M_TRIM_THRESHOLD, -1)
