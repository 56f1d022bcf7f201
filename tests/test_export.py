from __future__ import annotations

import json
import logging
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import fields
from importlib.metadata import version
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import soundfile
import torch
from conftest import TINY
from test_cli import brdepth, sentence
from torch import Tensor

from base_residual.acoustics.framing import echo_frames
from base_residual.acoustics.front_end import EchoFrontEnd
from base_residual.config.presets import Layer
from base_residual.config.resolve import make_config
from base_residual.config.schema import AudioConfig, Config
from base_residual.deploy import onnx as export
from base_residual.deploy.benchmark import OnnxCost
from base_residual.deploy.onnx import ExportError, RealFrontEnd, check_onnx, export_onnx, sample_echoes
from base_residual.deploy.predict import predict_files
from base_residual.errors import MissingExtraError
from base_residual.machine import few_threads
from base_residual.models import time_encoder, unet
from base_residual.models.checkpoint import save_checkpoint
from base_residual.models.decomposition import DepthDecomposition
from base_residual.models.factory import create_base_residual_model, create_model
from base_residual.models.network import DepthNet
from base_residual.models.remainder import Calibration

EXAMPLE = Path(__file__).parents[1] / "examples" / "export_and_run_onnx.py"
RESERVE = 4410  # samples, 0.1 s, that a recording may begin before the emission
FRAMES = echo_frames(8.0) + RESERVE


class Exported(NamedTuple):
    model: DepthNet
    path: Path
    session: onnxruntime.InferenceSession
    recording: Path
    told: str


class MeanNet(DepthNet):
    """Depth that is the mean of some features: a network that costs nothing to export."""

    def __init__(self, config: Config) -> None:
        super().__init__(config, config.data.max_depth, config.data.output_size)
        self.scale = torch.nn.Parameter(torch.tensor(4.0))

    def forward(self, x: Tensor, detach_base: bool = False) -> DepthDecomposition:
        rows = x.flatten(2).mean(dim=2).unflatten(0, (-1, 1, 1))  # (B, 1, 1, C)
        base = self.scale * rows.abs().clamp(0, self.max_depth)
        return DepthDecomposition(base, rows, base + rows)


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


@contextmanager
def silent(file: Path) -> Iterator[None]:
    """Nothing in it may log a warning, or write past Python to the streams of the process; `file` holds what did."""
    streams = [(number, os.dup(number)) for number in (1, 2)]
    log, root = logging.FileHandler(file), logging.getLogger()
    log.setLevel(logging.WARNING)
    root.addHandler(log)
    try:
        for number, _ in streams:
            os.dup2(log.stream.fileno(), number)
        yield
    finally:
        root.removeHandler(log)
        for number, before in streams:
            os.dup2(before, number)
            os.close(before)
        log.close()
    assert file.read_text() == ""


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """The default network, tiny, as the command exports it and the example runs it: the file lies alone."""
    folder, out = tmp_path_factory.mktemp("given"), tmp_path_factory.mktemp("exported") / "model.onnx"
    soundfile.write(folder / "echo.wav", sample_echoes(1, FRAMES - 300, 44_100)[0].T.numpy(), 44_100, "FLOAT")
    places = []
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as told:
        patch.setattr(time_encoder, "TIME_STAGES", time_encoder.TIME_STAGES[:2])  # the others are like them
        torch.manual_seed(0)
        model = create_model(make_config(TINY))
        model.expect_remainder(Calibration(0.8, 1.5, 9, "room", "simulated rooms"))
        save_checkpoint(folder / "best.safetensors", model, 1, [])
        with silent(folder / "said"):
            said = brdepth("export", folder / "best.safetensors", "--out", out)
        assert re.fullmatch(rf"ONNX: {re.escape(str(out))} \(\d+\.\d MiB\)", said.strip())  # and no more
        patch.setattr(export, "export_onnx", lambda _, path: places.append(path))  # it is there, and took long
        runpy.run_path(str(EXAMPLE))["main"](
            [str(folder / "best.safetensors"), str(folder / "echo.wav"), f"--out={out}"]
        )
    assert places == [out]
    return Exported(model, out, session(out), folder / "echo.wav", told.getvalue())


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_the_file_gives_the_same_depth_for_any_number_of_echoes(exported: Exported, batch: int) -> None:
    echoes = sample_echoes(5, FRAMES, 44_100)[-batch:]
    parts = exported.session.run(["base", "residual", "final", "remainder"], {"waveform": echoes.numpy()})
    prediction = exported.model.predict(echoes)
    for ours, theirs in zip((*prediction, prediction.remainder), parts, strict=True):
        assert theirs.shape == (batch, 1, 32, 32)
        torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=0, atol=1e-3)


@pytest.mark.parametrize("late", [0, 7, 441, RESERVE // 2, RESERVE])
@pytest.mark.parametrize(("gain", "offset"), [(1.0, 0.0), (1.0, 0.1), (1e-30, 0.0), (1e4, 0.1)])
def test_the_file_hears_as_the_package_does(exported: Exported, late: int, gain: float, offset: float) -> None:
    sound = sample_echoes(1, FRAMES - RESERVE, 44_100)
    recording = gain * (torch.nn.functional.pad(sound, (late, RESERVE - late)) + offset)
    (final,) = exported.session.run(["final"], {"waveform": recording.numpy()})
    expected = exported.model.predict(recording).final
    torch.testing.assert_close(torch.from_numpy(final), expected, rtol=0, atol=1e-3)
    moved = expected - exported.model.predict(torch.nn.functional.pad(sound, (0, RESERVE))).final
    assert float(moved.abs().max()) < 0.05


def test_the_file_alone_says_what_a_robot_needs(exported: Exported) -> None:
    assert [file.name for file in exported.path.parent.iterdir()] == ["model.onnx"]
    assert exported.session.get_modelmeta().custom_metadata_map == {
        "max_depth": "8.0",
        "sample_rate": "44100",
        "output_size": "32",
        "frames": str(FRAMES),
        "reserve": str(RESERVE),
        "version": version("base-residual-depth"),
        "field_of_view": "[90.0, 90.0]",
        "depth_along": "axis",
        "level": "0.8",
    }
    (given,) = exported.session.get_inputs()
    assert (given.name, given.type, given.shape) == ("waveform", "tensor(float)", ["batch", 2, FRAMES])
    parts = {part.name: part.shape for part in exported.session.get_outputs()}
    assert parts == {key: ["batch", 1, 32, 32] for key in ("base", "residual", "final", "remainder")}


def test_the_file_is_valid_and_tells_nothing_of_where_it_was_made(exported: Exported) -> None:
    onnx.checker.check_model(str(exported.path), full_check=True)
    assert b".py" not in exported.path.read_bytes()


@pytest.mark.parametrize("frames", [640, 2075])
@pytest.mark.parametrize(
    "settings",
    [
        {"front_end": "matched"},
        {"front_end": "matched", "template": "direct"},
        {"front_end": "matched", "sample_rate": 22_050},
        {"front_end": "matched", "sample_rate": 8_000},
        {"front_end": "matched", "sample_rate": 96_000},
        {"front_end": "matched", "emission": "first", "template": "chirp"},
        {"front_end": "matched", "bands": ()},
        {"front_end": "waveform"},
        {"front_end": "spectrogram"},
        {"front_end": "spectrogram", "n_fft": 101, "win_length": 64, "hop_length": 7},
        {"front_end": "spectrogram", "n_fft": 128, "win_length": 51, "hop_length": 128},
        {"front_end": "mel", "n_mels": 20},
    ],
    ids=str,
)
def test_the_front_end_in_real_numbers_equals_the_one_of_training(settings: Layer, frames: int) -> None:
    front_end = EchoFrontEnd(AudioConfig(**settings), 32)
    echoes = sample_echoes(3, frames, front_end.config.sample_rate)
    real, complex_ = RealFrontEnd(front_end, frames)(echoes), front_end(echoes)
    torch.testing.assert_close(real[:, :24], complex_[:, :24], rtol=0, atol=2e-3)
    torch.testing.assert_close(real, complex_, rtol=0, atol=1e-2)  # rounding has more of the sound of a single band


def test_the_waveform_is_in_the_file_and_exporting_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    model = MeanNet(make_config(TINY, {"audio": {"front_end": "waveform", "emission": "first"}}))
    path = export_onnx(model, tmp_path / "model.onnx")
    assert tuple(capfd.readouterr()) == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert check_onnx(model, path) < 1e-3
    echoes = 0.5 * sample_echoes(4, FRAMES - RESERVE, 44_100).flip(1)  # not those that the export was checked with
    final = session(path).run(["final"], {"waveform": echoes.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(final), model.predict(echoes).final, rtol=0, atol=1e-3)


def test_a_two_dimensional_network_of_untouched_recordings_exports_and_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unet, "UNET_HALVINGS", 1)  # the others are like the first
    audio = {"front_end": "mel", "emission": "first"}
    model = create_model(make_config(TINY, {"model": {"name": "unet"}, "audio": audio})).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    path = export_onnx(model, tmp_path / "model.onnx")
    assert check_onnx(model, path) < 1e-3
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    about = session(path).get_modelmeta().custom_metadata_map
    assert (about["reserve"], about["frames"]) == ("0", str(FRAMES - RESERVE))  # such a file needs no more


def test_what_the_file_costs_is_measured_without_the_network(exported: Exported, tmp_path: Path) -> None:
    found = json.loads(brdepth("benchmark", exported.path, "--json"))
    assert list(found) == [field.name for field in fields(OnnxCost)]
    assert 0 < found["latency_median_ms"] <= found["latency_p95_ms"]
    assert found["scan_median_ms"] > 0
    assert found["threads"] == few_threads()
    assert "from samples to a scan, median" in brdepth("benchmark", exported.path)
    assert "does nothing for an ONNX file" in sentence(brdepth("benchmark", exported.path, "--batch-size", 3, code=2))
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(exported.path.read_bytes()[:1000])
    assert "is no ONNX file that can be run here" in sentence(brdepth("benchmark", broken, code=2))
    assert "There is no file" in sentence(brdepth("benchmark", tmp_path / "none.onnx", code=2))
    known = exported.session.get_modelmeta().custom_metadata_map
    for wrong in (
        {"frames": "abc"},
        {"frames": "100"},
        {"frames": "-5"},
        {"sample_rate": "0"},
        {"field_of_view": "[1"},
        {"field_of_view": "[0, 90]"},
        {"field_of_view": "[1, 2, 3]"},
        {"depth_along": "way"},
    ):
        other = onnx.load(exported.path)
        other.ClearField("metadata_props")
        onnx.helper.set_model_props(other, known | wrong)
        onnx.save(other, tmp_path / "other.onnx")
        said = sentence(brdepth("benchmark", tmp_path / "other.onnx", code=2))
        assert "none that brdepth export has written" in said


def test_silence_has_a_depth(exported: Exported) -> None:
    final = exported.session.run(["final"], {"waveform": np.zeros((1, 2, FRAMES), np.float32)})[0]
    assert np.isfinite(final).all()


def test_the_check_sees_another_model(exported: Exported) -> None:
    torch.manual_seed(1)
    assert check_onnx(create_model(make_config(TINY)), exported.path) > 1e-3


@pytest.mark.parametrize("scale", [0.5, float("nan")])
def test_a_file_that_computes_something_else_is_refused_and_not_left_behind(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    wrong = onnx.load(exported.path)
    for weights in wrong.graph.initializer:
        if weights.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(weights)
            weights.CopyFrom(onnx.numpy_helper.from_array(values * np.float32(scale), weights.name))
    graph = SimpleNamespace(all_nodes=list)
    program = SimpleNamespace(model=SimpleNamespace(graph=graph, metadata_props={}), model_proto=wrong)
    monkeypatch.setattr(export, "_traced", lambda *_: None)
    monkeypatch.setattr(torch.onnx, "export", lambda *_, **__: program)
    before = tmp_path / "model.onnx"
    before.write_text("an older export")
    with pytest.raises(ExportError, match=r"differ by .* m; expected are at most 0\.001 m\. Nothing was written"):
        export_onnx(exported.model, before)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]
    assert before.read_text() == "an older export"


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"base-residual-depth\[onnx\]"):
        export_onnx(MeanNet(make_config(TINY)), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_checking_needs_the_runtime(exported: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"base-residual-depth\[onnx\]"):
        check_onnx(exported.model, exported.path)


def test_what_cannot_be_exported_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ExportError, match=r"no front end\. Make it from a Config"):
        export_onnx(create_base_residual_model(base_channels=4), tmp_path / "model.onnx")
    monkeypatch.setattr(export, "LARGEST", 4)
    with pytest.raises(ExportError, match=r"one ONNX file holds .*fewer model\.base_channels"):
        export_onnx(MeanNet(make_config(TINY)), tmp_path / "model.onnx")


def test_the_example_prints_the_depth_that_the_package_predicts(exported: Exported) -> None:
    final = predict_files(exported.model, [exported.recording]).final
    assert exported.told == (
        f"Written: {exported.path}\nDepth map of 32 x 32 pixels, in metres:\n"
        f"  nearest {final.min():.2f}, median {np.median(final):.2f}, farthest {final.max():.2f}\n"
    )


def test_the_example_says_in_a_sentence_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "none.safetensors"
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(EXAMPLE))["main"]([str(missing), str(tmp_path / "echo.wav")])
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"Error: The checkpoint {missing} does not exist.\n"


def test_the_robot_half_of_the_example_needs_neither_torch_nor_this_package(exported: Exported, tmp_path: Path) -> None:
    recording = tmp_path / "echo.wav"
    soundfile.write(recording, sample_echoes(1, FRAMES + 300, 44_100)[0].T.numpy(), 44_100, "FLOAT")
    script = f"""
import pathlib, runpy, sys
sys.modules["torch"] = sys.modules["base_residual"] = None
depth = runpy.run_path({str(EXAMPLE)!r})["run"](pathlib.Path({str(exported.path)!r}), pathlib.Path({str(recording)!r}))
print(depth.shape, depth.mean())
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": ""}
    )
    assert done.returncode == 0, done.stderr
    shape, _, mean = done.stdout.strip().rpartition(" ")
    assert shape == "(32, 32)"
    assert float(mean) == pytest.approx(float(predict_files(exported.model, [recording]).final.mean()), abs=1e-3)


@pytest.mark.parametrize(("rate", "ears"), [(22_050, 2), (44_100, 1)])
def test_the_robot_half_refuses_what_it_was_not_trained_on(
    exported: Exported, tmp_path: Path, rate: int, ears: int
) -> None:
    recording = tmp_path / "echo.wav"
    soundfile.write(recording, np.zeros((100, ears)), rate)
    with pytest.raises(ValueError, match=rf"has {ears} channels at {rate} Hz; expected are 2 at 44100 Hz"):
        runpy.run_path(str(EXAMPLE))["run"](exported.path, recording)


def test_an_onnxscript_that_is_too_old_is_one_sentence(
    tiny: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'onnxscript._framework_apis.torch_2_11'")

    monkeypatch.setattr(torch.onnx, "export", fails)
    monkeypatch.setattr(export, "_traced", lambda *_: None)
    with pytest.raises(ExportError, match=r"onnxscript does not go with PyTorch .*torch_2_11.*Install a newer one"):
        export_onnx(create_model(tiny()), tmp_path / "m.onnx")
