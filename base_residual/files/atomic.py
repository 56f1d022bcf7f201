"""Files written whole or not at all, and read no further than a limit."""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from base_residual.errors import RunError

TEMPORARY = re.compile(r"\.brdepth-[0-9a-f]{32}\.partial")  # a name that nobody can guess, and nobody else gives
NO_LINKS = getattr(os, "O_NOFOLLOW", 0)  # Windows has no such flag, and lets only administrators make links


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a new file beside `path` to write to, and rename it to `path` once the block has ended without an error.

    Its name cannot be guessed, and it is opened by name only once, so that nobody else on the machine can lead what is
    written elsewhere. A file that is replaced hands its permissions on.

    Args:
        path: the file to write or replace; its folder is created.

    Raises:
        RunError: the path names a folder, a device or nothing, the folder cannot be written to, or the disk is full.
    """
    if not path.name:
        raise RunError(f"Cannot write {path}: it is a folder.")
    aside = path.with_name(f".brdepth-{secrets.token_hex(16)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        former = path.stat().st_mode if path.exists() else None
        if former is not None and not stat.S_ISREG(former):  # a device would be a plain file afterwards
            raise RunError(f"Cannot write {path}: it is {'a folder' if stat.S_ISDIR(former) else 'no plain file'}.")
        with open(aside, "xb", opener=no_links) as file:
            if former is not None and hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), stat.S_IMODE(former))
            yield file
        aside.replace(path)
    except FileExistsError as error:
        raise RunError(f"Cannot write {path}: {path.parent} is no folder.") from error
    except OSError as error:
        raise RunError(f"Cannot write {path}: {error.strerror or error}.") from error
    finally:
        discard(aside)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file, its text in UTF-8, whole or not at all; see `replacing`.

    Raises:
        RunError: it cannot be written.
    """
    with replacing(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def no_links(path: str, flags: int) -> int:
    """Open a file for the built-in `open`, as its `opener`, but no link: that could lead to any file of the user's.

    For files whose names have to be known, so that a later call finds them: halves of downloads, rows of prepared sets.

    Raises:
        OSError: it is a link, or cannot be opened.
    """
    try:
        return os.open(path, flags | NO_LINKS, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "it is a link; remove it", str(path)) from error
        raise


def discard_temporary(folder: Path) -> None:
    """Remove what a process that was killed has left of `replacing` in a folder, as far as that can be done."""
    with suppress(OSError):
        for path in folder.iterdir():
            if TEMPORARY.fullmatch(path.name):
                discard(path)


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
