"""Fetching the published archives of BatVision from their Dataverse, and extracting what is needed of them."""

from __future__ import annotations

import csv
import hashlib
import logging
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from lzma import LZMAError
from pathlib import Path
from typing import IO, Literal
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from filelock import Timeout
from pydantic import BaseModel, Field, ValidationError
from rich.filesize import decimal

from base_residual import __version__
from base_residual.data import PUBLISHED
from base_residual.data.batvision import V1, V2
from base_residual.data.cache import Progress, locked
from base_residual.data.sample import enumerated
from base_residual.errors import DataError
from base_residual.files import read_at_most, replacing
from base_residual.presets import SPLITS, listed

log = logging.getLogger("base_residual")

SERVER = "https://entrepot.recherche.data.gouv.fr"
LAYOUTS = {"batvisionv2": V2, "batvisionv1": V1}
"""The datasets that are published together."""

MOST_NAMES = 2**12  # characters of the columns' names that are read
KINDS = ("audio", "depth", "camera", "csv")
BLOCK = 2**20  # bytes read at a time
LONGEST_LIST = 2**24  # bytes of a list of files
MAX_MARK = 2**10  # bytes of a note that a file is verified
PATIENCE = 60.0  # seconds without a byte after which a connection counts as lost


class Checksum(BaseModel):
    """How a file's content is known; the value in hexadecimal digits."""

    type: Literal["MD5", "SHA-1", "SHA-256", "SHA-512"]
    value: str

    def matches(self, path: Path, progress: Progress | None = None) -> bool:
        """Whether a file has that content."""
        digest, size = hashlib.new(self.type.replace("-", ""), usedforsecurity=False), path.stat().st_size
        with path.open("rb") as content:
            while block := content.read(BLOCK):
                digest.update(block)
                if progress is not None:
                    progress(f"Verifying {path.name}", content.tell(), size)
        return digest.hexdigest() == self.value.lower()


class RemoteFile(BaseModel):
    """A published file: its number at the server, name, size in bytes, and checksum."""

    id: int
    name: str = Field(alias="filename", pattern=r"^[^/\\\x00]*[^/\\\x00.][^/\\\x00]*$")  # a plain one
    size: int = Field(alias="filesize", ge=0)
    checksum: Checksum

    def whole(self, folder: Path) -> Path:
        """Where it is once it is verified."""
        return folder / self.name

    def part(self, folder: Path) -> Path:
        """Where it is before."""
        return folder / f"{self.name}.part"

    def mark(self, folder: Path) -> Path:
        """Says that the file there was verified, and when that was written: a second time costs nothing."""
        return folder / f".{self.name}.verified"


class _Entry(BaseModel):
    file: RemoteFile = Field(alias="dataFile")


class _Version(BaseModel):
    files: list[_Entry]


class _Dataset(BaseModel):
    latest: _Version = Field(alias="latestVersion")


class _Answer(BaseModel):
    data: _Dataset


def list_files(dataset: str, server: str = SERVER) -> list[RemoteFile]:
    """The published files of a dataset; those whose names say that they are another one's are left out.

    Args:
        dataset: batvisionv2 or batvisionv1.
        server: address of the Dataverse.

    Raises:
        DataError: the dataset is not published, or the server cannot be reached or answers something else.
    """
    if dataset not in LAYOUTS:
        raise DataError(f"There is no download of '{dataset}'. Known are {listed(dataset, LAYOUTS)}")
    with _request(f"{server}/api/datasets/:persistentId/?{urlencode({'persistentId': PUBLISHED})}") as answer:
        body = _next(answer, LONGEST_LIST)
    try:
        files = [entry.file for entry in _Answer.model_validate_json(body).data.latest.files]
    except ValidationError as error:
        raise DataError(f"{server} answers something else than the files of {PUBLISHED}.") from error
    others = [name.removeprefix("batvision") for name in LAYOUTS if name != dataset]  # v1 or v2
    own = [file for file in files if not any(other in file.name.lower() for other in others)]
    if not own:
        raise DataError(f"{server} publishes no file of {dataset} under {PUBLISHED}.")
    return own


def download(
    files: Sequence[RemoteFile],
    folder: Path,
    only: Sequence[str] = (),
    server: str = SERVER,
    progress: Progress | None = None,
) -> None:
    """Fetch files, and extract those that are archives. What is there already is neither fetched nor extracted again.

    A file that something else has fetched is verified once; one that was extracted, and has changed, stays as it is.

    Args:
        files: what `list_files` found.
        folder: where to; it is created. The archives stay there, too.
        only: some of `KINDS`; default: all that the archives hold.
        server: address of the Dataverse.
        progress: told how many bytes are done, of which file.

    Raises:
        DataError: a kind is unknown, there is too little space, a file cannot be fetched, or an archive is broken.
        RunError: what is extracted cannot be written.
    """
    unknown = [kind for kind in only if kind not in KINDS]
    if unknown:
        raise DataError(f"Unknown kind '{unknown[0]}'. Known are {listed(unknown[0], KINDS)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise DataError(f"Cannot write to {folder}: {error.strerror or error}.") from error
    needed = sum(file.size - _held(file.part(folder)) for file in files if _held(file.whole(folder)) != file.size)
    if needed > free:
        raise DataError(
            f"There are {decimal(free)} free in {folder}, and {decimal(needed)} are still to come, before anything is "
            "extracted."
        )
    for file in files:
        extract(fetch(file, folder, server, progress), folder, only, progress)


def fetch(file: RemoteFile, folder: Path, server: str = SERVER, progress: Progress | None = None) -> Path:
    """Fetch a file, from where an earlier try has ended, and verify its checksum.

    A connection that breaks is taken up again as long as something comes. Until all is verified, the name ends in
    `.part`.

    Raises:
        DataError: nothing more comes, the disk is full, the checksum is another one, or another process is at it.
        RunError: the note that it is verified cannot be written.
    """
    path, part = file.whole(folder), file.part(folder)
    if path.is_file() and _held(path) == file.size:
        _verify_once(file, folder, progress)
        return path
    lock = part.with_name(f"{part.name}.lock")
    try:
        with locked(lock, wait=False):
            _fetch_whole(file, path, part, server, progress)
            _note_verified(file, folder)
    except Timeout as error:
        raise DataError(f"Another process is fetching {part}. Wait for it, or name another folder.") from error
    except OSError as error:
        raise DataError(
            f"Cannot write {part}: {error.strerror or error}. What has come is kept, and the same command goes on."
        ) from error
    return path


def _verify_once(file: RemoteFile, folder: Path, progress: Progress | None) -> None:
    """Verify a file that is there, unless that was done since it was last written."""
    path, mark = file.whole(folder), file.mark(folder)
    try:
        if mark.exists() and read_at_most(mark, MAX_MARK).decode(errors="replace") == _mark(file, folder):
            return
        if not file.checksum.matches(path, progress):
            raise DataError(
                f"{path} has another {file.checksum.type} than published. Remove it; the same command then fetches it."
            )
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
    _note_verified(file, folder)


def _note_verified(file: RemoteFile, folder: Path) -> None:
    with replacing(file.mark(folder)) as aside:
        aside.write_text(_mark(file, folder), encoding="utf-8")


def _mark(file: RemoteFile, folder: Path) -> str:
    return f"{file.checksum.value} {file.whole(folder).stat().st_mtime_ns}"


def _fetch_whole(file: RemoteFile, path: Path, part: Path, server: str, progress: Progress | None) -> None:
    """Fetch what is missing of a file, verify it, and give it its name."""
    if _held(part) > file.size:
        part.unlink()
    part.touch()
    while (held := _held(part)) < file.size:
        _go_on(file, part, server, progress)
        if _held(part) <= held:
            raise DataError(
                f"The connection to {server} broke at {held:,} of {file.size:,} bytes of {file.name}. "
                "The same command goes on from there."
            )
    if not file.checksum.matches(part, progress):
        part.unlink()
        raise DataError(
            f"{file.name} came with another {file.checksum.type} than published and was removed. "
            "The same command fetches it again."
        )
    part.replace(path)


def extract(archive: Path, folder: Path, only: Sequence[str] = (), progress: Progress | None = None) -> None:
    """Extract a ZIP or TAR archive; any other file stays as it is, and so does what is there already.

    Args:
        archive: what was fetched.
        folder: where to; nothing is written outside of it.
        only: some of `KINDS`; default: everything.
        progress: told how many bytes of the archive are read.

    Raises:
        DataError: the archive is broken, or holds a link or a path that leaves the folder.
        RunError: a file cannot be written.
    """
    size, inside = archive.stat().st_size, folder.resolve()
    changed: list[str] = []
    try:
        with archive.open("rb") as file:
            for name, length, content in _members(file):
                target = folder / name
                if not target.resolve().is_relative_to(inside):
                    raise DataError(f"{archive} holds the path {name}, which leaves {folder}.")
                wanted = not only or any(kind in name.lower() for kind in only)
                if wanted and target.is_file():
                    changed += [name] if _held(target) != length else []
                elif wanted:
                    with replacing(target) as aside, aside.open("wb") as out:
                        shutil.copyfileobj(content, out, BLOCK)
                if progress is not None:
                    progress(f"Extracting {archive.name}", min(file.tell(), size), size)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, LZMAError, EOFError, ValueError, RuntimeError) as error:
        raise DataError(f"Cannot extract {archive}: {error}.") from error
    except OSError as error:  # a name that no file can have, or a disk that cannot be read
        raise DataError(f"Cannot extract {archive}: {error.strerror or error}.") from error
    if changed:
        log.warning("%s holds other contents of %s, which stays as it is.", archive, enumerated(changed))


def roots(folder: Path, dataset: str) -> list[Path]:
    """The folders under `folder` that are laid out as the dataset is; others may lie beside them."""
    layout = LAYOUTS[dataset]
    above = layout.tables.count("/")
    tables = (path for split in SPLITS for path in folder.rglob(f"{split}.csv") if set(layout.columns) <= _named(path))
    return sorted({path.parents[above] for path in tables if len(path.relative_to(folder).parts) > above})


def _named(table: Path) -> set[str]:
    """The columns of a table."""
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return set(next(csv.reader([file.readline(MOST_NAMES)]), []))


def _members(file: IO[bytes]) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name, length and content of the files in an archive; nothing where it is none."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    with archive.open(info) as content:
                        yield info.filename, info.file_size, content
        return
    file.seek(0)
    if not tarfile.is_tarfile(file):
        return
    file.seek(0)
    with tarfile.open(fileobj=file) as tar:
        for entry in tar:
            if entry.isdir():
                continue
            extracted = tar.extractfile(entry) if entry.isfile() else None
            if extracted is None:
                raise DataError(f"{file.name} holds {entry.name}, which is no plain file.")
            yield entry.name, entry.size, extracted


def _go_on(file: RemoteFile, part: Path, server: str, progress: Progress | None) -> None:
    """Append what comes of the rest to a part, until it is complete or the connection breaks."""
    held = _held(part)
    with _request(f"{server}/api/access/datafile/{file.id}", held) as answer:
        if answer.status != HTTPStatus.PARTIAL_CONTENT:  # all of it comes again
            held = 0
        with part.open("ab" if held else "wb") as out:
            while held < file.size and (block := _next(answer, min(BLOCK, file.size - held))):
                out.write(block)
                held += len(block)
                if progress is not None:
                    progress(f"Fetching {file.name}", held, file.size)


def _request(address: str, first: int = 0) -> HTTPResponse:
    """The server's answer, from the byte `first` on if it can."""
    if not address.startswith(("http://", "https://")):
        raise DataError(f"The server's address {address} should begin with https://.")
    headers = {"User-Agent": f"base-residual-depth/{__version__}"} | ({"Range": f"bytes={first}-"} if first else {})
    try:
        answer: HTTPResponse = urlopen(Request(address, headers=headers), timeout=PATIENCE)
    except HTTPError as error:
        error.close()
        raise DataError(f"{address} answers {error.code} {error.reason}.") from error
    except (OSError, HTTPException, ValueError) as error:
        raise DataError(f"Cannot reach {address}: {getattr(error, 'reason', error)}.") from error
    return answer


def _next(answer: HTTPResponse, size: int) -> bytes:
    """What comes next; nothing when the connection is lost."""
    try:
        return answer.read(size)
    except (OSError, HTTPException):
        return b""


def _held(path: Path) -> int:
    """Size of a file in bytes, 0 if it is not there."""
    return path.stat().st_size if path.is_file() else 0
