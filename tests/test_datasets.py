"""BatVision V1 and recordings of one's own, on their way through the package."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, write_batvision_v1
from numpy.typing import NDArray
from test_cli import TINY_OPTIONS, brdepth

from base_residual.acoustics.chirp import ChirpDesign
from base_residual.acoustics.emission import find_onset
from base_residual.config.presets import Layer
from base_residual.config.resolve import make_config
from base_residual.config.schema import Config
from base_residual.data import open_dataset
from base_residual.data.batvision import BatVisionV1
from base_residual.data.prepared import PreparedSet
from base_residual.errors import DataError
from base_residual.evaluation import evaluate
from base_residual.models.factory import create_base_residual_model, create_model
from base_residual.training.trainer import Trainer


def settings(**data: object) -> Config:
    return make_config({"data": {"name": "batvisionv1", "output_size": 32, "prepare": False, **data}})


AS_RECORDED: Layer = {"audio": {"emission": "first"}}


def test_both_ears_and_the_holes_of_v1_read_as_stored(tmp_path: Path) -> None:
    root = write_batvision_v1(tmp_path / "BatvisionV1")
    sample = open_dataset("batvisionv1", root, "val", make_config(settings().model_dump(), AS_RECORDED))[1]
    assert sample.id == "BatvisionV1/left_1"
    assert sample.waveform.shape == (2, 3112)  # 12 m
    left, right = (np.load(root / "audio" / f"{ear}_1.npy")[:3112] for ear in ("left", "right"))
    np.testing.assert_allclose(sample.waveform, np.stack([left, right]), rtol=1e-6)
    depth = sample.depth
    assert not depth[:8, :16].any()  # NaN, infinity
    assert not depth[8:16, :8].any()  # minus infinity
    assert float(depth.max()) == 12.0


@pytest.mark.parametrize("kind", ["i2", "i4", "f4"])
def test_integers_are_scaled_by_their_range(tmp_path: Path, kind: str) -> None:
    root = write_batvision_v1(tmp_path, kind=kind)
    sample = open_dataset("batvisionv1", root, config=make_config(settings().model_dump(), AS_RECORDED))[0]
    assert float(sample.waveform.abs().max()) == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize(
    ("ear", "words"),
    [
        (None, r"left_0\.npy does not exist"),
        (np.zeros((2, 9)), r"left_0\.npy has shape \(2, 9\)"),
        (np.zeros(0), r"shape \(0,\)"),
        (np.array(["a"]), "type <U1"),
        (np.zeros(9), r"left_0\.npy has 9 frames and .*right_0\.npy has 5000"),
        (np.full(5000, np.nan), "holds NaN, infinite"),
        (np.full(5000, 1e6), "beyond 32768"),
        (np.array([{}], dtype=object), "not a readable"),
    ],
)
def test_an_ear_that_is_no_recording_is_named(tmp_path: Path, ear: NDArray[np.generic] | None, words: str) -> None:
    path = write_batvision_v1(tmp_path) / "audio" / "left_0.npy"
    path.unlink()
    if ear is not None:
        np.save(path, ear, allow_pickle=True)
    with pytest.raises(DataError, match=words):
        open_dataset("batvisionv1", tmp_path, config=settings())[0]
    assert "left_0.npy" in " ".join(json.loads(brdepth("check-data", tmp_path, "--json", code=1))["problems"])


def test_a_table_of_v1_that_is_wrong_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ROOT/\{train,val,test\}\.csv with the columns 'audio path left', 'audio p"):
        open_dataset("batvisionv1", tmp_path, config=settings())
    with (tmp_path / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["depth path", "audio path left"], ["d.npy", "l.npy"]])
    with pytest.raises(DataError, match="has no column 'audio path right'"):
        open_dataset("batvisionv1", tmp_path, config=settings())


@pytest.mark.parametrize("prepare", [False, True])
def test_recordings_begin_with_the_direct_sound_unless_they_are_taken_as_they_are(
    tmp_path: Path, prepare: bool
) -> None:
    root, given = write_batvision_v1(tmp_path / "BatvisionV1"), settings(prepare=prepare).model_dump()
    late, aligned = (
        open_dataset("batvisionv1", root, config=make_config(given, {"audio": {"emission": emission}}))
        for emission in ("first", "found")
    )
    for before, after in zip(late, aligned, strict=True):
        assert int(find_onset(before.waveform[None])) == pytest.approx(980, abs=15)
        assert int(find_onset(after.waveform[None])) == pytest.approx(44, abs=15)  # 1 ms
    kind = PreparedSet if prepare else BatVisionV1
    assert isinstance(late, kind)
    assert isinstance(aligned, kind)


def test_v1_is_checked_prepared_trained_evaluated_and_drawn(tmp_path: Path) -> None:
    root = write_batvision_v1(tmp_path / "BatvisionV1")
    found = json.loads(brdepth("check-data", root, "--json", code=1))
    assert found["recordings"] == {f"BatvisionV1/{split}": 3 for split in ("train", "val", "test")}
    assert found["sample_rates"] == {"44100": 9}
    (problem,) = found["problems"]
    assert problem.startswith("Several splits list 3 recordings")
    given = ["--dataset", "batvisionv1", "--data-root", root]
    assert "train: 3 recordings" in brdepth("prepare", *given, "--output-size", 32, "--max-depth", 8)
    sizes = ["--epochs", 1, "--results-dir", tmp_path / "results"]
    brdepth("train", *TINY_OPTIONS, *given, *sizes)
    (run,) = (tmp_path / "results").iterdir()
    assert run.name.startswith("base_residual_batvisionv1_")
    assert json.loads(brdepth("eval", run / "best.safetensors", "--json"))["metrics"]["images"] == 3
    assert Path(brdepth("visualize", run / "best.safetensors").strip().removeprefix("Picture: ")).is_file()


def test_each_dataset_implies_its_largest_depth_and_says_where_it_comes_from(tmp_path: Path) -> None:
    for name, max_depth, words in (
        ("batvisionv1", 12.0, "brdepth download batvisionv1"),
        ("batvisionv2", 30.0, "brdepth download batvisionv2"),
        ("replica", 14.104, "brdepth convert-replica"),
    ):
        assert make_config({"data": {"name": name}}).data.max_depth == max_depth
        with pytest.raises(DataError, match=words):
            open_dataset(name, tmp_path / "none")


class Own:
    """Three recordings, the last of which may be changed."""

    def __init__(self, echo: object = None, depth: object = None) -> None:
        self.changed = echo, depth

    def __len__(self) -> int:
        return 3

    def echo(self, index: int) -> tuple[object, int]:
        changed = self.changed[0] if index == 2 else None
        return (np.sin(np.arange(9000).reshape(2, -1)) if changed is None else changed), 22_050

    def depth(self, index: int) -> object:
        changed = self.changed[1] if index == 2 else None
        return torch.tensor([[2.0, np.nan], [99.0, -1.0]]) if changed is None else changed


def test_recordings_of_ones_own_come_in_the_shapes_of_the_settings() -> None:
    samples = list(open_dataset(Own(), config=make_config(TINY)))
    assert [sample.id for sample in samples] == ["0", "1", "2"]
    assert samples[0].waveform.shape == (2, 2075)
    assert samples[0].waveform.dtype == samples[0].depth.dtype == torch.float32
    assert samples[0].depth.shape == (32, 32)
    assert samples[0].depth[[0, 0, 31, 31], [0, 31, 0, 31]].tolist() == [2, 0, 8, 0]
    assert open_dataset(Own())[0].depth[[0, 255], [0, 0]].tolist() == [2, 30]  # the defaults of `own`


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Own(echo=np.zeros(5)), r"echo of recording 2 is \(5,\); expected is \(2, T\)"),
        (lambda: Own(echo=np.zeros((5, 2))), r"echo of recording 2 is \(5, 2\)"),
        (lambda: Own(echo=np.full((2, 5), np.inf)), "echo of recording 2 holds NaN, infinite samples"),
        (lambda: Own(depth=np.zeros((5, 5, 1))), r"depth map of recording 2 is \(5, 5, 1\); expected is \(H, W\)"),
    ],
)
def test_recordings_of_ones_own_that_are_wrong_are_named(make: Callable[[], Own], words: str) -> None:
    samples = open_dataset(make(), config=make_config(TINY))
    with pytest.raises(DataError, match=words):
        samples[2]


@pytest.mark.parametrize(
    ("heard", "words"),
    [
        (np.zeros((2, 50)), r"given a ndarray of shape \(2, 50\) alone for recording 0"),
        ([np.zeros(50), np.zeros(50)], r"given a ndarray of shape \(50,\) and a ndarray"),
        ((48_000, np.zeros((2, 50))), "given the rate first for recording 0"),
        ((np.zeros((2, 50)), None), "and a NoneType for recording 0"),
        (None, "given a NoneType alone"),
        (("a.wav", 48_000), "echo of recording 0 is no array of real numbers"),
        ((np.zeros((2, 50)), np.int64(48_000)), ""),
        ((np.zeros((2, 50)), torch.tensor(48_000)), ""),
    ],
)
def test_an_echo_without_its_rate_is_one_sentence(heard: object, words: str) -> None:
    own = Own()
    own.echo = lambda index: heard  # type: ignore[method-assign, assignment, return-value]
    samples = open_dataset(own, config=make_config(TINY))
    if words:
        with pytest.raises(DataError, match=words):
            samples[0]
    else:
        assert samples[0].waveform.shape == (2, 2075)


def test_what_is_no_object_with_three_methods_is_told_what_to_be(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    with pytest.raises(DataError, match=r"This list has no method echo\..*examples/custom_dataset\.py.*EchoSample"):
        open_dataset([(np.zeros((2, 50)), np.zeros((8, 8)))])  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"Own is a class; give recordings, such as Own\(\)"):
        open_dataset(Own)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="is a folder and no name of a dataset"):
        open_dataset(tmp_path)  # type: ignore[arg-type]
    for given, words in (
        (Own(), r"This Own is made of recordings and not yet of samples\. Give open_dataset"),
        ([(np.zeros((2, 50)), np.zeros((8, 8)))], r"The dataset gives a tuple; expected is EchoSample"),
        (3, "This int is no dataset"),
    ):
        with pytest.raises(DataError, match=words):
            Trainer(tiny(), train=given, trackers=[]).fit()  # type: ignore[arg-type]
        with pytest.raises(DataError, match=words):
            evaluate(create_model(tiny()), given)  # type: ignore[arg-type]


def test_millimetres_of_ones_own_are_refused_and_a_background_is_no_wall() -> None:
    millimetres = np.full((8, 8), 3000.0)
    millimetres[:4] = 65_535
    with pytest.raises(DataError, match=r"recording 2 has a median of 3,000 m: as if in millimetres, where metres"):
        open_dataset(Own(depth=millimetres), config=make_config(TINY))[2]
    for background in (1000.0, 65.535, 99.0):
        depth = np.linspace(2, 5, 1024).reshape(32, 32)
        depth[:8] = background
        found = open_dataset(Own(depth=depth), config=make_config(TINY))[2].depth
        assert (float(found[:8].max()), float(found.max())) == (0, 5)


def test_a_run_on_ones_own_recordings_is_not_taken_for_one_on_another_dataset() -> None:
    assert make_config({"data": {"name": "own"}}).run_name.startswith("base_residual_own_")
    with pytest.raises(DataError, match=r"'own' stands for recordings that Python code gives"):
        open_dataset("own")


def test_no_recordings_of_ones_own_are_no_dataset() -> None:
    class Nothing(Own):
        def __len__(self) -> int:
            return 0

    with pytest.raises(DataError, match="no recordings in this Nothing"):
        open_dataset(Nothing())


def test_a_model_hears_from_the_direct_sound_on_unless_it_was_trained_on_recordings_as_they_are() -> None:
    waveform = torch.zeros(2, 6000)
    waveform[:, 980:1112] = torch.from_numpy(ChirpDesign().waveform())
    waveform[:, 2000:2132] = 0.5 * waveform[:, 980:1112]
    later = waveform.roll(700, dims=1)
    for emission in ("first", "found"):
        model = create_base_residual_model(make_config(TINY, {"audio": {"emission": emission}}))
        moved = float((model.predict(waveform).final - model.predict(later).final).abs().max())
        assert (moved < 1e-4) == (emission == "found")
