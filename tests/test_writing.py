"""Files are written under names that nobody can guess, follow no link, and keep the mode of what they replace."""

from __future__ import annotations

import ast
import os
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_batvision
from filelock import FileLock

import base_residual
from base_residual.config.resolve import make_config
from base_residual.config.schema import Config
from base_residual.data import download, prepared, simulated
from base_residual.data.batvision import BatVisionV2, write_table
from base_residual.errors import DataError, RunError
from base_residual.files.atomic import TEMPORARY, discard_temporary, replacing, write_whole
from base_residual.files.npy import RowLayout
from base_residual.files.tensors import write_tensors
from base_residual.plots.figures import comparison_figure, save_figure
from base_residual.simulation.rendering import LOCATION, pose_name, render_room

WRITERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: write_whole(path, "new"),
    "weights": lambda path: write_tensors(path, {"a": torch.zeros(1)}, {}),
    "picture": lambda path: save_figure(comparison_figure({"a": [[1.0, 0.5]]}), path),
}


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "elsewhere" / "victim"
    path.parent.mkdir()
    path.write_text("precious")
    return path


@pytest.mark.parametrize("name", WRITERS)
def test_no_link_of_a_name_that_can_be_guessed_is_followed(tmp_path: Path, victim: Path, name: str) -> None:
    out = tmp_path / "shared" / "out.png"
    out.parent.mkdir()
    for guess in (f".out.{os.getpid()}.partial.png", f".out.png.{os.getpid()}.partial", "out.png.tmp", ".out.png.tmp"):
        (out.parent / guess).symlink_to(victim)
    WRITERS[name](out)
    assert victim.read_text() == "precious"
    assert out.stat().st_size


def test_a_name_that_was_guessed_all_the_same_is_not_followed(
    tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda count: "0" * 2 * count)
    for place in (lambda path: path.symlink_to(victim), lambda path: path.hardlink_to(victim)):
        place(tmp_path / f".brdepth-{'0' * 32}.partial")
        with pytest.raises(RunError, match="Cannot write"):
            write_whole(tmp_path / "out", "new")
        assert victim.read_text() == "precious"
        assert not (tmp_path / "out").exists()


def test_what_is_written_is_seen_under_its_name_once_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / ("n" * 250)  # the other name has room, however long this one is
    write_whole(path, "old")
    with replacing(path) as file:
        file.write(b"new")
        (aside,) = set(tmp_path.iterdir()) - {path}
        assert TEMPORARY.fullmatch(aside.name)
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_replaced_hands_its_mode_on_and_a_new_one_gets_what_the_user_gives_all(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for name, write in WRITERS.items():
            path = tmp_path / f"{name}.png"
            write(path)
            assert stat.S_IMODE(path.stat().st_mode) == 0o640
            for mode in (0o600, 0o664, 0o444):
                path.chmod(mode)
                write(path)
                assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(before)


def test_a_device_a_pipe_and_a_folder_stay_what_they_are(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to(os.devnull)
    for name in ("pipe", "null", "."):
        with pytest.raises(RunError, match=r"it is (no plain file|a folder)"):
            write_whole(tmp_path / name, "new")
    assert (tmp_path / "pipe").is_fifo()
    assert (tmp_path / "null").is_symlink()


def test_what_a_killed_process_has_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = [".notes.partial", ".brdepth-1.partial", "a.partial", f".brdepth-{'0' * 32}.partial.bak"]
    for name in (*kept, f".brdepth-{'0' * 32}.partial"):
        (tmp_path / name).touch()
    discard_temporary(tmp_path)
    discard_temporary(tmp_path / "none")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


def rooms(tmp_path: Path) -> tuple[Config, Path]:
    config = make_config({"simulation": {"train_rooms": 1, "val_rooms": 1, "test_rooms": 1, "poses": 1}})
    return config, tmp_path / "set.partial"


def test_files_whose_names_have_to_be_known_are_no_links(tmp_path: Path, victim: Path) -> None:
    config, folder = rooms(tmp_path)
    simulated._prepare(folder, config.data, config.simulation, tmp_path / "own.lock")
    (folder / LOCATION / "audio" / f"{pose_name('train', 0, 0)}.wav").symlink_to(victim)
    with pytest.raises(OSError, match="it is a link; remove it"):
        render_room(folder, "train", 0, simulated._description(config.data, config.simulation))
    (folder / LOCATION / "train.csv").symlink_to(victim)
    with pytest.raises(OSError, match="it is a link"):
        write_table(folder, LOCATION, "train", [])
    (tmp_path / "waveform.npy").symlink_to(victim)
    for rows in (0, 1):
        with pytest.raises(OSError, match="it is a link"):
            RowLayout(np.uint16, (2, 4)).open(tmp_path / "waveform.npy", rows)
    with pytest.raises(OSError, match=r"symbolic|link"):
        FileLock(link_to(victim, tmp_path / "a.lock")).acquire()
    assert victim.read_text() == "precious"


def link_to(victim: Path, path: Path) -> Path:
    path.symlink_to(victim)
    return path


def test_half_a_download_is_no_link(tmp_path: Path, victim: Path) -> None:
    checksum = download.Checksum(type="MD5", value="0")
    file = download.RemoteFile(id=1, filename="data.bin", filesize=10, checksum=checksum)
    link_to(victim, tmp_path / "data.bin.part")
    with pytest.raises(DataError, match="it is a link; remove it"):
        download.fetch(file, tmp_path, "http://127.0.0.1:1")
    assert victim.read_text() == "precious"


def test_half_a_set_is_no_link(tmp_path: Path, victim: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, folder = rooms(tmp_path)
    link_to(victim.parent, folder)
    with pytest.raises(DataError, match=r"it is a link\. Remove it"):
        simulated.simulate(tmp_path / "set", config.data, config.simulation)
    monkeypatch.setenv("BRDEPTH_CACHE", str(tmp_path / "cache"))
    source = BatVisionV2(write_batvision(tmp_path / "own"), "train", config.data, config.audio.sample_rate)
    made = prepared.prepared(source).folder
    made.rename(tmp_path / "moved")
    link_to(tmp_path / "moved", made.with_name(f"{made.name}.partial"))
    with pytest.raises(DataError, match="Cannot prepare"):
        prepared.prepared(source)
    assert [path.name for path in victim.parent.iterdir()] == ["victim"]


def test_every_writer_of_the_package_goes_one_of_the_two_ways() -> None:
    """No module opens a file to write in another way than `replacing`, or `open(..., opener=no_links)`."""
    for path in Path(base_residual.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            words = {word.arg for word in node.keywords}
            modes = [arg for arg in ast.walk(node) if isinstance(arg, ast.Constant) and arg.value in ("w", "wb", "ab")]
            assert called not in ("write_text", "write_bytes", "touch", "savefig", "savetxt", "savez", "mkstemp"), path
            assert called != "open" or not modes or "opener" in words, (path, node.lineno)
