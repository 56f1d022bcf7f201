"""Files written whole or not at all, and read no further than a limit."""

from __future__ import annotations

import errno
import os
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from base_residual.errors import RunError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to, and rename it to `path` once the block has ended without an error.

    Args:
        path: the file to write or replace; its folder is created.

    Raises:
        RunError: the path names no file, the folder cannot be written to, or the disk is full.
    """
    if not path.name:
        raise RunError(f"Cannot write {path}: it is a folder.")
    aside = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield aside
        aside.replace(path)
    except OSError as error:
        raise RunError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        discard(aside)


def discard(path: Path) -> None:
    """Remove a file; do nothing if it is not there or cannot be removed."""
    with suppress(OSError):
        path.unlink()


def read_at_most(path: Path, most: int) -> bytes:
    """Read a whole file of at most `most` bytes; of a larger one no more than that is read.

    Raises:
        OSError: it is larger, or cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
    return content


def writable(text: str) -> bool:
    """Return whether a text can go into a file and on a terminal: it has no control character and no lone surrogate."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in text)
