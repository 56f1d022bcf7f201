"""Files that lie, from whoever made them: each is read or ends in one sentence, within bounded memory and time.

Hypothesis damages and forges files for every reader (lying.py, hostile.py), and a hundred times as many in a campaign:

    python -m pytest tests/test_hostile.py --hypothesis-profile campaign
"""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Callable
from pathlib import Path

import hostile
import lying
import numpy as np
import pytest
import soundfile
import torch
from conftest import write_batvision
from hostile import bounded
from hypothesis import HealthCheck, given, settings

from base_residual.acoustics.recordings import read_echo
from base_residual.config.resolve import load_layer, make_config, parse_setting
from base_residual.config.schema import Config
from base_residual.data.batvision import MAX_TABLE, V2, list_recordings
from base_residual.data.depth_maps import read_depth
from base_residual.data.download import extract
from base_residual.data.simulated import simulate
from base_residual.errors import BaseResidualError, CheckpointError, ConfigError, DataError, RunError
from base_residual.evaluation.comparison import read_run
from base_residual.files.atomic import read_at_most
from base_residual.files.npy import map_array
from base_residual.files.tensors import read_header, write_tensors
from base_residual.models.checkpoint import save_checkpoint
from base_residual.models.factory import create_model, load_model


def sparse(path: Path, size: int, content: bytes = b"") -> Path:
    """A file that begins with `content` and says that it has `size` bytes, of which the disk holds almost none."""
    with path.open("wb") as file:
        file.write(content)
        file.truncate(size)
    return path


# Every reader.


@pytest.fixture
def reader(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> hostile.Reader:
    work, cache = tmp_path / "work", tmp_path / "cache"
    work.mkdir()
    monkeypatch.setenv("BRDEPTH_CACHE", str(cache))
    torch.manual_seed(0)
    return hostile.READERS[request.param](work)


@pytest.mark.filterwarnings("ignore")  # numbers beyond all bounds overflow on their way to the error
@pytest.mark.parametrize("reader", hostile.READERS, indirect=True)
def test_every_reader_works_or_ends_in_its_own_error(reader: hostile.Reader, request: pytest.FixtureRequest) -> None:
    refused: list[bytes] = []

    @settings(max_examples=int(reader.share * settings().max_examples), suppress_health_check=list(HealthCheck))
    @given(reader.inputs())
    def read(data: bytes) -> None:
        with bounded(mebibytes=256):
            try:
                reader.read(data)
            except BaseResidualError:
                refused.append(data)

    for valid in reader.valid:
        reader.read(valid)
    read()
    assert refused or "prepared set" in request.node.name  # a damaged one is made anew


def test_what_takes_too_much_is_noticed() -> None:
    with pytest.raises(AssertionError, match="processor time"), bounded(seconds=0.01):
        sum(range(10**7 * hostile.SLOWER))
    if sys.platform == "linux":
        with pytest.raises(AssertionError, match="memory"), bounded(mebibytes=32):
            assert b"x" * (64 * 2**20)


# Recordings.


def riff(rate: int = 44_100, channels: int = 2, claimed: int = 2**32 - 1, sound: bytes = bytes(400)) -> bytes:
    fmt = np.array([16, rate, rate * 4 % 2**32], "<u4").tobytes()
    head = fmt[:4] + np.array([1, channels], "<u2").tobytes() + fmt[4:] + np.array([4, 16], "<u2").tobytes()
    size = np.uint32(claimed).tobytes()
    return b"RIFF" + size + b"WAVEfmt " + head + b"data" + size + sound


def test_a_recording_that_claims_four_gigabytes_costs_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "echo.wav"
    path.write_bytes(riff())
    with bounded():
        assert read_echo(path)[1].shape == (2, 100)
    with bounded(), pytest.raises(DataError, match=r"1,?073,?741,?\d+ frames; expected are 1 frame to 60 s"):
        read_echo(sparse(path, 2**32, riff()))


@pytest.mark.parametrize("rate", [1, 7999, 192_001, 2**31 - 1])
def test_a_rate_that_would_resample_for_ever_is_refused(tmp_path: Path, rate: int) -> None:
    (tmp_path / "echo.wav").write_bytes(riff(rate))
    with bounded(), pytest.raises(DataError, match=f"has {rate} Hz; expected are 8000 to 192000 Hz"):
        read_echo(tmp_path / "echo.wav")


def test_a_recording_that_ends_early_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    soundfile.write(tmp_path / "echo.wav", np.zeros((100, 2)), 44_100)
    read = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *args, **options: read(*args, **options)[:60])
    with pytest.raises(DataError, match="says that it has 100 frames, and 60 can be read"):
        read_echo(tmp_path / "echo.wav")


# Depth maps.


def npy(header: str, payload: bytes = b"", version: int = 1) -> bytes:
    size = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + header.encode("latin-1") + payload


def header(shape: str = "(24, 40)", descr: str = "'<u2'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


@pytest.mark.parametrize(
    "content",
    [
        npy(header("(2147483648, 2147483648)"), bytes(100)),
        npy(header("(4611686018427387904, 4)"), bytes(100)),
        npy(header(f"({10**30}, 1)"), bytes(100)),
        npy(header("(-4, -5)"), bytes(100)),
        npy(header("(24, 40"), bytes(5000)),
        npy(header(descr="'|O'"), b"\x80\x04N."),
        npy(header(descr="'<u99999999999'"), bytes(100)),
        npy("-" * 9000 + "1\n"),
        npy("(" * 9000),
        npy("{[]: 1}\n"),
        npy("'\x00"),
        b"PK\x03\x04 not a zip archive",
        b"\x80\x04N.",
        b"",
    ],
)
def test_a_map_whose_header_lies_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "d.npy").write_bytes(content)
    with bounded(), pytest.raises(DataError, match=r"d\.npy is not a readable \.npy file"):
        read_depth(tmp_path / "d.npy", 30.0)


def test_a_map_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = sparse(tmp_path / "d.npy", 2**33, npy(header("(65536, 65535)")))
    with bounded(), pytest.raises(DataError, match=r"shape \(65536, 65535\).*at most 4096 x 4096"):
        read_depth(path, 30.0)
    head = b"\x93NUMPY\x02\x00\xff\xff\xff\xff"
    with bounded(), pytest.raises(DataError, match="not a readable"):
        read_depth(sparse(path, 2**32, head), 30.0)
    with pytest.raises(ValueError, match="header of more than 10000 bytes"):
        map_array(path)


def test_a_map_beyond_float32_holds_no_measurement_there(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", np.array([[1e300, -1e300, 2000.0]]))
    np.testing.assert_array_equal(read_depth(tmp_path / "d.npy", 30.0), [[0, 0, 2]])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    for name in ("pipe.npy", "pipe.wav"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="is no plain file"):
        read_depth(tmp_path / "pipe.npy", 30.0)
    with pytest.raises(DataError, match="is no plain file"):
        read_echo(tmp_path / "pipe.wav")


# Tables.


def table(root: Path, *cells: str, columns: tuple[str, ...] = V2.columns) -> Path:
    with (root / "Attic" / "train.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, cells or ["Attic/audio", "audio_0.wav", "Attic/depth", "depth_0.npy"]])
    return root


@pytest.mark.parametrize(
    ("place", "name", "words"),
    [
        ("..", "..", "leaves the dataset folder"),
        ("Attic/audio/../../..", "x.wav", "leaves the dataset folder"),
        ("/etc", "passwd", "leaves the dataset folder"),
        ("Attic/audio", "/etc/passwd", "leaves the dataset folder"),
        ("Attic/outside", "secret.wav", "leaves the dataset folder"),
        ("Attic", "link.wav", "leaves the dataset folder"),
        ("Attic/loop", "x.wav", "cannot be followed|does not exist|not a readable"),
        ("Attic/audio", "a\0b.wav", "line 2: a path with control characters"),
        ("Attic/audio", "\x1b[2Jb.wav", r"line 2: a path with control characters, 'Attic/audio/\\x1b"),
        ("Attic/audio", "x" * 300, "not a readable sound file"),
        ("Attic/audio", "=cmd|' /C calc'!A0", "does not exist"),
        ("Attic/audio", "", "line 2: nothing in the column 'audio file name'"),
    ],
)
def test_a_table_leads_nowhere_but_into_its_root(tmp_path: Path, place: str, name: str, words: str) -> None:
    root = write_batvision(tmp_path / "root")
    (tmp_path / "secret.wav").write_bytes((root / "Attic" / "audio" / "audio_0.wav").read_bytes())
    (root / "Attic" / "outside").symlink_to(tmp_path)
    (root / "Attic" / "link.wav").symlink_to(tmp_path / "secret.wav")
    (root / "Attic" / "loop").symlink_to("loop")
    table(root, place, name, "Attic/depth", "depth_0.npy")
    with pytest.raises(DataError, match=words):
        list_recordings(root, "train")[0].read_audio()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_table_of_a_million_columns_is_read(tmp_path: Path, encoding: str) -> None:
    root = write_batvision(tmp_path)
    row = "Attic/audio,audio_0.wav,Attic/depth,depth_0.npy\n"
    text = ",".join(V2.columns) + ",x" * 1_000_000 + "\n" + row * 1000
    (root / "Attic" / "train.csv").write_text(text, encoding=encoding)
    with bounded(mebibytes=128):
        assert len(list_recordings(root, "train")) == 1000


def test_a_table_in_another_encoding_or_without_end_is_refused(tmp_path: Path) -> None:
    path = write_batvision(tmp_path) / "Attic" / "train.csv"
    path.write_text(path.read_text(), encoding="utf-16")
    with pytest.raises(DataError, match=r"Cannot read the table .*train.csv: 'utf-8' codec"):
        list_recordings(tmp_path, "train")
    with bounded(mebibytes=256), pytest.raises(DataError, match=f"larger than {MAX_TABLE:,} bytes"):
        list_recordings(sparse(path, 2**36).parents[1], "train")
    path.write_text(",".join(V2.columns) + '\n"' + "x" * 200_000)
    with pytest.raises(DataError, match="field larger than field limit"):
        list_recordings(tmp_path, "train")


# Settings.


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (lying.bomb("list"), r"aliases \(\*name\) are not read here; write the value out"),
        (lying.bomb("mapping"), r"aliases \(\*name\) are not read here"),
        ("a: &a {b: 1}\nloss: {<<: [*a, *a]}", "aliases"),
        ("[" * 20_000, "nested too deeply"),
        ("!!python/object/apply:os.system [ls]", "could not determine a constructor"),
        ("!!timestamp x", "not valid YAML"),
        ("!!int x", "not valid YAML"),
        ("!!bool x", "not valid YAML"),
        ("!!int ''", "not valid YAML"),
        ("a: 2021-99-99", "not valid YAML"),
        ("trainer: {seed: 0x" + "F" * 9000 + "}", "trainer.seed: it is larger than any number"),
        ("trainer: {epochs: [0x" + "F" * 9000 + "]}", "trainer.epochs: .*not such a list"),
        ("loss: {recon: " + "x" * 9000 + "}", r"loss.recon: .*xxx and so on\."),
        ("loss: {lowpass_share: wide}", "loss.lowpass_share: .* not 'wide'"),
        ("loss: {lowpass_share: .inf}", "loss.lowpass_share: .* not inf"),
        ('data: {root: "a\\0b"}', "data.root: it holds characters that cannot be written"),
        ('data: {root: "\\ud800"}', "data.root: it holds characters that cannot be written"),
        ('loss: {"\\ud800": 1}', "name of a setting holds half of a character"),
        ("x" * 70_000, "it is larger than 65,536 bytes"),
    ],
)
def test_settings_that_explode_are_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with bounded(), pytest.raises(ConfigError, match=words) as refused:
        make_config(load_layer(tmp_path / "c.yaml"))
    assert len(str(refused.value)) < 1000


def test_a_setting_on_the_command_line_is_read_as_plainly() -> None:
    with pytest.raises(ConfigError, match="is not valid YAML"):
        parse_setting("trainer.epochs=!!timestamp x")
    deep: dict[str, object] = {}
    for _ in range(5000):
        deep = {"name": deep}
    with pytest.raises(ConfigError, match="nested too deeply"):
        make_config({"data": deep})


# Checkpoints and runs.


def test_a_checkpoint_says_no_more_than_it_holds(tiny: Callable[..., Config], tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    save_checkpoint(path, create_model(tiny()), 1, [])
    whole = path.read_bytes()
    for content in ((2**60).to_bytes(8, "little") + whole[8:], whole[:-1], whole[:100], whole[:8], b""):
        path.write_bytes(content)
        with bounded(), pytest.raises(CheckpointError, match="is not a readable safetensors file"):
            load_model(path)
    path.write_bytes(whole)
    assert load_model(path) is not None


def test_a_checkpoint_with_the_settings_of_a_giant_builds_none(tiny: Callable[..., Config], tmp_path: Path) -> None:
    path, model = tmp_path / "m.safetensors", create_model(tiny())
    giant = make_config(
        {"model": {"base_channels": 512, "encoder": "unet", "decoder": "unet", "base_decoder": "unet"}},
        {"audio": {"front_end": "spectrogram"}},
    )
    save_checkpoint(path, model, 1, [])
    write_tensors(path, model.state_dict(), read_header(path) | {"config": giant.model_dump_json()})
    with bounded(), pytest.raises(CheckpointError, match="do not fit the network"):
        load_model(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("evaluation.json", "[" * 100_000),
        ("evaluation.json", "[]"),
        ("evaluation.json", '{"metrics": {"rmse": "low"}, "decomposition": {}, "protocol": {}}'),
        ("metrics.jsonl", ""),
        ("metrics.jsonl", '{"val/rmse": null}'),
        ("metrics.jsonl", '{"val/rmse": 1' + "0" * 400 + "}"),
        ("metrics.jsonl", '{"val/rmse": "low"}'),
    ],
)
def test_a_run_that_was_tampered_with_is_damaged(tmp_path: Path, name: str, content: str) -> None:
    hostile.run(tmp_path)
    folder = tmp_path / "runs" / "bad"
    assert read_run(folder).rmse == 0.5
    (folder / name).write_text(content)
    with pytest.raises(RunError, match="is damaged"):
        read_run(folder)


def test_simulated_rooms_are_not_put_over_something_else(tiny: Callable[..., Config], tmp_path: Path) -> None:
    (tmp_path / "rooms.json").write_bytes(b"\xff[")
    with pytest.raises(DataError, match="is not empty"):
        simulate(tmp_path, tiny().data, tiny().simulation)


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    archive, folder = tmp_path / "archive.zip", tmp_path / "out"
    folder.mkdir()
    archive.write_bytes(lying.zipped({"x" * 300: b""}))
    with pytest.raises(DataError, match=r"Cannot extract .*archive\.zip: File name too long"):
        extract(archive, folder)


def test_a_file_is_read_as_far_as_it_may_be(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"12345")
    assert read_at_most(tmp_path / "f", 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_at_most(tmp_path / "f", 4)


def test_every_mistake_is_of_one_family() -> None:
    for kind in (CheckpointError, ConfigError, DataError, RunError):
        assert issubclass(kind, BaseResidualError)
