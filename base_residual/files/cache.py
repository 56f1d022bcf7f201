"""Where things that can be made again are kept, and how those who wait for them are told."""

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

Progress = Callable[[str, int, int], None]
"""Called with what is being done ("Rendering rooms"), how many of them are done, and of how many."""


def cache_dir() -> Path:
    """Folder for what can be made again: BRDEPTH_CACHE, else the platform's cache folder."""
    return Path(os.environ.get("BRDEPTH_CACHE") or platformdirs.user_cache_path("brdepth", appauthor=False))


def cached(kind: str, description: Mapping[str, object]) -> Path:
    """The folder in the cache for things of a kind that a description decides."""
    text = json.dumps(description, sort_keys=True)
    return cache_dir() / f"{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@contextmanager
def locked(path: Path, wait: bool = True, progress: Progress | None = None) -> Iterator[None]:
    """Hold a lock whose file goes when it is let go.

    Args:
        path: the file.
        wait: until another process lets it go.
        progress: told once that this one waits.

    Raises:
        filelock.Timeout: another process holds it, and this one is not to wait.
    """
    if progress is not None and is_held(path):
        progress("Waiting for another process, which makes the same", 0, 1)
    with FileLock(path, blocking=wait):
        try:
            yield
        finally:
            discard(path)


def is_held(path: Path) -> bool:
    """Whether another process holds a lock."""
    try:
        with locked(path, wait=False):
            return False
    except Timeout:
        return True
