"""Write files so that nothing leaves half of one behind; read them so that none takes all memory."""

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
    """Give a path beside `path` to write to, and rename it into place once the block has ended without an error.

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
    """Remove a file, if it is there and its disk lets it go."""
    with suppress(OSError):
        path.unlink()


def read_at_most(path: Path, most: int) -> bytes:
    """All of a file that has no reason to be larger than `most` bytes; no more than that is ever read.

    Raises:
        OSError: it is larger, or cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
    return content


def writable(text: str) -> bool:
    """Whether a text can go into a file and on a terminal: it holds no control character and no half of a character."""
    return not any(unicodedata.category(character) in ("Cc", "Cs") for character in text)
