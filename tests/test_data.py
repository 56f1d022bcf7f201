from __future__ import annotations

import csv
import json
import logging
import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import write_batvision
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import brdepth

from base_residual import machine
from base_residual.config.resolve import make_config
from base_residual.config.schema import Config
from base_residual.data import open_dataset, simulated
from base_residual.data.batvision import BatVisionV2, list_recordings
from base_residual.data.check import check_data
from base_residual.data.depth_maps import read_depth, resize_depth
from base_residual.data.loading import read_batches
from base_residual.data.sample import EchoBatch, EchoDataset, EchoSample, collate, spread_indices
from base_residual.data.simulated import Shard, simulate, simulated_root
from base_residual.errors import ConfigError, DataError
from base_residual.files.cache import locked
from base_residual.files.npy import in_millimetres
from base_residual.machine import own_cores
from base_residual.simulation.rendering import LOCATION, render_every


def batvision(root: Path, split: str = "train", **data: object) -> BatVisionV2:
    config = make_config({"data": {"name": "batvisionv2", **data}})
    return BatVisionV2(root, split, config.data, config.audio)


def test_a_sample_has_the_shapes_and_units_of_the_contract(tmp_path: Path) -> None:
    sample = batvision(write_batvision(tmp_path), output_size=32)[0]
    assert sample.id == "Attic/audio_0"
    assert (sample.waveform.shape, sample.waveform.dtype) == ((2, 7782), torch.float32)
    assert (sample.depth.shape, sample.depth.dtype) == ((32, 32), torch.float32)
    assert sample.waveform.abs().max() <= 1
    assert 1.0 <= sample.depth[sample.depth > 0].min() <= sample.depth.max() <= 3.0


def test_the_real_recording_reads_as_described(real_root: Path) -> None:
    dataset = batvision(real_root)
    assert len(dataset) == 1
    sample = dataset[0]
    assert sample.waveform.abs().max() == 1
    assert float((sample.depth == 0).float().mean()) == pytest.approx(0.217, abs=0.03)
    assert float(sample.depth[sample.depth > 0].median()) == pytest.approx(1.029, abs=0.02)


def test_resizing_the_real_map_keeps_its_holes_from_bleeding(real_root: Path) -> None:
    stored = read_depth(list_recordings(real_root, "test")[0].depth, 30.0)
    small = resize_depth(stored, 256)
    measured = stored[stored > 0]
    assert small[small > 0].min() >= measured.min() * (1 - 1e-6)
    constant = float(np.median(measured))
    abs_rel = np.mean(np.abs(constant - small[small > 0]) / small[small > 0])
    assert abs_rel == pytest.approx(np.mean(np.abs(constant - measured) / measured), rel=0.1)


@settings(max_examples=25)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    size=st.integers(1, 40),
    seed=st.integers(0, 99),
    wall=st.floats(0.1, 20),
)
def test_resizing_keeps_a_flat_wall_flat_around_its_holes(
    height: int, width: int, size: int, seed: int, wall: float
) -> None:
    holes = np.random.default_rng(seed).random((height, width)) < 0.3
    depth = np.where(holes, 0, wall).astype(np.float32)
    small = resize_depth(depth, size)
    np.testing.assert_allclose(small[small > 0], wall, rtol=1e-5)


def test_resizing_averages_by_area() -> None:
    depth = np.array([[1, 3, 5, 7], [1, 3, 0, 7], [2, 2, 0, 0], [2, 2, 0, 4]], dtype=np.float32)
    np.testing.assert_allclose(resize_depth(depth, 2), [[2, 19 / 3], [2, 0]], rtol=1e-6)
    assert resize_depth(depth, 4) is depth


def test_depth_in_millimetres_loses_what_is_no_measurement(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.array([[np.nan, np.inf, -5.0], [0.0, 1500.0, 99_000.0]]))
    np.testing.assert_allclose(read_depth(tmp_path / "d.npy", 30.0), [[0, 0, 0], [0, 1.5, 30.0]])


@pytest.mark.parametrize(
    ("number", "scale", "share"),
    [(65_535, 1000, 0.6), (32_767, 1000, 0.1), (1_000_000, 1000, 0.1), (1e6, 1000, 0.001), (99_000, 1000, 0.2)],
)
def test_a_large_number_that_stands_for_no_measurement_is_no_wall(
    tmp_path: Path, number: float, scale: int, share: float
) -> None:
    depth = scale * np.linspace(2, 9, 64 * 64).reshape(64, 64)
    hole = np.arange(64 * 64).reshape(64, 64) < share * 64 * 64
    np.save(tmp_path / "d.npy", np.where(hole, number, depth))
    np.testing.assert_allclose(read_depth(tmp_path / "d.npy", 30.0), np.where(hole, 0, depth / 1000), rtol=1e-6)


def test_a_view_far_away_is_cut_and_no_background(tmp_path: Path) -> None:
    depth = 1000 * np.linspace(2, 64, 64 * 64).reshape(64, 64)
    depth[0, :9] = 500_000  # some noise
    np.save(tmp_path / "d.npy", depth)
    np.testing.assert_allclose(read_depth(tmp_path / "d.npy", 30.0), np.minimum(depth / 1000, 30), rtol=1e-6)


@pytest.mark.parametrize(
    ("scale", "background", "words"),
    [
        *((1, background, "as if in metres") for background in (0.0, np.nan, 1000.0, 65_535.0, 20_000.0, -1.0)),
        (1e6, 0.0, "as if in micrometres"),
    ],
)
def test_depth_in_another_unit_is_told_by_its_median_and_the_file_is_named(
    tmp_path: Path, scale: float, background: float, words: str
) -> None:
    depth = scale * np.linspace(1, 9, 64 * 64).reshape(64, 64)
    depth[:38] = background
    np.save(tmp_path / "d.npy", depth)
    with pytest.raises(DataError, match=rf"d\.npy has a median of .* m: {words}, where millimetres are expected"):
        read_depth(tmp_path / "d.npy", 30.0)


def test_metres_in_one_split_alone_are_named_before_anything_is_prepared(tmp_path: Path) -> None:
    root = write_batvision(tmp_path, count=3)
    path = root / "Attic" / "depth" / "depth_2.npy"
    np.save(path, np.load(path) / 1000)
    table = root / "Attic" / "train.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    open_dataset("batvisionv2", root, "train")
    with pytest.raises(DataError, match=r"depth_2\.npy has a median of 0\.002.* m: as if in metres"):
        open_dataset("batvisionv2", root, "test")
    _, *problems = check_data(root).problems  # the first is about recordings in several splits
    assert [problem.partition(", where")[0] for problem in problems] == [
        f"By their medians, 1 of 3 depth maps of the split '{split}' are as if in metres" for split in ("val", "test")
    ]


def test_checking_says_which_number_stands_for_no_measurement(tmp_path: Path) -> None:
    root = write_batvision(tmp_path, splits=("train",))
    path = root / "Attic" / "depth" / "depth_0.npy"
    depth = np.load(path)
    depth[depth == 0] = 65_535
    np.save(path, depth)
    found = check_data(root)
    assert (found.backgrounds, found.farthest) == ({65.535: 1}, pytest.approx(3.0))
    assert found.invalid_share == pytest.approx(1 / 16)
    assert "stands for 'no measurement' in 1 depth maps" in " ".join(brdepth("check-data", root, code=1).split())


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 4, 3)), r"shape \(4, 4, 3\).*two dimensions"),
        (np.zeros(5), "two dimensions"),
        (np.zeros((0, 4)), "two dimensions"),
        (np.array([["a", "b"]]), "numbers, in millimetres"),
        (np.array([[1j]]), "numbers, in millimetres"),
    ],
)
def test_a_depth_map_of_another_kind_is_refused(tmp_path: Path, array: np.ndarray, words: str) -> None:
    np.save(tmp_path / "d.npy", array)
    with pytest.raises(DataError, match=words):
        read_depth(tmp_path / "d.npy", 30.0)


def test_objects_in_a_depth_map_are_never_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.array([[{"a": 1}]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="not a readable"):
        read_depth(tmp_path / "d.npy", 30.0)


def test_a_missing_or_broken_depth_map_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.npy does not exist"):
        read_depth(tmp_path / "gone.npy", 30.0)
    (tmp_path / "d.npy").write_bytes(b"\x93NUMPY nonsense")
    with pytest.raises(DataError, match="not a readable"):
        read_depth(tmp_path / "d.npy", 30.0)


def edit_table(root: Path, change: Callable[[list[list[str]]], list[list[str]]]) -> None:
    table = root / "Attic" / "train.csv"
    with table.open(newline="") as file:
        rows = list(csv.reader(file))
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(change(rows))


def replace(old: str, new: str) -> Callable[[list[list[str]]], list[list[str]]]:
    return lambda rows: [[cell.replace(old, new) for cell in row] for row in rows]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (replace("depth path", "depthpath"), "has no column 'depth path'"),
        (replace("audio_1.wav", ""), "line 3: nothing in the column 'audio file name'"),
        (replace("audio_1.wav", "../../../etc/passwd"), "leaves the dataset folder"),
        (replace("Attic/depth", "/etc"), "leaves the dataset folder"),
        (lambda rows: rows[:1], "list no recordings"),
        (lambda rows: [], "has no column"),
    ],
)
def test_a_wrong_table_says_what_is_wrong(
    tmp_path: Path, change: Callable[[list[list[str]]], list[list[str]]], words: str
) -> None:
    edit_table(write_batvision(tmp_path), change)
    with pytest.raises(DataError, match=words):
        batvision(tmp_path)


def test_a_location_on_another_disk_is_read_when_the_user_says_so(tmp_path: Path) -> None:
    root, elsewhere = write_batvision(tmp_path / "data"), tmp_path / "disk" / "x"
    elsewhere.parent.mkdir()
    (root / "Attic").rename(elsewhere)
    (root / "Attic").symlink_to(elsewhere)
    layer = {"name": "batvisionv2", "output_size": 32}
    with pytest.raises(
        DataError, match=r"a link in the path Attic/.* leaves .*--follow-links.*data\.follow_links=true"
    ):
        open_dataset("batvisionv2", root, config=make_config({"data": layer}))
    following = make_config({"data": layer | {"follow_links": True}})
    assert open_dataset("batvisionv2", root, config=following)[0].id == "Attic/audio_0"  # and not x/audio_0
    assert "a link in the path" in brdepth("check-data", root, code=1)
    assert "a link in the path" not in brdepth("check-data", root, "--follow-links", code=1)
    table = elsewhere / "train.csv"
    table.write_text(table.read_text().replace("Attic/depth", "Attic/../../disk/x/depth"))
    with pytest.raises(DataError, match=r"path Attic/\.\./\.\./disk/x/depth/depth_0\.npy leaves the dataset folder"):
        open_dataset("batvisionv2", root, config=following)


def test_a_link_that_leaves_the_dataset_is_refused(tmp_path: Path) -> None:
    root = write_batvision(tmp_path / "set")
    secret = tmp_path / "secret.wav"
    (root / "Attic" / "audio" / "audio_0.wav").replace(secret)
    (root / "Attic" / "audio" / "audio_0.wav").symlink_to(secret)
    with pytest.raises(DataError, match="leaves the dataset folder"):
        batvision(root)


def test_a_table_that_is_no_text_is_named(tmp_path: Path) -> None:
    root = write_batvision(tmp_path)
    (root / "Attic" / "train.csv").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(DataError, match="Cannot read the table"):
        batvision(root)


def test_another_sample_rate_is_resampled_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_batvision(tmp_path, rate=48_000)
    with caplog.at_level(logging.WARNING):
        sample = batvision(root)[0]
    assert "48000 Hz; they are resampled to 44100 Hz" in caplog.text
    assert sample.waveform.shape == (2, 7782)
    assert float(sample.waveform[:, 4000:4400].abs().max()) > 0


def test_opening_says_what_to_do_where_there_is_no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"doi:10.57745/HYLZNL.*ROOT/LOCATION.*--dataset simulated"):
        open_dataset("batvisionv2")
    with pytest.raises(DataError, match="nowhere does not exist"):
        open_dataset("batvisionv2", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"No recordings for the split 'train'"):
        open_dataset("batvisionv2", tmp_path)
    monkeypatch.setenv("BRDEPTH_DATA", str(write_batvision(tmp_path / "set")))
    assert len(open_dataset("batvisionv2")) == 2


def test_opening_names_the_known_datasets_and_splits() -> None:
    with pytest.raises(DataError, match="Known are simulated, batvisionv2, batvisionv1, replica, own"):
        open_dataset("kitti")
    with pytest.raises(DataError, match="Known are train, val, test"):
        open_dataset("simulated", split="dev")


def test_samples_of_different_shapes_do_not_make_a_batch() -> None:
    here, there = (EchoSample(torch.zeros(2, 10), torch.zeros(size, size), f"r{size}") for size in (8, 16))
    with pytest.raises(DataError, match="r8 and r16 differ in shape"):
        collate([here, there])


@given(length=st.integers(1, 1000), count=st.integers(1, 50))
def test_spread_indices_are_distinct_and_inside(length: int, count: int) -> None:
    found = spread_indices(length, count)
    assert found == sorted(set(found))
    assert 0 <= found[0] <= found[-1] < length
    assert len(found) == min(count, length) or length < 2 * count


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_simulated_rooms_are_rendered_once_and_lie_in_the_batvision_layout(
    tiny: Callable[..., Config], rooms: Callable[[str], EchoDataset]
) -> None:
    train = rooms("train")
    config = tiny()
    root = simulated_root(config.data, config.simulation)
    stamp = (root / "rooms.json").stat().st_mtime_ns
    assert simulated_root(config.data, config.simulation) == root
    assert (root / "rooms.json").stat().st_mtime_ns == stamp
    again = batvision(root, output_size=32, max_depth=8.0)
    assert len(again) == len(train) == 16
    torch.testing.assert_close(again[3].waveform, train[3].waveform, rtol=2**-11, atol=2**-24)
    assert not list(root.parent.glob("rooms-*.partial*"))


def test_the_seed_decides_every_byte_and_the_number_of_processes_none(
    tmp_path: Path, tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = {"train_rooms": 14, "val_rooms": 1, "test_rooms": 1}  # enough for two processes
    config, other = tiny({"simulation": rooms}), tiny({"simulation": rooms | {"seed": 1}})
    for name, cores in (("one", 2), ("two", 1)):
        monkeypatch.setattr(simulated, "own_cores", lambda cores=cores: cores)
        simulate(tmp_path / name, config.data, config.simulation)
    simulate(tmp_path / "other", other.data, other.simulation)
    one, two, third = (contents(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one.keys() == third.keys()
    assert all(one[name] != third[name] for name in one if name.endswith((".wav", ".npy")))


def test_rooms_rendered_by_one_process_outlive_the_shell_that_asked_for_them(
    tmp_path: Path, tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, parents = tiny(), count()
    monkeypatch.setattr(simulated, "own_cores", lambda: 1)
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    assert simulate(tmp_path / "rooms", config.data, config.simulation)


def test_who_stops_waiting_for_rooms_leaves_the_lock_of_the_one_that_renders(
    tmp_path: Path, tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wait(lock: FileLock) -> FileLock:
        raise KeyboardInterrupt

    config, lock = tiny(), tmp_path / "rooms.partial.1-1.lock"
    lock.touch()
    monkeypatch.setattr(FileLock, "__enter__", wait)
    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "rooms", config.data, config.simulation)
    assert lock.exists()


def test_rooms_need_a_folder_with_a_name(tiny: Callable[..., Config]) -> None:
    with pytest.raises(DataError, match="is a whole disk"):
        simulate(Path(Path.cwd().anchor), tiny().data, tiny().simulation)


def test_a_reading_process_that_is_ended_from_outside_is_one_sentence() -> None:
    def loader(said: str) -> Iterator[EchoBatch]:
        raise RuntimeError(said)
        yield

    with pytest.raises(DataError, match=r"ended from outside.*Lower data\.num_workers"):
        list(read_batches(loader("DataLoader worker (pid(s) 17) exited unexpectedly")))
    with pytest.raises(RuntimeError, match="of another kind"):
        list(read_batches(loader("of another kind")))


def test_work_is_for_the_cores_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(machine, "CONTAINER_SHARE", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5, 8}, raising=False)
    assert own_cores() == 3
    for share, cores in {"200000 100000\n": 2, "50000 100000\n": 1, "900000 100000\n": 3, "max 100000\n": 3}.items():
        (tmp_path / "cpu.max").write_text(share)
        assert own_cores() == cores
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS
    assert own_cores() == 64


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
def test_shards_give_the_same_rooms_in_any_order(
    tmp_path: Path, tiny: Callable[..., Config], order: tuple[int, ...]
) -> None:
    config = tiny({"simulation": {"train_rooms": 5, "val_rooms": 1, "test_rooms": 1}})
    assert simulate(tmp_path / "whole", config.data, config.simulation)
    finished = [
        simulate(tmp_path / "parts", config.data, config.simulation, shard=Shard(number, 3)) for number in order
    ]
    assert finished == [False, False, True]
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "parts"}


@pytest.mark.parametrize("text", ["3/2", "0/2", "2", "/", "a/b", "-1/2", "1/2/3"])
def test_a_shard_that_is_none_is_refused(text: str) -> None:
    assert Shard.parse("2/8") == Shard(2, 8)
    with pytest.raises(ConfigError, match=rf"Cannot read the shard '{text}'"):
        Shard.parse(text)


def test_splits_are_different_rooms(rooms: Callable[[str], EchoDataset]) -> None:
    maps = {split: rooms(split)[0].depth for split in ("train", "val", "test")}
    assert not torch.equal(maps["train"], maps["val"])
    assert not torch.equal(maps["val"], maps["test"])


def test_a_killed_rendering_goes_on_where_it_ended(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    config = tiny({"simulation": {"train_rooms": 3, "val_rooms": 1, "test_rooms": 1}})
    simulate(tmp_path / "whole", config.data, config.simulation)
    partial = tmp_path / "set.partial"
    from base_residual.data import simulated

    simulated._prepare(partial, config.data, config.simulation, tmp_path / "own.lock")
    list(render_every(partial, 0, 2))
    kept = next((partial / LOCATION / "audio").glob("train_000000_0.wav"))
    stamp = kept.stat().st_mtime_ns
    simulate(tmp_path / "set", config.data, config.simulation)
    assert (tmp_path / "set" / LOCATION / "audio" / kept.name).stat().st_mtime_ns == stamp
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


def test_what_another_setting_left_half_done_is_not_mixed_in(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    few = {"train_rooms": 2, "val_rooms": 1, "test_rooms": 1}
    from base_residual.data import simulated

    old, new = tiny({"simulation": few | {"seed": 5}}), tiny({"simulation": few})
    simulated._prepare(tmp_path / "set.partial", old.data, old.simulation, tmp_path / "own.lock")
    list(render_every(tmp_path / "set.partial", 0, 1))
    simulate(tmp_path / "set", new.data, new.simulation)
    simulate(tmp_path / "fresh", new.data, new.simulation)
    assert contents(tmp_path / "set") == contents(tmp_path / "fresh")


def test_rooms_of_other_settings_wait_for_those_that_are_being_rendered(
    tmp_path: Path, tiny: Callable[..., Config]
) -> None:
    old, new = tiny({"simulation": {"seed": 5}}), tiny()
    first, second = (f"{tmp_path / 'set.partial'}.{part}-2.lock" for part in (1, 2))
    with FileLock(first):
        simulated._prepare(tmp_path / "set.partial", old.data, old.simulation, Path(first))
        with pytest.raises(DataError, match="other settings are being rendered"):
            simulate(tmp_path / "set", new.data, new.simulation, shard=Shard(2, 2))
    assert not Path(second).exists()
    assert not simulate(tmp_path / "set", new.data, new.simulation, shard=Shard(2, 2))


@pytest.mark.parametrize("place", ["thesis", LOCATION, f"{LOCATION}/audio"])
def test_what_lies_beside_the_rooms_and_is_somebody_elses_stays(
    tmp_path: Path, tiny: Callable[..., Config], place: str
) -> None:
    few = {"train_rooms": 1, "val_rooms": 1, "test_rooms": 1}
    old, new = tiny({"simulation": few | {"seed": 5}}), tiny({"simulation": few})
    simulated._prepare(tmp_path / "set.partial", old.data, old.simulation, tmp_path / "own.lock")
    list(render_every(tmp_path / "set.partial", 0, 1))
    thesis = tmp_path / "set.partial" / place / "notes.txt"
    thesis.parent.mkdir(exist_ok=True)
    thesis.write_text("ten years of work")
    with pytest.raises(DataError, match=rf"set\.partial before they get their name.*something else: {place}"):
        simulate(tmp_path / "set", new.data, new.simulation)
    assert thesis.read_text() == "ten years of work"


@pytest.mark.parametrize("moved", [[], [LOCATION]])
def test_a_move_that_was_killed_goes_on(
    tmp_path: Path, tiny: Callable[..., Config], moved: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny({"simulation": {"train_rooms": 1, "val_rooms": 1, "test_rooms": 1}})
    root, partial = tmp_path / "set", tmp_path / "set.partial"
    simulate(root, config.data, config.simulation)
    before = contents(root)
    root.replace(partial)
    for name in moved:
        root.mkdir()
        (partial / name).replace(root / name)
    monkeypatch.setattr(simulated, "_render_on_all_cores", None)  # nothing is rendered again
    assert simulate(root, config.data, config.simulation)
    assert contents(root) == before
    assert not partial.exists()


def test_rooms_come_into_the_folder_that_the_command_stands_in(
    tmp_path: Path, tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny({"simulation": {"train_rooms": 1, "val_rooms": 1, "test_rooms": 1}})
    (tmp_path / "set").mkdir()
    monkeypatch.chdir(tmp_path / "set")
    told: list[tuple[str, int, int]] = []
    assert simulate(Path(), config.data, config.simulation, lambda *seen: told.append(seen))
    assert {path.name for path in Path().iterdir()} == {LOCATION, "rooms.json"}
    assert told == [("Rendering rooms", done, 3) for done in (1, 2, 3)]


def test_who_waits_for_another_process_says_so(tmp_path: Path) -> None:
    lock, told = tmp_path / "set.lock", []
    with FileLock(lock) as held:

        def tell(*seen: object) -> None:
            told.append(seen)
            held.release()

        with locked(lock, progress=tell):
            pass
    assert told == [("Waiting for another process, which makes the same", 0, 1)]


def test_a_configuration_names_the_folder_of_its_dataset(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    own = tiny({"data": {"name": "batvisionv2", "root": str(write_batvision(tmp_path / "own", count=3))}})
    other = write_batvision(tmp_path / "other", count=2)
    assert len(open_dataset("batvisionv2", config=own)) == 3
    assert len(open_dataset("batvisionv2", other, config=own)) == 2
    assert len(open_dataset("replica", other, config=own)) == 2
    with pytest.raises(DataError, match="No dataset folder was given"):
        open_dataset("replica", config=own)


def test_rooms_cut_nearer_than_a_training_looks_are_refused(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    config = tiny({"simulation": {"train_rooms": 1, "val_rooms": 1, "test_rooms": 1}})  # up to 8 m
    simulate(tmp_path / "set", config.data, config.simulation)
    farther, nearer = (tiny({"data": {"max_depth": depth}}) for depth in (9.0, 7.0))
    with pytest.raises(DataError, match=r"rendered up to 8 m, and data\.max_depth is 9 m"):
        open_dataset("simulated", tmp_path / "set", "val", farther)
    assert len(open_dataset("simulated", tmp_path / "set", "val", nearer)) > 0
    described = json.loads((tmp_path / "set" / "rooms.json").read_text())
    del described["simulation"]["rig"]  # as in rooms from before there were rigs
    (tmp_path / "set" / "rooms.json").write_text(json.dumps(described))
    with pytest.raises(DataError, match="rendered up to 8 m"):
        open_dataset("simulated", tmp_path / "set", "val", farther)


def test_a_folder_whose_name_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    root = write_batvision(tmp_path / "cafe").rename(tmp_path / os.fsdecode(b"caf\xe9"))
    with pytest.raises(DataError, match="characters that cannot be written"):
        open_dataset("batvisionv2", root, "val")


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    (tmp_path / "thesis.txt").write_text("ten years of work")
    with pytest.raises(DataError, match="is not empty"):
        simulate(tmp_path, tiny().data, tiny().simulation)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_worker_that_fails_is_reported(
    tmp_path: Path, tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulated, "own_cores", lambda: 2)
    monkeypatch.setattr(simulated.sys, "executable", "/bin/false")
    with pytest.raises(DataError, match="Rendering the simulated rooms failed"):
        simulate(tmp_path / "set", tiny().data, tiny({"simulation": {"seed": 9}}).simulation)


def test_checking_finds_what_is_there_and_every_problem(tmp_path: Path) -> None:
    root = write_batvision(tmp_path, count=3)
    clean = check_data(root)
    names = ", ".join(str(root / "Attic" / "audio" / f"audio_{index}.wav") for index in range(3))
    assert clean.problems == [  # the helper lists the same recordings in every split
        f"Several splits list 3 recordings, which a test would share with training: {names}."
    ]
    assert clean.recordings == {("Attic", "train"): 3, ("Attic", "val"): 3, ("Attic", "test"): 3}
    assert clean.sample_rates == {44_100: 9}
    assert clean.shapes == {(24, 40): 9}
    assert (clean.nearest, clean.farthest) == pytest.approx((1.0, 3.0))
    assert clean.invalid_share == pytest.approx(1 / 16)
    assert clean.shared == 3
    assert check_data(write_batvision(tmp_path / "apart", splits=("train",))).shared == 0
    (root / "Attic" / "audio" / "audio_1.wav").write_bytes(b"RIFF")
    np.save(root / "Attic" / "depth" / "depth_2.npy", np.zeros((24, 40), np.uint16))
    (root / "Attic" / "val.csv").unlink()
    problems = check_data(root).problems
    assert sum("audio_1.wav is not a readable" in problem for problem in problems) == 2
    assert sum("depth_2.npy holds no measurement" in problem for problem in problems) == 2
    assert sum("split 'val'" in problem for problem in problems) == 1
    assert sum("Several splits list 3 recordings" in problem for problem in problems) == 1
    assert len(problems) == 6


def test_checking_goes_on_after_a_row_that_is_wrong(tmp_path: Path) -> None:
    root = write_batvision(tmp_path, count=3, splits=("train",))
    table = root / "Attic" / "train.csv"
    head, first, second, _ = table.read_text().splitlines()
    table.write_text(
        "\n".join([head, first, "Attic/audio,,Attic/depth,depth_0.npy,,", "../..,up.wav,a,b,,", second, first])
    )
    for split in ("val", "test"):
        (root / "Attic" / f"{split}.csv").write_text(f"{head}\n,,,,,\n")
    left, both = (root / "Attic" / "audio" / f"audio_{number}.wav" for number in (0, 1))
    heard, rate = soundfile.read(left)
    soundfile.write(left, heard * [0, 1], rate)
    soundfile.write(both, heard[:, [0, 0]], rate)
    found = check_data(root)
    assert found.recordings == {("Attic", "train"): 3}
    for problem in (
        "train.csv, line 3: nothing in the column 'audio file name'.",
        "train.csv, line 4: the path ../../up.wav leaves",
        "val.csv, line 2: nothing in the column 'audio path'.",
        f"The split 'train' lists the recording {left} 2 times.",
        f"The recording {left} is silent in its left ear.",
        f"The recording {both} has the same in both ears",
    ):
        assert any(problem in said for said in found.problems), problem


def test_checking_knows_metres_where_millimetres_are_expected(tmp_path: Path) -> None:
    root = write_batvision(tmp_path, splits=("train",))
    for path in (root / "Attic" / "depth").iterdir():
        np.save(path, np.load(path) / 1000)
    depth = root / "Attic" / "depth"
    assert (
        "By their medians, 2 of 2 depth maps of the split 'train' are as if in metres, where millimetres are expected: "
        f"{depth / 'depth_0.npy'}, {depth / 'depth_1.npy'}."
    ) in check_data(root).problems


def test_checking_nothing_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No recordings"):
        check_data(tmp_path)


def test_findings_are_ready_for_json(tmp_path: Path) -> None:
    found = check_data(write_batvision(tmp_path)).as_dict()
    assert json.loads(json.dumps(found))["recordings"]["Attic/train"] == 2


def test_rendering_imports_nothing_from_the_folder_it_is_called_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "soundfile.py").write_text("raise SystemExit('imported from here')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(simulated, "own_cores", lambda: 2)
    rooms = {"train_rooms": 14, "val_rooms": 1, "test_rooms": 1, "poses": 1}  # enough for two processes
    config = make_config({"data": {"output_size": 16, "max_depth": 4.0}, "simulation": rooms})
    assert simulate(tmp_path / "rooms", config.data, config.simulation)


def test_depth_is_stored_in_millimetres_and_ends_where_sixteen_bits_do() -> None:
    stored = in_millimetres(np.array([-0.5, 0.0, 1.2345, 65.534, 65.6, 70.0, 1000.0]))
    assert (stored.dtype, stored.tolist()) == (np.uint16, [0, 0, 1234, 65534, 65534, 65534, 65534])
