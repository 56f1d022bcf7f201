"""Names from a server, an archive or a dataset cannot steer the terminal, nor pass for lines of the program's own."""

from __future__ import annotations

import io
import logging
import tarfile
from pathlib import Path

import pytest
import torch
from conftest import write_batvision
from lying import tarred, zipped
from rich.console import Console
from test_cli import brdepth
from test_download import Dataverse, dataverse, get

from base_residual.cli.main import Notes
from base_residual.cli.progress import counting
from base_residual.data import download as source
from base_residual.data.sample import EchoSample, collate
from base_residual.errors import BaseResidualError, DataError, printable
from base_residual.plots.figures import replace_missing_glyphs

__all__ = ["dataverse"]  # a fixture

HOSTILE = "a\x1b[2J\x9b1A\rb\nError: c\u2028\u202ed\x07"


def plain(text: str) -> bool:
    """Whether a text neither steers a terminal nor has a line of the name's own."""
    return not set(text) & set("\x1b\x9b\r\u2028\u202e\x07") and "\nError: c" not in text


def test_what_steers_a_terminal_is_shown_as_an_escape_and_all_else_as_it_is() -> None:
    assert printable(HOSTILE) == r"a\x1b[2J\x9b1A\rb\nError: c\u2028\u202ed\x07"
    assert printable("\udcff") == r"\udcff"
    for name in ("Büro [2] \N{NO-BREAK SPACE}日本 \N{BAT}", "", "~/runs"):
        assert printable(name) == name


def test_names_of_a_server_are_shown_safely_before_the_question_and_while_they_come(
    dataverse: Dataverse, tmp_path: Path
) -> None:
    dataverse.files = {f"{HOSTILE}.bin": b"0123456789"}
    shown = brdepth("download", "batvisionv2", tmp_path / "got", "--server", dataverse.address, code=2)
    assert r"\x1b" in "".join(shown.split())
    assert plain(shown)
    dataverse.wrong = set(dataverse.files)
    assert plain(get(dataverse, tmp_path / "got", code=2))


def test_names_in_an_archive_are_shown_safely(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / "link.tar"
    archive.write_bytes(tarred({HOSTILE: b""}, "w:gz", tarfile.SYMTYPE))
    with pytest.raises(DataError, match="which is no plain file") as raised:
        source.extract(archive, tmp_path / "out")
    assert plain(str(raised.value))

    archive = tmp_path / "changed.zip"
    archive.write_bytes(zipped({HOSTILE: b"one"}))
    source.extract(archive, tmp_path / "out")
    archive.write_bytes(zipped({HOSTILE: b"another"}))
    log, notes = logging.getLogger("base_residual"), Notes()
    log.addHandler(notes)
    try:
        source.extract(archive, tmp_path / "out")
    finally:
        log.removeHandler(notes)
    said = capsys.readouterr().err
    assert "which stays as it is" in said
    assert plain(said)


def test_names_in_a_dataset_are_shown_safely(tmp_path: Path) -> None:
    root = write_batvision(tmp_path / "set")
    (root / "Attic").rename(root / "a\u2028b\u202e")
    shown = brdepth("check-data", root, code=1)
    assert r"a\u2028b\u202e" in shown
    assert plain(shown)
    (root / "a\u2028b\u202e").rename(root / HOSTILE)
    assert plain(brdepth("check-data", root, code=2))


def test_errors_of_the_library_are_safe_to_show() -> None:
    class MineError(BaseResidualError):
        """An error of a kind that this package does not have."""

    assert str(MineError(HOSTILE)) == printable(HOSTILE)
    whole, half = (EchoSample(torch.zeros(2, 8), torch.zeros(size, size), HOSTILE) for size in (4, 2))
    with pytest.raises(DataError) as raised:
        collate([whole, half])
    assert plain(str(raised.value))


def test_progress_and_pictures_show_names_safely() -> None:
    file = io.StringIO()
    with counting(Console(file=file, force_terminal=True, width=120, color_system=None)) as progress:
        progress(f"Fetching {HOSTILE}", 1, 2)
    assert r"Fetching a\x1b[2J" in file.getvalue()
    assert "\x1b[2J" not in file.getvalue()
    assert replace_missing_glyphs("a\nb\u202ec") == r"a\nb\u202ec"
