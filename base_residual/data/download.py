"""The published archives of BatVision, fetched from their Dataverse and extracted."""

from __future__ import annotations

import csv
import hashlib
import logging
import shutil
from collections.abc import Sequence
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from filelock import Timeout
from pydantic import BaseModel, Field, ValidationError
from rich.filesize import decimal

from base_residual.config.names import listed
from base_residual.config.presets import SPLITS
from base_residual.data import PUBLISHED
from base_residual.data.archives import BLOCK, extract
from base_residual.data.batvision import V1, V2
from base_residual.errors import DataError
from base_residual.files.atomic import no_links, read_at_most, write_whole
from base_residual.files.cache import Progress, locked
from base_residual.version import __version__

log = logging.getLogger("base_residual")

SERVER = "https://entrepot.recherche.data.gouv.fr"
LAYOUTS = {"batvisionv2": V2, "batvisionv1": V1}
"""The layouts of the datasets, which are published together."""

KINDS = ("audio", "depth", "camera", "csv")
MAX_COLUMNS = 2**12  # characters of a table's first line
MAX_LIST = 2**24  # bytes of the server's list of files
MAX_NOTE = 2**10  # bytes of the note that a file is verified
TIMEOUT = 60.0  # seconds without a byte after which a connection counts as lost


class Checksum(BaseModel):
    """A checksum: its type, and its value in hexadecimal digits."""

    type: Literal["MD5", "SHA-1", "SHA-256", "SHA-512"]
    value: str

    def matches(self, path: Path, progress: Progress | None = None) -> bool:
        """Return whether a file has that checksum."""
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
    name: str = Field(alias="filename", pattern=r"^[^/\\\x00]*[^/\\\x00.][^/\\\x00]*$")  # no path, not "."
    size: int = Field(alias="filesize", ge=0)
    checksum: Checksum

    def path(self, folder: Path) -> Path:
        """Return the path of the complete, verified file."""
        return folder / self.name

    def partial_path(self, folder: Path) -> Path:
        """Return the path of the file until it is complete and verified."""
        return folder / f"{self.name}.part"

    def note_path(self, folder: Path) -> Path:
        """Return the path of the note that the file was verified, which saves doing so again."""
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
    """Return the published files of a dataset; those whose names contain another dataset's version are left out.

    Args:
        dataset: batvisionv2 or batvisionv1.
        server: address of the Dataverse.

    Raises:
        DataError: the dataset is not published, or the server cannot be reached or answers something else.
    """
    if dataset not in LAYOUTS:
        raise DataError(f"There is no download of '{dataset}'. Known are {listed(dataset, LAYOUTS)}")
    with _request(f"{server}/api/datasets/:persistentId/?{urlencode({'persistentId': PUBLISHED})}") as answer:
        body = _read_block(answer, MAX_LIST)
    try:
        files = [entry.file for entry in _Answer.model_validate_json(body).data.latest.files]
    except ValidationError as error:
        raise DataError(f"{server} answers something else than the files of {PUBLISHED}.") from error
    others = [name.removeprefix("batvision") for name in LAYOUTS if name != dataset]  # v1 or v2
    files = [file for file in files if not any(other in file.name.lower() for other in others)]
    if not files:
        raise DataError(f"{server} publishes no file of {dataset} under {PUBLISHED}.")
    return files


def download(
    files: Sequence[RemoteFile],
    folder: Path,
    only: Sequence[str] = (),
    server: str = SERVER,
    progress: Progress | None = None,
) -> None:
    """Fetch files, and extract those that are archives. Existing files are neither fetched nor extracted again.

    A file that was fetched by other means is verified once. An extracted file that has changed stays as it is.

    Args:
        files: those that `list_files` returns.
        folder: to fetch and extract into; it is created. The archives stay there.
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
    missing = [file for file in files if _size(file.path(folder)) != file.size]
    needed = sum(file.size - _size(file.partial_path(folder)) for file in missing)
    if needed > free:
        raise DataError(
            f"There are {decimal(free)} free in {folder}, and {decimal(needed)} are still to come, before anything is "
            "extracted."
        )
    for file in files:
        extract(fetch(file, folder, server, progress), folder, only, progress)


def fetch(file: RemoteFile, folder: Path, server: str = SERVER, progress: Progress | None = None) -> Path:
    """Fetch a file, from where an earlier try has ended, and verify its checksum.

    A broken connection is opened again as long as each one brings more bytes. Until the file is verified, its name ends
    in `.part`.

    Raises:
        DataError: no more bytes come, the disk is full, the checksum is wrong, or another process fetches the file.
        RunError: the note that it is verified cannot be written.
    """
    path, partial = file.path(folder), file.partial_path(folder)
    if path.is_file() and _size(path) == file.size:
        _verify_once(file, folder, progress)
        return path
    lock = partial.with_name(f"{partial.name}.lock")
    try:
        with locked(lock, wait=False):
            _fetch_and_verify(file, path, partial, server, progress)
            _write_note(file, folder)
    except Timeout as error:
        raise DataError(f"Another process is fetching {partial}. Wait for it, or name another folder.") from error
    except OSError as error:
        raise DataError(
            f"Cannot write {partial}: {error.strerror or error}. What has come is kept, and the same command goes on."
        ) from error
    return path


def _verify_once(file: RemoteFile, folder: Path, progress: Progress | None) -> None:
    """Verify a complete file, unless that was done since it was last written."""
    path, note = file.path(folder), file.note_path(folder)
    try:
        if note.exists() and read_at_most(note, MAX_NOTE).decode(errors="replace") == _note(file, folder):
            return
        if not file.checksum.matches(path, progress):
            raise DataError(
                f"{path} has another {file.checksum.type} than published. Remove it; the same command then fetches it."
            )
    except OSError as error:
        raise DataError(f"Cannot read {path}: {error.strerror or error}.") from error
    _write_note(file, folder)


def _write_note(file: RemoteFile, folder: Path) -> None:
    write_whole(file.note_path(folder), _note(file, folder))


def _note(file: RemoteFile, folder: Path) -> str:
    """Return the content of the note that a file is verified: its checksum, and the time at which it was written."""
    return f"{file.checksum.value} {file.path(folder).stat().st_mtime_ns}"


def _fetch_and_verify(file: RemoteFile, path: Path, partial: Path, server: str, progress: Progress | None) -> None:
    """Fetch the missing bytes of a file, verify it, and rename it to `path`."""
    if _size(partial) > file.size:
        partial.unlink()
    open(partial, "ab", opener=no_links).close()
    while (done := _size(partial)) < file.size:
        _append_rest(file, partial, server, progress)
        if _size(partial) <= done:
            raise DataError(
                f"The connection to {server} broke at {done:,} of {file.size:,} bytes of {file.name}. "
                "The same command goes on from there."
            )
    if not file.checksum.matches(partial, progress):
        partial.unlink()
        raise DataError(
            f"{file.name} came with another {file.checksum.type} than published and was removed. "
            "The same command fetches it again."
        )
    partial.replace(path)


def find_roots(folder: Path, dataset: str) -> list[Path]:
    """Return the folders under `folder` that have the layout of a dataset, so that each can be its root."""
    layout = LAYOUTS[dataset]
    depth = layout.tables.count("/")  # of a table below the root
    tables = (
        path for split in SPLITS for path in folder.rglob(f"{split}.csv") if set(layout.columns) <= _columns(path)
    )
    return sorted({path.parents[depth] for path in tables if len(path.relative_to(folder).parts) > depth})


def _columns(table: Path) -> set[str]:
    """Read the columns of a table."""
    with table.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return set(next(csv.reader([file.readline(MAX_COLUMNS)]), []))


def _append_rest(file: RemoteFile, partial: Path, server: str, progress: Progress | None) -> None:
    """Append the missing bytes to a partial file, until it is complete or the connection breaks."""
    done = _size(partial)
    with _request(f"{server}/api/access/datafile/{file.id}", done) as answer:
        if answer.status != HTTPStatus.PARTIAL_CONTENT:  # the server sends the file from its beginning
            done = 0
        with open(partial, "ab" if done else "wb", opener=no_links) as out:
            while done < file.size and (block := _read_block(answer, min(BLOCK, file.size - done))):
                out.write(block)
                done += len(block)
                if progress is not None:
                    progress(f"Fetching {file.name}", done, file.size)


def _request(address: str, first: int = 0) -> HTTPResponse:
    """Send a request, and return the answer: from the byte `first` on if the server can do that."""
    if not address.startswith(("http://", "https://")):
        raise DataError(f"The server's address {address} should begin with https://.")
    headers = {"User-Agent": f"base-residual-depth/{__version__}"} | ({"Range": f"bytes={first}-"} if first else {})
    try:
        answer: HTTPResponse = urlopen(Request(address, headers=headers), timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        raise DataError(f"{address} answers {error.code} {error.reason}.") from error
    except (OSError, HTTPException, ValueError) as error:
        raise DataError(f"Cannot reach {address}: {getattr(error, 'reason', error)}.") from error
    return answer


def _read_block(answer: HTTPResponse, size: int) -> bytes:
    """Read up to `size` bytes of an answer; none if the connection is lost."""
    try:
        return answer.read(size)
    except (OSError, HTTPException):
        return b""


def _size(path: Path) -> int:
    """Return the size of a file in bytes, 0 if it does not exist."""
    return path.stat().st_size if path.is_file() else 0
