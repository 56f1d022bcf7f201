"""An archive writes and takes no more than a file of its size can hold, whatever it says of itself."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from lying import tarred, zipped

from base_residual.data import archives
from base_residual.data.archives import MAX_HEADER, MOST_PACKED, extract
from base_residual.errors import DataError

ALWAYS = 2**20  # in these tests, so that they are quick
LARGE = 2**24  # bytes that each of these would take; others take a terabyte
MEMORY = 2**23  # bytes that extracting may take


@pytest.fixture(autouse=True)
def _measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(archives, "ALWAYS", ALWAYS)
    tracemalloc.start()
    yield
    tracemalloc.stop()


def entry(name: str, size: int, kind: bytes) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def sparse(real: int) -> bytes:
    """A file of GNU's old sparse format, of which nothing is stored: its map and its true size are in the header."""
    header = bytearray(entry("hole.npy", 0, tarfile.GNUTYPE_SPARSE))
    header[386:398], header[398:410] = b"%011o\0" % 0, b"%011o\0" % 0
    header[483:495] = b"\x80" + real.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def sparse_of_pax(real: int) -> bytes:
    """The same in the format of POSIX, whose map comes before the content."""
    about = (b"GNU.sparse.major=1", b"GNU.sparse.minor=0", b"GNU.sparse.realsize=%d" % real)
    words = b"".join(b"%d %s\n" % (len(text) + 4, text) for text in about)
    blocks = [entry("p", len(words), tarfile.XHDTYPE), words, entry("h", 512, b"0"), b"0\n"]
    return b"".join(block.ljust(512, b"\0") for block in blocks)


def overlapping() -> bytes:
    """A ZIP archive whose list names one content a thousand times."""
    one = zipped({"zeros": bytes(2**17)})
    start = one.index(b"PK\x01\x02")
    end = one.index(b"PK\x05\x06")
    record, count = one[start:end], 1000
    listed = b"".join(record.replace(b"zeros", b"%05d" % number) for number in range(count))
    return one[:start] + listed + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, count, count, len(listed), start, 0)


BOMBS = {
    "a long name": lambda: gzip.compress(entry("l", LARGE, tarfile.GNUTYPE_LONGNAME) + bytes(LARGE), 1),
    "a long link": lambda: gzip.compress(entry("l", LARGE, tarfile.GNUTYPE_LONGLINK) + bytes(LARGE), 1),
    "a header": lambda: gzip.compress(entry("x", LARGE, tarfile.XHDTYPE) + bytes(LARGE), 1),
    "a header for all": lambda: gzip.compress(entry("g", LARGE, tarfile.XGLTYPE) + bytes(LARGE), 1),
    "headers": lambda: gzip.compress((entry("x", 0, tarfile.XHDTYPE)) * (2 * MAX_HEADER // 512), 1),
    "a sparse file": lambda: gzip.compress(sparse(2**40) + bytes(1024)),
    "a sparse file that is not packed": lambda: sparse(2**40) + bytes(1024),
    "a sparse file of POSIX": lambda: sparse_of_pax(2**40) + bytes(1024),
    "a file": lambda: tarred({"a.npy": bytes(LARGE)}, "w:gz"),
    "files": lambda: tarred({f"{number}.npy": bytes(2**20) for number in range(LARGE // 2**20)}, "w:gz"),
    "a file in a ZIP": lambda: zipped({"a.npy": bytes(LARGE)}),
    "one content with many names": overlapping,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_before_it_fills_the_memory_or_the_disk(tmp_path: Path, name: str) -> None:
    archive, out = tmp_path / "archive", tmp_path / "out"
    archive.write_bytes(BOMBS[name]())
    assert archive.stat().st_size < 2**19
    tracemalloc.reset_peak()
    with pytest.raises(DataError, match=r"made to do harm|would unpack to|Cannot extract"):
        extract(archive, out)
    assert tracemalloc.get_traced_memory()[1] < MEMORY
    written = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    assert written <= MOST_PACKED * archive.stat().st_size + ALWAYS


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_of_any_kind_is_extracted_and_refused_where_it_lies(tmp_path: Path, kind: int) -> None:
    content = bytes(range(256)) * 99
    with zipfile.ZipFile(tmp_path / "a.zip", "w", kind) as archive:
        archive.writestr("a.npy", content)
    extract(tmp_path / "a.zip", tmp_path / "out")
    assert (tmp_path / "out" / "a.npy").read_bytes() == content
    whole, size = (tmp_path / "a.zip").read_bytes(), struct.pack("<L", len(content))
    at = whole.rindex(size)
    (tmp_path / "a.zip").write_bytes(whole[:at] + struct.pack("<L", 10) + whole[at + 4 :])
    with pytest.raises(DataError, match="Cannot extract"):
        extract(tmp_path / "a.zip", tmp_path / "lied")
    assert not list(tmp_path.glob("lied/*"))


def test_a_list_of_a_zip_is_read_up_to_a_limit(tmp_path: Path) -> None:
    size = 2**26
    with (tmp_path / "a.zip").open("wb") as file:  # a file with a hole, so that it takes no disk
        file.seek(size)
        file.write(struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, size, 0, 0))
    with pytest.raises(DataError, match="made to do harm"):
        extract(tmp_path / "a.zip", tmp_path / "out")
    assert tracemalloc.get_traced_memory()[1] < 2**25


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_an_honest_archive_with_long_names_and_empty_files_is_extracted(tmp_path: Path, mode: str, form: int) -> None:
    files = {f"{'folder/' * 30}{number:0100d}é.npy": bytes([number]) * 512 * number for number in range(5)}
    with tarfile.open(tmp_path / "a.tar", mode, format=form) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    extract(tmp_path / "a.tar", tmp_path / "out")
    assert {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*.npy")} == files


def test_what_is_no_archive_is_left_alone(tmp_path: Path) -> None:
    for content in (b"", b"a text", gzip.compress(b"a text"), b"BZh9 and more", bytes(2000)):
        (tmp_path / "a").write_bytes(content)
        extract(tmp_path / "a", tmp_path / "out")
    assert not (tmp_path / "out").exists()
