"""The download, against a server on this machine that answers as a Dataverse does."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import pytest
import typer
from conftest import write_batvision
from filelock import FileLock
from lying import tarred, zipped
from test_cli import brdepth, sentence
from typer.testing import CliRunner

from base_residual.cli.main import app
from base_residual.data import download as source
from base_residual.errors import DataError

Progressed = list[tuple[str, int, int]]


class Dataverse:
    """What the server publishes, how it misbehaves, and what it was asked for.

    Attributes:
        files: content by name.
        breaks: the connection is lost after so many bytes of each answer.
        ranges: whether it can begin in the middle.
        wrong: names of files whose published checksum is another one.
        asked: the first bytes of the answers, by name.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.breaks: int | None = None
        self.ranges = True
        self.wrong: set[str] = set()
        self.asked: list[tuple[str, int]] = []
        self.address = ""

    def listing(self) -> bytes:
        entries = []
        for number, (name, content) in enumerate(self.files.items()):
            value = hashlib.md5(content + b"!" * (name in self.wrong)).hexdigest()
            checksum = {"type": "MD5", "value": value}
            about = {"id": number, "filename": name, "filesize": len(content), "md5": value, "checksum": checksum}
            entries.append({"label": name, "restricted": False, "dataFile": about})
        return json.dumps({"status": "OK", "data": {"id": 1, "latestVersion": {"files": entries}}}).encode()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        names = {f"/api/access/datafile/{number}": name for number, name in enumerate(self.files)}
        if request.path == "/api/datasets/:persistentId/?persistentId=doi%3A10.57745%2FHYLZNL":
            content, first, broken = self.listing(), 0, None
        elif request.path in names:
            content, broken = self.files[names[request.path]], self.breaks
            given = request.headers.get("Range", "bytes=0-")
            first = int(given.removeprefix("bytes=").rstrip("-")) if self.ranges else 0
            self.asked.append((names[request.path], first))
        else:
            request.send_error(404)
            return
        request.send_response(206 if first else 200)
        request.send_header("Content-Length", str(len(content) - first))
        request.end_headers()
        request.wfile.write(content[first:][:broken])


@pytest.fixture
def dataverse() -> Iterator[Dataverse]:
    published = Dataverse()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            published.answer(self)

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, args=(0.01,)).start()
        published.address = f"http://127.0.0.1:{server.server_port}"
        yield published
        server.shutdown()


@pytest.fixture
def published(dataverse: Dataverse, tmp_path: Path) -> Dataverse:
    """Two archives of V2, a text and one of V1."""
    root = write_batvision(tmp_path / "original" / "BatvisionV2")
    files = {str(p.relative_to(root.parent)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}
    files["BatvisionV2/Attic/camera/camera_0.jpeg"] = b"a picture"
    names = sorted(files)
    dataverse.files = {
        "BatvisionV2_1.zip": zipped({name: files[name] for name in names[::2]}),
        "BatvisionV2_2.tar.gz": tarred({name: files[name] for name in names[1::2]}, "w:gz"),
        "BatvisionV1.zip": zipped({"BatvisionV1/train.csv": b"another dataset"}),
        "README.md": b"What this is.",
    }
    return dataverse


def get(published: Dataverse, folder: Path, *options: object, code: int = 0) -> str:
    return brdepth("download", "batvisionv2", folder, "--yes", "--server", published.address, *options, code=code)


def test_a_dataset_is_listed_fetched_verified_and_extracted(
    published: Dataverse, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "got"
    output = get(published, folder)
    assert "BatvisionV2_1.zip" in output
    assert "BatvisionV1" not in output
    assert "3 files" in output
    root = folder / "BatvisionV2"
    assert output.splitlines()[-1] == f"Check:   brdepth check-data {root}"
    assert "1 problem." in brdepth("check-data", root, code=1)  # its splits share their recordings
    assert (root / "Attic" / "camera" / "camera_0.jpeg").read_bytes() == b"a picture"
    assert Counter(name for name, _ in published.asked) == dict.fromkeys(
        ("BatvisionV2_1.zip", "BatvisionV2_2.tar.gz", "README.md"), 1
    )
    table = root / "Attic" / "train.csv"
    table.write_text(table.read_text().splitlines()[0])  # somebody has corrected it
    archive = folder / "BatvisionV2_1.zip"
    archive.touch()  # and so it is verified once more
    get(published, folder)  # again: all is there
    assert len(published.asked) == 3
    assert "BatvisionV2/Attic/train.csv, which stays as it is." in caplog.text
    assert len(table.read_text().splitlines()) == 1
    archive.write_bytes(bytes(archive.stat().st_size))  # as a copy that was cut off may look
    assert f"{archive} has another MD5 than published. Remove it;" in sentence(get(published, folder, code=2))
    assert not list(folder.rglob("*.part*"))


def test_only_what_is_asked_for_is_extracted(published: Dataverse, tmp_path: Path) -> None:
    get(published, tmp_path / "got", "--only", "audio,csv")
    suffixes = {path.suffix for path in (tmp_path / "got" / "BatvisionV2").rglob("*.*")}
    assert suffixes == {".wav", ".csv"}
    output = get(published, tmp_path / "got", "--only", "smell", code=2)
    assert sentence(output) == "Error: Unknown kind 'smell'. Known are audio, depth, camera, csv."


def test_nothing_is_fetched_before_the_size_was_said_and_agreed_to(published: Dataverse, tmp_path: Path) -> None:
    output = brdepth("download", "batvisionv2", tmp_path / "got", "--server", published.address, code=2)
    assert output.index("3 files") < output.index("Download into")
    assert sentence(output) == "Error: There is nobody to ask on standard input. With --yes nothing is asked."
    assert published.asked == []


def test_a_program_gets_the_list_without_a_question_and_the_files_once_it_agrees(
    published: Dataverse, tmp_path: Path
) -> None:
    listed = json.loads(brdepth("download", "batvisionv2", tmp_path / "got", "--server", published.address, "--json"))
    assert {file["name"] for file in listed["files"]} == {"BatvisionV2_1.zip", "BatvisionV2_2.tar.gz", "README.md"}
    assert all(file["bytes"] > 0 for file in listed["files"])
    assert listed["roots"] == published.asked == []
    fetched = json.loads(get(published, tmp_path / "got", "--json"))
    assert fetched == listed | {"roots": [str(tmp_path / "got" / "BatvisionV2")]}


def test_a_broken_connection_is_taken_up_where_it_broke(dataverse: Dataverse, tmp_path: Path) -> None:
    content = bytes(range(256)) * 10
    dataverse.files, dataverse.breaks = {"data.bin": content}, 1000
    (file,) = source.list_files("batvisionv2", dataverse.address)
    told: Progressed = []
    tmp_path.joinpath("data.bin.part").write_bytes(content[:60])  # of an earlier try
    path = source.fetch(file, tmp_path, dataverse.address, lambda *step: told.append(step))
    assert path.read_bytes() == content
    assert dataverse.asked == [("data.bin", 60), ("data.bin", 1060), ("data.bin", 2060)]
    assert told[-2:] == [("Fetching data.bin", 2560, 2560), ("Verifying data.bin.part", 2560, 2560)]


def test_a_server_that_cannot_go_on_begins_again(dataverse: Dataverse, tmp_path: Path) -> None:
    dataverse.files, dataverse.ranges = {"data.bin": b"0123456789"}, False
    (file,) = source.list_files("batvisionv2", dataverse.address)
    tmp_path.joinpath("data.bin.part").write_bytes(b"0123")
    assert source.fetch(file, tmp_path, dataverse.address).read_bytes() == b"0123456789"


def test_a_connection_that_brings_nothing_ends_and_keeps_what_has_come(dataverse: Dataverse, tmp_path: Path) -> None:
    dataverse.files, dataverse.breaks = {"data.bin": b"0123456789"}, 0
    tmp_path.joinpath("data.bin.part").write_bytes(b"0123")
    output = get(dataverse, tmp_path, code=2)
    assert "broke at 4 of 10 bytes of data.bin. The same command goes on from there." in sentence(output)
    assert tmp_path.joinpath("data.bin.part").read_bytes() == b"0123"


def test_two_do_not_fetch_one_file(dataverse: Dataverse, tmp_path: Path) -> None:
    dataverse.files = {"data.bin": b"0123456789"}
    with FileLock(tmp_path / "data.bin.part.lock"):
        assert "Another process is fetching" in sentence(get(dataverse, tmp_path, code=2))
    get(dataverse, tmp_path)
    assert not list(tmp_path.glob("*.lock"))


def test_another_checksum_is_refused_and_fetched_again(dataverse: Dataverse, tmp_path: Path) -> None:
    dataverse.files, dataverse.wrong = {"data.bin": b"0123456789"}, {"data.bin"}
    assert "data.bin came with another MD5 than published" in sentence(get(dataverse, tmp_path, code=2))
    assert list(tmp_path.iterdir()) == []
    dataverse.wrong.clear()
    get(dataverse, tmp_path)
    assert (tmp_path / "data.bin").read_bytes() == b"0123456789"


def test_no_server_no_dataset_and_no_file_are_one_sentence(dataverse: Dataverse, tmp_path: Path) -> None:
    dataverse.files = {"../up.bin": b""}
    assert "something else than the files of doi:10.57745/HYLZNL" in sentence(get(dataverse, tmp_path, code=2))
    dataverse.files = {"BatvisionV1.zip": b""}
    assert "publishes no file of batvisionv2" in sentence(get(dataverse, tmp_path, code=2))
    for server, words in (
        (f"{dataverse.address}/elsewhere", r"answers 404 Not Found\."),
        ("http://127.0.0.1:1", "Cannot reach http://127.0.0.1:1/.*: .*refused"),
        ("file:///etc", "should begin with https://"),
    ):
        with pytest.raises(DataError, match=words):
            source.list_files("batvisionv2", server)
    output = brdepth("download", "simulated", tmp_path, "--yes", code=2)
    assert sentence(output) == "Error: There is no download of 'simulated'. Known are batvisionv2, batvisionv1."


def test_only_the_folders_of_the_dataset_itself_are_its_roots(tmp_path: Path) -> None:
    second = write_batvision(tmp_path / "BatvisionV2")
    (tmp_path / "BatvisionV1").mkdir()
    (tmp_path / "BatvisionV1" / "val.csv").write_text("audio path left,audio path right,depth path\n")
    (tmp_path / "BatvisionV1" / "empty").mkdir()
    (tmp_path / "BatvisionV1" / "empty" / "val.csv").write_bytes(b"")
    assert source.find_roots(tmp_path, "batvisionv2") == [second]
    assert source.find_roots(tmp_path, "batvisionv1") == [tmp_path / "BatvisionV1"]


def test_who_says_no_gets_nothing(published: Dataverse, tmp_path: Path) -> None:
    line = ["download", "batvisionv2", str(tmp_path / "got"), "--server", published.address]
    answer = CliRunner().invoke(app, line, input="n\n")
    assert answer.exit_code == 1
    assert f"Download into {tmp_path / 'got'}, and extract there? [y/N]: n" in answer.output
    assert not (tmp_path / "got").exists()


def test_ctrl_c_at_the_question_ends_as_it_does_elsewhere(
    published: Dataverse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(question: str) -> bool:  # as click does
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise typer.Abort from None

    monkeypatch.setattr(typer, "confirm", ask)
    output = brdepth("download", "batvisionv2", tmp_path / "got", "--server", published.address, code=130)
    assert "Stopped." in output
    assert not (tmp_path / "got").exists()


def test_a_file_that_is_gone_is_named(dataverse: Dataverse, tmp_path: Path) -> None:
    dataverse.files = {"data.bin": b"0123456789"}
    (file,) = source.list_files("batvisionv2", dataverse.address)
    with pytest.raises(DataError, match=r"/api/access/datafile/7 answers 404 Not Found\."):
        source.fetch(file.model_copy(update={"id": 7}), tmp_path, dataverse.address)


def test_too_little_space_is_said_before_anything_is_fetched(
    published: Dataverse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
    assert "There are 1.0 kB free" in sentence(get(published, tmp_path / "got", code=2))
    assert published.asked == []


def test_a_full_disk_is_one_sentence(dataverse: Dataverse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataverse.files = {"data.bin": b"0123456789"}
    monkeypatch.setattr(source, "no_links", lambda path, flags: os.open("/dev/full", os.O_WRONLY))
    assert "No space left on device. What has come is kept" in sentence(get(dataverse, tmp_path, code=2))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("up.zip", zipped({"../harm.csv": b"x"}), "holds the path ../harm.csv, which leaves"),
        ("up.tar", tarred({"../harm.csv": b"x"}, "w:gz"), "holds the path ../harm.csv, which leaves"),
        ("root.tar", tarred({"/harm.csv": b"x"}, "w:gz"), "which leaves"),
        ("link.tar", tarred({"harm.csv": b""}, "w:gz", tarfile.SYMTYPE), "holds harm.csv, which is no plain file"),
        ("cut.zip", zipped({"a.csv": b"x" * 99}).replace(b"a.csv", b"b.csv", 1), "Cannot extract .*cut.zip"),
        ("cut.tar", tarred({"a.csv": bytes(range(256)) * 99}, "w:gz")[:-40], "Cannot extract .*cut.tar"),
    ],
)
def test_no_archive_writes_outside_of_its_folder_or_passes_when_broken(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / "in").mkdir()
    archive = tmp_path / "in" / name
    archive.write_bytes(content)
    with pytest.raises(DataError, match=words):
        source.extract(archive, tmp_path / "in")
    assert list(tmp_path.rglob("harm.csv")) == []
