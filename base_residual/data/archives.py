"""ZIP and TAR archives, extracted into a folder: nothing outside of it, and no more than such a file can hold."""

from __future__ import annotations

import bz2
import gzip
import io
import logging
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

from rich.filesize import decimal

from base_residual.data.sample import abbreviate_names
from base_residual.errors import DataError
from base_residual.files.atomic import replacing
from base_residual.files.cache import Progress

log = logging.getLogger("base_residual")

BLOCK = 2**20  # bytes read at a time
FEW = 2**12  # the same, of what a library unpacks without a limit
MOST_PACKED = 100  # times as large as an archive is what it may hold; sounds, pictures and maps come to 10 at most
ALWAYS = 2**24  # bytes that the smallest archive may hold
MAX_DIRECTORY = 2**24  # bytes of a ZIP's list of files: 100,000 of them
MAX_HEADER = 2**16  # bytes before a file in a TAR: its name, and what else is said of it
UNPACKERS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
"""By the first bytes of a file, what unpacks it."""

BROKEN = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError)


def extract(archive: Path, folder: Path, only: Sequence[str] = (), progress: Progress | None = None) -> None:
    """Extract a ZIP or TAR archive; any other file is left alone, and existing files are kept.

    An archive that says that it holds more than 100 times its own size (and 16 MiB) is refused, before that is unpacked
    or written; headers are read up to a limit. So neither memory nor a disk is filled by a small file.

    Args:
        archive: file that was fetched.
        folder: to extract into; nothing is written outside of it.
        only: parts of names; default: everything.
        progress: told how many bytes of the archive are read.

    Raises:
        DataError: the archive is broken, would unpack to far more than its size, or holds a link or a path that leaves
            the folder.
        RunError: a file cannot be written.
    """
    size, inside = archive.stat().st_size, folder.resolve()
    changed: list[str] = []
    try:
        with archive.open("rb") as file:
            for name, length, content in _members(file, MOST_PACKED * size + ALWAYS):
                target = folder / name
                if not target.resolve().is_relative_to(inside):
                    raise DataError(f"{archive} holds the path {name}, which leaves {folder}.")
                wanted = not only or any(kind in name.lower() for kind in only)
                if wanted and target.is_file():
                    changed += [name] if target.stat().st_size != length else []
                elif wanted:
                    with replacing(target) as out:
                        for block in content:
                            out.write(block)
                if progress is not None:
                    progress(f"Extracting {archive.name}", min(file.tell(), size), size)
    except (*BROKEN, zipfile.BadZipFile, ValueError, RuntimeError) as error:
        raise DataError(f"Cannot extract {archive}: {error}.") from error
    except OSError as error:  # a name that no file can have, or a disk that cannot be read
        raise DataError(f"Cannot extract {archive}: {error.strerror or error}.") from error
    if changed:
        log.warning("%s holds other contents of %s, which stays as it is.", archive, abbreviate_names(changed))


Member = tuple[str, int, Iterator[bytes]]
"""A file in an archive: its name, its length in bytes, and its content, to be read before the next one."""


def _members(file: IO[bytes], most: int) -> Iterator[Member]:
    """Return the files in an archive of at most `most` bytes unpacked; none if the file is no archive."""
    if zipfile.is_zipfile(file):
        return _zip_members(file, most)
    return _tar_members(file, most)


def _zip_members(file: IO[bytes], most: int) -> Iterator[Member]:
    """Yield the files in a ZIP archive, whose list says how large they are in all."""
    limited = _Limited(file, MAX_DIRECTORY)
    with zipfile.ZipFile(limited.as_file()) as archive:
        entries = [info for info in archive.infolist() if not info.is_dir()]
        total = sum(info.file_size for info in entries)
        _refuse_beyond(most, total, file.name)
        for info in entries:
            limited.left = info.compress_size + BLOCK
            # Of other kinds than these, the library unpacks all that it has read.
            at_once = BLOCK if info.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) else FEW
            with archive.open(info) as content:
                yield info.filename, info.file_size, _blocks(content, at_once)


def _tar_members(file: IO[bytes], most: int) -> Iterator[Member]:
    """Yield the files in a TAR archive, as it is unpacked."""
    file.seek(0)
    start = file.read(max(map(len, UNPACKERS)))
    file.seek(0)
    unpack = next((unpack for magic, unpack in UNPACKERS.items() if start.startswith(magic)), None)
    stream = unpack(file) if unpack else file
    limited, unpacked = _Limited(stream, MAX_HEADER, most), 0
    try:
        tar: Any = tarfile.open(fileobj=limited.as_file(), mode="r:")  # noqa: SIM115 - it holds nothing that is to be closed
    except (*BROKEN, OSError):
        return  # neither is any other file that happens to be packed
    while (entry := tar.next()) is not None:
        tar.members.clear()  # it would remember all entries
        tar.pax_headers.clear()  # and what one says of all that follow
        if not entry.isdir():
            if not entry.isfile():
                raise DataError(f"{file.name} holds {entry.name}, which is no plain file.")
            unpacked += entry.size
            _refuse_beyond(most, unpacked, file.name)
            limited.left = entry.size + BLOCK
            content = tar.extractfile(entry)
            assert content is not None
            yield entry.name, entry.size, _blocks(content, BLOCK)
        limited.left = MAX_HEADER


def _blocks(content: IO[bytes], at_once: int) -> Iterator[bytes]:
    return iter(lambda: content.read(at_once), b"")


def _refuse_beyond(most: int, unpacked: int, name: str) -> None:
    """Refuse an archive that would unpack to more than it is believed."""
    if unpacked > most:
        raise DataError(
            f"{name} would unpack to {decimal(unpacked)} or more, and a file of its size is expected to hold at most "
            f"{decimal(most)}. Look at it, and extract it yourself if it is right."
        )


class _Limited:
    """A file of which no more can be read than is allowed.

    Args:
        file: to read.
        left: bytes that may be read until another number is set.
        most: bytes that the file may hold in all; default: any number.
    """

    def __init__(self, file: IO[bytes], left: int, most: int | None = None) -> None:
        self._file, self.left, self._most = file, left, most
        self.tell, self.close = file.tell, lambda: None
        self.name = str(getattr(file, "name", "The archive"))

    def as_file(self) -> IO[bytes]:
        """Return itself, as the libraries call it: they read, seek and ask where they are."""
        return cast(IO[bytes], self)

    def read(self, size: int = -1) -> bytes:
        """Read as many bytes.

        Raises:
            DataError: they are more than what is left, or beyond what the file may hold.
        """
        asked = size
        if size < 0:  # as the libraries read the rest of a file that is not packed
            here = self.tell()
            asked = self._file.seek(0, io.SEEK_END) - here
            self._file.seek(here)
        content = self._file.read(min(asked, self.left + 1))
        if len(content) > self.left:
            raise DataError(f"{self.name} is broken, or made to do harm: it has a header of {decimal(asked)} or more.")
        self.left -= len(content)
        self._within(self.tell())
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place in the file; one that is packed is unpacked until there."""
        if whence == 0:
            self._within(offset)
        return self._file.seek(offset, whence)

    def seekable(self) -> bool:
        """Tell the libraries that they can go to any place."""
        return True

    def _within(self, place: int) -> None:
        if self._most is not None:
            _refuse_beyond(self._most + BLOCK, place, self.name)
