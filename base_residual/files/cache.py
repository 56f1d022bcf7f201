"""The cache of things that can be made again, and the locks on them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from base_residual.files.atomic import discard
from base_residual.files.paths import expand_home

Progress = Callable[[str, int, int], None]
"""Called with the work that is done ("Rendering rooms"), how many of its parts are done, and of how many."""


def cache_dir() -> Path:
    """Return the folder of the cache: BRDEPTH_CACHE, else the platform's cache folder."""
    return expand_home(os.environ.get("BRDEPTH_CACHE") or platformdirs.user_cache_path("brdepth", appauthor=False))


def cache_folder(kind: str, description: Mapping[str, object]) -> Path:
    """Return the folder in the cache for one thing of a kind ("rooms").

    Args:
        kind: the beginning of its name.
        description: all that decides its content, as JSON.
    """
    text = json.dumps(description, sort_keys=True)
    return cache_dir() / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@contextmanager
def locked(path: Path, wait: bool = True, progress: Progress | None = None) -> Iterator[None]:
    """Hold a lock, and remove its file afterwards.

    Args:
        path: the lock's file.
        wait: whether to wait until another process releases it.
        progress: told once that this process waits.

    Raises:
        filelock.Timeout: another process holds it, and `wait` is off.
    """
    if progress is not None and is_held(path):
        progress("Waiting for another process, which makes the same", 0, 1)
    with FileLock(path, blocking=wait):
        try:
            yield
        finally:
            discard(path)


def is_held(path: Path) -> bool:
    """Return whether another process holds a lock."""
    try:
        with locked(path, wait=False):
            return False
    except Timeout:
        return True
