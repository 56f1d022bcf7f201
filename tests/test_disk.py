"""Disks that fill up, turn read-only or lose their files: one sentence, exit code 2, and the last good state stays."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import write_batvision
from test_cli import TINY_OPTIONS, brdepth, sentence

from base_residual.config.run_layout import STATE
from base_residual.models.factory import load_model
from base_residual.training.run_folder import claimed

FULL = "No space left on device"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of twelve megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m", "none", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small disk needs Linux and its root user")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)  # busy where a test has failed


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def fill(disk: Path, left: int) -> Path:
    """A file that takes all of a disk but `left` bytes."""
    free = os.statvfs(disk)
    filler = disk / "filler"
    filler.write_bytes(bytes(free.f_bavail * free.f_frsize - left))
    return filler


def train(results: Path, epochs: int, *options: object, save_every: int = 0, code: int = 0) -> str:
    constant = ("--set", "trainer.lr_schedule=constant", "--set", "trainer.picture_every=1")
    where = ("--results-dir", results, "--epochs", epochs, "--save-every", save_every)
    return brdepth("train", *TINY_OPTIONS, *where, *constant, "--resume", *options, code=code)


def weights(results: Path) -> dict[str, torch.Tensor]:
    (path,) = results.glob("*/best.safetensors")
    return load_model(path).state_dict()


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a run after its first epoch, to be copied."""
    results = tmp_path_factory.mktemp("begun")
    train(results, 1)
    return results


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("undisturbed")
    train(results, 2)
    return results


@pytest.mark.parametrize(
    ("left", "save_every", "lacking"),
    [(0, 0, STATE), (500_000, 1000, "best.safetensors"), (1_500_000, 1000, STATE)],  # after a step, after an epoch
)
def test_a_run_whose_disk_is_full_goes_on_when_there_is_room(
    disk: Path, begun: Path, undisturbed: Path, left: int, save_every: int, lacking: str
) -> None:
    shutil.copytree(begun, disk / "results")
    (run,) = (disk / "results").iterdir()
    filler = fill(disk, left)
    said = sentence(train(disk / "results", 2, save_every=save_every, code=2))
    assert FULL in said
    assert lacking in said
    assert not list(run.glob(".*"))  # neither a half of a file nor the lock
    assert weights(disk / "results")
    filler.unlink()
    train(disk / "results", 2)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    expected, found = weights(undisturbed), weights(disk / "results")
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_disk_that_is_full_from_the_start_is_named(disk: Path) -> None:
    fill(disk, 0)
    said = sentence(train(disk / "results", 1, code=2))
    assert FULL in said
    assert str(disk / "results") in said


def test_rooms_and_prepared_sets_that_do_not_fit_are_finished_later(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BRDEPTH_CACHE", str(disk))
    for size, what in (("300k", "rooms-"), ("550k", "prepared-")):
        remount(disk, f"size={size}")
        said = sentence(train(tmp_path / "results", 1, code=2))
        assert FULL in said
        assert what in said
    remount(disk, "size=12m")
    train(tmp_path / "results", 1)


def test_a_read_only_disk_is_named_and_left_as_it_is(disk: Path, begun: Path) -> None:
    shutil.copytree(begun, disk / "results")
    before = {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()}
    remount(disk, "ro")
    assert "Read-only file system" in sentence(train(disk / "results", 2, code=2))
    assert "Read-only file system" in sentence(brdepth("simulate", disk / "rooms", "--rooms", 1, code=2))
    assert {path: path.read_bytes() for path in disk.rglob("*") if path.is_file()} == before


def test_a_folder_in_which_another_process_trains_is_named_and_left_as_it_is(tmp_path: Path, begun: Path) -> None:
    shutil.copytree(begun, tmp_path, dirs_exist_ok=True)
    (run,) = tmp_path.iterdir()
    before = {path: path.read_bytes() for path in run.iterdir()}
    with claimed(run, resume=True, overwrite=False):
        for option in ((), ("--overwrite",)):
            resume = () if option else ("--resume",)
            said = brdepth("train", *TINY_OPTIONS, "--results-dir", tmp_path, "--epochs", 2, *resume, *option, code=2)
            assert f"Another process is training in {run}." in sentence(said)
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    train(tmp_path, 2)


def test_a_results_folder_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("mine")
    said = sentence(train(tmp_path / "results", 1, code=2))
    assert "Cannot write to" in said
    assert (tmp_path / "results").read_text() == "mine"


@pytest.mark.parametrize("prepare", ["true", "false"])
def test_a_dataset_that_vanishes_ends_the_run_and_not_its_state(tmp_path: Path, prepare: str) -> None:
    root = write_batvision(tmp_path / "data", count=8)
    options = ("--dataset", "batvisionv2", "--data-root", root, "--set", f"data.prepare={prepare}")
    train(tmp_path / "results", 1, *options)
    (run,) = (tmp_path / "results").iterdir()
    before = {name: (run / name).read_bytes() for name in (STATE, "best.safetensors", "metrics.jsonl")}
    lost = root / "Attic" / "audio" / "audio_3.wav"
    away = lost.rename(tmp_path / "away.wav")
    assert str(lost) in sentence(train(tmp_path / "results", 2, *options, code=2))
    assert {name: (run / name).read_bytes() for name in before} == before
    away.rename(lost)
    train(tmp_path / "results", 2, *options)
    root.rename(tmp_path / "gone")
    assert f"The dataset folder {root} does not exist." in sentence(train(tmp_path / "results", 3, *options, code=2))
