"""The conversion of VisualEchoes: the published layout, and pickles that mean harm."""

from __future__ import annotations

import copyreg
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
from filelock import FileLock
from test_cli import brdepth

from base_residual.config.resolve import make_config
from base_residual.data import open_dataset
from base_residual.data.check import check_data
from base_residual.data.replica import ADMITTED, SCENES, convert_replica
from base_residual.errors import DataError

PLACES = {"apartment_0": [(3, 90), (12, 270)], "office_3": [(0, 0)], "office_4": [(7, 180)]}


@pytest.fixture
def echoes(tmp_path: Path) -> Path:
    """The folder echoes_navigable, with a recording per place."""
    rng = np.random.default_rng(0)
    for scene, places in PLACES.items():
        for location, angle in places:
            path = tmp_path / "echoes_navigable" / scene / "3ms_sweep" / str(angle) / f"{location}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.1 * rng.standard_normal((2000, 2)), 44_100)
    return tmp_path / "echoes_navigable"


def views(order: str = "C", kind: str = "<f4") -> dict[str, dict[tuple[object, object], dict[str, np.ndarray]]]:
    """What scene_observations_128.pkl holds, with a depth of one metre per location at the left, and a hole."""

    def depth(location: int) -> np.ndarray:
        values = np.full((128, 128), 4.0)
        values[:, :64], values[0, 0] = 1.0 + location, 0
        return np.asarray(values.astype(kind), order=order)

    return {
        scene: {
            (location, np.int64(angle)): {"rgb": np.zeros((128, 128, 3), np.uint8), "depth": depth(location)}
            for location, angle in places
        }
        for scene, places in PLACES.items()
    }


def write(path: Path, content: object, protocol: int = 4) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize(("protocol", "order", "kind"), [(3, "C", "<f4"), (4, "F", "<f8"), (5, "C", ">f4")])
def test_converted_scenes_read_like_any_other_dataset(
    tmp_path: Path, echoes: Path, protocol: int, order: str, kind: str
) -> None:
    source = write(tmp_path / "scene_observations_128.pkl", views(order, kind), protocol)
    told: list[tuple[str, int, int]] = []
    assert convert_replica(source, echoes, tmp_path / "set", lambda *step: told.append(step)) == 4
    assert told[-1] == ("Converting recordings", 4, 4)
    config = make_config({"data": {"name": "replica"}})
    train = open_dataset("replica", tmp_path / "set", "train", config)
    assert [sample.id for sample in train] == ["apartment_0/0003_090", "apartment_0/0012_270"]
    assert train[0].waveform.shape == (2, 3658)
    np.testing.assert_allclose(train[0].depth[0, [0, 1, 127]], [0, 4, 4], atol=0.001)
    assert float(train[1].depth[5, 5]) == pytest.approx(13.0, abs=0.001)
    for split, scene in (("val", "office_3"), ("test", "office_4")):
        (sample,) = open_dataset("replica", tmp_path / "set", split, config)
        assert sample.id.startswith(f"{scene}/")
    findings = check_data(tmp_path / "set")
    assert all("no chirp" in problem for problem in findings.problems)  # the echoes of this test are noise
    assert findings.shared == 0


def test_the_command_says_how_to_train_on_what_it_converted(tmp_path: Path, echoes: Path) -> None:
    source, root = write(tmp_path / "scene_observations_128.pkl", views()), tmp_path / "set"
    said = brdepth("convert-replica", source, echoes, root)
    assert f"Recordings: 4, in {root}" in said
    assert f"Train: brdepth train --dataset replica --data-root {root}" in said


def test_the_eighteen_scenes_are_in_one_split_each() -> None:
    scenes = [scene for scenes in SCENES.values() for scene in scenes]
    assert len(scenes) == len(set(scenes)) == 18


class Harm:
    """Pickled as a call of something that a file must never call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (Harm(exec, "open('harm', 'w')"), r"asks for builtins\.exec, which is no part.*Nothing of it was run"),
        (Harm(np.load, "x.npy"), r"asks for numpy(\.lib\S*)?\.load"),
        (Harm(getattr, np.zeros(1), "tofile"), r"asks for builtins\.getattr"),
        ({"office_3": {(0, 0): {"depth": np.array([[{}]], dtype=object)}}}, "no pickle of numpy arrays"),
        (b"\x80\x04cnumpy\ndtype\n(U\x01Otb.", "no pickle of numpy arrays"),
        (b"not a pickle", "no pickle of numpy arrays"),
        (b"", "no pickle of numpy arrays"),
        (pickle.dumps(np.zeros((4, 4)))[:-30], "no pickle of numpy arrays"),
        (b"\x80\x04]r" + struct.pack("<I", 2**32 - 1) + b".", "more memory than it can fill"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.", "no pickle of numpy arrays"),
        ([1, 2], "does not hold"),
        ({"office_3": [1]}, "does not hold"),
        ({"../../etc": {(0, 0): {"depth": np.ones((2, 2))}}}, "has a scene '../../etc'"),
        ({"office_3": {("../..", 0): {"depth": np.ones((2, 2))}}}, "no depth map"),
        ({"office_3": {(0, 0): {"depth": np.ones((2, 2, 1))}}}, "no depth map"),
        ({"office_3": {(0, 0): {"rgb": np.ones((2, 2))}}}, "no depth map"),
        ({}, "holds no depth map"),
        ({"office_3": {(99, 0): {"depth": np.ones((2, 2))}}}, r"99\.wav does not exist"),
    ],
)
def test_what_is_no_dataset_is_one_sentence_and_runs_nothing(
    tmp_path: Path, echoes: Path, monkeypatch: pytest.MonkeyPatch, content: object, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=words):
        convert_replica(write(tmp_path / "bad.pkl", content), echoes, tmp_path / "set")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.pkl", "echoes_navigable"]


@pytest.mark.parametrize(("module", "name"), ADMITTED)
def test_a_pickle_sets_no_attribute_of_what_stands_for_numpy(
    tmp_path: Path, echoes: Path, module: str, name: str
) -> None:
    state = b"N}\x8c\x07changedK\x01s\x86"  # (None, {"changed": 1}), whose second part BUILD sets as attributes
    for target in (f"c{module}\n{name}\n".encode(), f"c{module}\n{name}\n(tR".encode()):  # itself, and what it returns
        content = b"\x80\x04" + target + state + b"b."
        with pytest.raises(DataError, match="no pickle of numpy arrays"):
            convert_replica(write(tmp_path / "bad.pkl", content), echoes, tmp_path / "set")
    assert not hasattr(ADMITTED[module, name], "changed")


@pytest.mark.parametrize(
    "content",
    [
        b"\x82\xf0",  # EXT1
        b"\x83\xf0\x00",  # EXT2
        b"\x84\xf0\x00\x00\x00",  # EXT4
        b"P1\n",  # PERSID
        b"K\x01Q",  # BINPERSID
        b"(ibuiltins\neval\n",  # INST
        b"(cnumpy\nndarray\no",  # OBJ
        b"cnumpy\nndarray\n)\x81",  # NEWOBJ
        b"cnumpy\nndarray\n)}\x92",  # NEWOBJ_EX
        b"\x97",  # NEXT_BUFFER
    ],
)
def test_a_pickle_finds_no_object_but_by_the_names_of_arrays(tmp_path: Path, echoes: Path, content: bytes) -> None:
    copyreg.add_extension("builtins", "eval", 240)
    try:
        assert pickle.loads(b"\x80\x04\x82\xf0.") is eval  # and so it is known by its number, without its name
        harm = tmp_path / "harm"
        stream = b"\x80\x05" + content + f"(Vopen({str(harm)!r}, 'w')\ntR.".encode()
        with pytest.raises(DataError, match="no pickle of numpy arrays: it holds the instruction"):
            convert_replica(write(tmp_path / "bad.pkl", stream), echoes, tmp_path / "set")
        assert not harm.exists()
    finally:
        copyreg.remove_extension("builtins", "eval", 240)


def test_an_array_costs_no_more_memory_than_the_file_holds(tmp_path: Path, echoes: Path) -> None:
    honest = pickle.dumps({"office_3": {(0, 0): {"depth": np.ones((3, 3))}}}, 4)
    wide = honest.replace(b"K\x03K\x03", b"M\xff\xffM\xff\xff")
    assert wide != honest
    with pytest.raises(DataError, match="no pickle of numpy arrays"):
        convert_replica(write(tmp_path / "wide.pkl", wide), echoes, tmp_path / "set")


def test_two_do_not_convert_into_one_folder(tmp_path: Path, echoes: Path) -> None:
    source, out = write(tmp_path / "views.pkl", views()), tmp_path / "set"
    with (
        FileLock(tmp_path / ".set.partial.lock"),
        pytest.raises(DataError, match=f"Another process is converting into {out}"),
    ):
        convert_replica(source, echoes, out)
    (tmp_path / ".set.partial").mkdir()  # somebody else's
    (tmp_path / f".set.{'0' * 32}.partial" / "audio").mkdir(parents=True)  # of a conversion that was killed
    convert_replica(source, echoes, out)
    assert {path.name for path in tmp_path.iterdir()} >= {"set"}
    assert [path.name for path in tmp_path.glob(".set*")] == [".set.partial"]


def test_a_missing_pickle_and_a_taken_folder_are_named(tmp_path: Path, echoes: Path) -> None:
    with pytest.raises(DataError, match=r"Cannot read .*none\.pkl: No such file"):
        convert_replica(tmp_path / "none.pkl", echoes, tmp_path / "set")
    with pytest.raises(DataError, match="exists already"):
        convert_replica(tmp_path / "none.pkl", echoes, tmp_path)
