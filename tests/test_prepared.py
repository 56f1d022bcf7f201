from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from conftest import write_batvision
from torch.utils.data import DataLoader

from base_residual.config.resolve import make_config
from base_residual.config.schema import Config
from base_residual.data import open_dataset, prepared, sample
from base_residual.data.batvision import BatVisionV2
from base_residual.data.prepared import PreparedSet
from base_residual.data.sample import EchoBatch, collate
from base_residual.errors import DataError

Told = list[tuple[str, int, int]]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("BRDEPTH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_batvision(tmp_path / "data", count=5, subtype="PCM_16")


def files(root: Path, **data: object) -> BatVisionV2:
    config = make_config({"data": {"name": "batvisionv2", "output_size": 32} | data})
    return BatVisionV2(root, "train", config.data, config.audio)


def tell(told: Told) -> Callable[[str, int, int], None]:
    return lambda what, done, total: told.append((what, done, total))


def killer(after: int) -> Callable[[str, int, int], None]:
    """Ends the preparing, as Ctrl-C does, once so many recordings are done."""

    def tell(what: str, done: int, total: int) -> None:
        if done >= after:
            raise KeyboardInterrupt

    return tell


def two_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"AT_ONCE": 2, "TOGETHER": 1, "own_cores": lambda: 2}.items():
        monkeypatch.setattr(prepared, name, value)


def contents(found: PreparedSet) -> dict[str, bytes]:
    return {name: (found.folder / name).read_bytes() for name in ("waveform.npy", "depth.npy")}


def test_a_prepared_set_gives_what_the_files_hold(cache: Path, root: Path) -> None:
    source = files(root)
    found = prepared.prepared(source)
    assert len(found) == len(source) == 5
    for index in range(5):
        stored, read = found[index], source[index]
        assert stored.id == read.id
        torch.testing.assert_close(stored.waveform, read.waveform, rtol=2**-11, atol=2**-24)
        torch.testing.assert_close(stored.depth, read.depth, rtol=0, atol=0.0005001)
        assert torch.equal(stored.depth > 0, read.depth > 0)


@pytest.mark.parametrize("emission", ["found", "first"])
def test_a_quiet_recording_keeps_its_details(cache: Path, root: Path, emission: str) -> None:
    path = root / "Attic" / "audio" / "audio_0.wav"
    sound, rate = soundfile.read(path)
    soundfile.write(path, 1e-5 * sound, rate, "FLOAT")
    config = make_config({"data": {"name": "batvisionv2", "output_size": 32}, "audio": {"emission": emission}})
    source = BatVisionV2(root, "train", config.data, config.audio)
    stored, (read, _) = prepared.prepared(source)[0].waveform, source.__getitems__([0, 1])
    expected = read.waveform / read.waveform.abs().max()
    torch.testing.assert_close(stored, expected, rtol=2**-11, atol=2**-24)


def test_recordings_read_together_are_as_read_alone(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audio = root / "Attic" / "audio"
    samples, rate = soundfile.read(audio / "audio_2.wav")
    soundfile.write(audio / "audio_2.wav", samples[: len(samples) // 2], rate)
    samples, rate = soundfile.read(audio / "audio_3.wav")
    soundfile.write(audio / "audio_3.wav", samples, 48_000)
    source, heard = files(root), []
    hearing = sample.fit_echo

    def listening(waveform: torch.Tensor, *others: Any) -> torch.Tensor:
        heard.append(len(waveform))
        return hearing(waveform, *others)

    monkeypatch.setattr(sample, "fit_echo", listening)
    order = [4, 0, 2, 3, 1, 0, 4]
    source.__getitems__(order)
    monkeypatch.setattr(sample, "HEARD_AT_ONCE", 2 * len(samples))
    source.__getitems__(order)
    assert heard == [2, 1, 1, 3, 2, 1, 1, 2, 1]
    monkeypatch.undo()
    for index, found in zip(order, source.__getitems__(order), strict=True):
        alone = source[index]
        assert found.id == alone.id
        torch.testing.assert_close(found.waveform, alone.waveform, rtol=0, atol=1e-6)
        assert torch.equal(found.depth, alone.depth)


def test_depth_keeps_its_unit_where_millimetres_do_not_reach(cache: Path, tmp_path: Path) -> None:
    root = write_batvision(tmp_path / "far")
    np.save(root / "Attic" / "depth" / "depth_0.npy", np.full((24, 40), 400_000, np.uint32))
    np.save(root / "Attic" / "depth" / "depth_1.npy", np.uint32(np.arange(960).reshape(24, 40) < 9))
    found = prepared.prepared(files(root, max_depth=500.0))
    assert found.unit == pytest.approx(500 / 65_535)
    assert float(found[0].depth.median()) == pytest.approx(400, abs=found.unit)
    assert float(found[1].depth.max()) > 0  # measured stays measured


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_gets_whole_batches_that_equal_the_samples(cache: Path, root: Path, workers: int) -> None:
    found = prepared.prepared(files(root))
    order = [[3, 0], [4, 1]]
    loader = DataLoader(found, batch_sampler=order, collate_fn=collate, num_workers=workers)
    for indices, batch in zip(order, loader, strict=True):
        expected = collate([found[index] for index in indices])
        assert isinstance(batch, EchoBatch)
        assert torch.equal(batch.waveform, expected.waveform)
        assert torch.equal(batch.depth, expected.depth)
        assert batch.ids == expected.ids


def test_an_index_beyond_the_set_ends_an_iteration(cache: Path, root: Path) -> None:
    found = prepared.prepared(files(root))
    assert found[-1].id == found[4].id
    assert len(list(found)) == 5


def test_what_is_prepared_is_prepared_once(cache: Path, root: Path) -> None:
    first, second = [], []
    prepared.prepared(files(root), tell(first))
    prepared.prepared(files(root), tell(second))
    assert first[-1] == ("Preparing recordings", 5, 5)
    assert second == []


def test_a_touched_file_is_known_by_its_content(cache: Path, root: Path) -> None:
    prepared.prepared(files(root))
    os.utime(root / "Attic" / "audio" / "audio_2.wav", ns=(1, 1))
    told: Told = []
    prepared.prepared(files(root), tell(told))
    assert told == []


@pytest.mark.parametrize("kind", ["audio", "depth"])
def test_a_changed_file_makes_the_set_anew(cache: Path, root: Path, kind: str) -> None:
    old = contents(prepared.prepared(files(root)))
    suffix = ".wav" if kind == "audio" else ".npy"
    path = root / "Attic" / kind / f"{kind}_3{suffix}"
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1  # as long as before
    path.write_bytes(changed)
    os.utime(path, ns=(2, 2))
    found = prepared.prepared(files(root))
    assert contents(found) != old
    torch.testing.assert_close(found[3].depth, files(root)[3].depth, rtol=0, atol=0.0005001)


def test_depth_maps_that_change_places_make_the_set_anew(cache: Path, root: Path) -> None:
    for index, level in enumerate((1000, 2000)):
        path = root / "Attic" / "depth" / f"depth_{index}.npy"
        np.save(path, np.full((24, 40), level, np.uint16))
        os.utime(path, ns=(0, 0))  # as out of an archive: of one size and one time
    prepared.prepared(files(root))
    table = root / "Attic" / "train.csv"
    swapped = table.read_text().replace("depth_0.npy", "?").replace("depth_1.npy", "depth_0.npy")
    table.write_text(swapped.replace("?", "depth_1.npy"))
    found = prepared.prepared(files(root))
    assert [float(found[index].depth.median()) for index in (0, 1)] == pytest.approx([2, 1])


def test_files_that_change_places_are_noticed_though_size_and_time_are_equal(cache: Path, root: Path) -> None:
    paths = [root / "Attic" / "depth" / f"depth_{number}.npy" for number in (0, 1)]
    for path, level in zip(paths, (1000, 2000), strict=True):
        np.save(path, np.full((24, 40), level, np.uint16))
        os.utime(path, ns=(0, 0))  # as out of an archive: of one size and one time
    old = prepared.prepared(files(root))
    first, second = paths
    first.rename(root / "aside")
    second.rename(first)
    (root / "aside").rename(second)
    assert first.stat().st_mtime_ns == second.stat().st_mtime_ns == 0
    found = prepared.prepared(files(root))
    assert [float(found[index].depth.median()) for index in (0, 1)] == pytest.approx([2, 1])
    assert found.files_hash != old.files_hash


def test_a_set_in_a_cache_that_can_only_be_read_is_used(
    cache: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(prepared.prepared(files(root)))

    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(prepared, "locked", read_only)
    assert contents(prepared.prepared(files(root))) == whole
    with pytest.raises(DataError, match="Read-only file system"):
        prepared.prepared(files(root, output_size=16))


def test_a_recording_more_makes_the_set_anew(cache: Path, root: Path) -> None:
    prepared.prepared(files(root))
    table = root / "Attic" / "train.csv"
    table.write_text(table.read_text() + table.read_text().splitlines()[1] + "\n")
    assert len(prepared.prepared(files(root))) == 6


@pytest.mark.parametrize("change", [{"output_size": 16}, {"max_depth": 2.5}])
def test_other_settings_have_a_set_of_their_own(cache: Path, root: Path, change: dict[str, object]) -> None:
    one, two = prepared.prepared(files(root)), prepared.prepared(files(root, **change))
    assert one.folder != two.folder
    assert one.folder.is_dir()


@pytest.mark.parametrize("damage", ["index", "depth", "waveform", "foreign", "stamps"])
def test_a_damaged_set_is_made_anew(cache: Path, root: Path, damage: str) -> None:
    found = prepared.prepared(files(root))
    whole = contents(found)
    index = found.folder / "index.json"
    match damage:
        case "index":
            index.write_text(index.read_text()[:-9])
        case "foreign":
            index.write_text(json.dumps(json.loads(index.read_text()) | {"ids": ["another"]}))
        case "stamps":
            content = json.loads(index.read_text())
            content["stamps"][1].pop()
            index.write_text(json.dumps(content))
        case _:
            array = found.folder / f"{damage}.npy"
            array.write_bytes(array.read_bytes()[:-100])
    assert contents(prepared.prepared(files(root))) == whole


def test_a_killed_preparing_goes_on_where_it_ended(
    cache: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = contents(prepared.prepared(files(root)))
    shutil.rmtree(cache)
    two_at_once(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        prepared.prepared(files(root), killer(4))
    read: list[int] = []
    reader = prepared._read

    def counted(source: BatVisionV2, places: range, unit: float) -> object:
        read.extend(places)
        return reader(source, places, unit)

    monkeypatch.setattr(prepared, "_read", counted)
    found = prepared.prepared(files(root))
    assert read == [2, 3, 4]  # what was written but not yet noted is done again
    assert contents(found) == whole


def test_a_recording_changed_in_between_is_not_mixed_in(
    cache: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_at_once(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        prepared.prepared(files(root), killer(4))
    np.save(root / "Attic" / "depth" / "depth_0.npy", np.full((24, 40), 2222, np.uint16))
    assert float(prepared.prepared(files(root))[0].depth.median()) == pytest.approx(2.222)


def test_a_broken_recording_is_named_and_nothing_passes_for_complete(cache: Path, root: Path) -> None:
    (root / "Attic" / "audio" / "audio_3.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"audio_3\.wav is not a readable sound file"):
        prepared.prepared(files(root))
    with pytest.raises(DataError, match=r"audio_3\.wav is not a readable sound file"):
        prepared.prepared(files(root))


def test_a_missing_recording_is_named(cache: Path, root: Path) -> None:
    prepared.prepared(files(root))
    (root / "Attic" / "depth" / "depth_1.npy").unlink()
    with pytest.raises(DataError, match=r"depth_1\.npy does not exist"):
        prepared.prepared(files(root))


def test_a_cache_that_cannot_be_written_is_one_sentence(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("BRDEPTH_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"Cannot prepare .*data in .*: (File exists|Not a directory)\."):
        prepared.prepared(files(root))


def test_a_setting_decides_whether_files_are_read(cache: Path, root: Path, tiny: Callable[..., Config]) -> None:
    kinds = {}
    for prepare in (True, False):
        config = make_config({"data": {"name": "batvisionv2", "output_size": 32, "prepare": prepare}})
        kinds[prepare] = type(open_dataset("batvisionv2", root, "train", config))
    assert kinds == {True: PreparedSet, False: BatVisionV2}


def test_another_process_maps_the_set_anew_instead_of_being_sent_it(root: Path, cache: Path) -> None:
    made = prepared.prepared(files(root))
    sent = pickle.dumps(made)
    assert len(sent) < 1000
    again = pickle.loads(sent)
    assert torch.equal(again[2].waveform, made[2].waveform)
    assert torch.equal(again[2].depth, made[2].depth)


def test_recordings_that_change_while_they_are_prepared_are_noticed(root: Path, cache: Path) -> None:
    depth = root / "Attic" / "depth" / "depth_0.npy"

    def change(what: str, done: int, total: int) -> None:
        np.save(depth, np.full((6, 6), 1234, np.uint16))

    with pytest.raises(DataError, match="changed while they were being prepared"):
        prepared.prepared(files(root), change)


def test_files_that_were_only_touched_are_read_once_more_and_not_again(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = prepared.prepared(files(root)).folder
    arrays = (folder / "depth.npy").stat()
    for path in root.rglob("*.npy"):
        os.utime(path, (1, 1))
    assert prepared.prepared(files(root)).folder == folder
    assert (folder / "depth.npy").stat().st_mtime_ns == arrays.st_mtime_ns  # not made anew
    monkeypatch.setattr(prepared, "_stamp", lambda path: pytest.fail(f"{path} is read"))
    prepared.prepared(files(root))
