"""The examples, run as their first lines say."""

from __future__ import annotations

import base64
import io
import re
import runpy
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import numpy as np
import pytest
from conftest import TINY
from nbformat import NotebookNode
from PIL import Image

from base_residual.acoustics.chirp import ChirpDesign
from base_residual.acoustics.framing import echo_frames
from base_residual.config.resolve import make_config, merge
from base_residual.models.checkpoint import save_checkpoint
from base_residual.models.factory import create_model

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a script in this process, as it is run from a shell, and returns what it prints."""

    def call(script: str, *arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        return capsys.readouterr().out

    return call


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a script in this process, with its imports there, and returns its last words; its exit code must be 2."""

    def call(script: str, *arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(EXAMPLES / script), run_name="__main__")
        assert ended.value.code == 2
        return capsys.readouterr().err

    return call


@pytest.mark.usefixtures("drawn")
def test_the_real_recording_is_drawn_over_range(tmp_path: Path, real_root: Path, run: Callable[..., str]) -> None:
    place, out = real_root / "Sample_Location", tmp_path / "envelope.png"
    echo, depth = place / "audio" / "audio_47.wav", place / "depth" / "depth_47.npy"
    assert str(out) in run("real_recording.py", echo, "--depth", depth, "--out", out)
    with Image.open(out) as picture:
        assert picture.size[0] > 500
        assert len(picture.convert("RGB").getcolors(1_000_000) or []) > 10


def test_a_missing_recording_is_one_sentence(tmp_path: Path, refused: Callable[..., str]) -> None:
    said = refused("real_recording.py", tmp_path / "none.wav")
    assert said == f"Error: The recording {tmp_path / 'none.wav'} does not exist.\n"


def test_a_depth_map_of_holes_says_nothing_of_range(
    tmp_path: Path, real_root: Path, refused: Callable[..., str]
) -> None:
    echo, depth = real_root / "Sample_Location" / "audio" / "audio_47.wav", tmp_path / "depth.npy"
    given = ("real_recording.py", echo, "--depth", depth, "--out", tmp_path / "envelope.png")
    np.save(depth, np.zeros((4, 4), np.uint16))
    assert refused(*given) == f"Error: Nothing was measured in the depth map {depth}.\n"
    depth.write_bytes(b"")
    assert refused(*given) == f"Error: The depth map {depth} is not a readable .npy file.\n"


@pytest.mark.usefixtures("drawn")
def test_a_scene_of_ones_own_is_seen_and_heard(
    tmp_path: Path, run: Callable[..., str], refused: Callable[..., str]
) -> None:
    trimesh = pytest.importorskip("trimesh")
    pytest.importorskip("embreex")
    out = tmp_path / "scene.png"
    assert run("own_scene.py", "--out", out) == f"Scene: 5.00 x 4.00 x 2.60 m\nWritten: {out}\n"
    with Image.open(out) as picture:
        assert len(picture.convert("RGB").getcolors(1_000_000) or []) > 10
    crate = tmp_path / "crate.stl"
    trimesh.creation.box(extents=(0.9, 0.9, 0.9)).export(crate)
    assert "no place for the robot" in refused("own_scene.py", crate, "--out", out)


def test_recordings_of_ones_own_are_learned_from_three_methods(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sys, "argv", ["custom_dataset.py", "--results-dir", str(tmp_path), "--epochs", "6"])
    runpy.run_path(str(EXAMPLES / "custom_dataset.py"), run_name="__main__")
    said = capsys.readouterr()
    heard, blind = (float(line.split()[-2]) for line in said.out.splitlines()[-2:])
    assert heard < 0.5 * blind
    assert said.err == caplog.text == ""


# The notebook.

NOTEBOOK = EXAMPLES / "quickstart.ipynb"


def test_the_notebook_is_committed_without_outputs() -> None:
    """They would be pictures of another machine's run, out of date at the next change; running it makes true ones."""
    for cell in nbformat.read(NOTEBOOK, as_version=4).cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


QUICK = """
from base_residual.data import simulated
from base_residual.evaluation import elsewhere
from base_residual.training import run_folder
simulated.own_cores, elsewhere.MOST, run_folder.PICTURED = lambda: 1, 1, 1
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> NotebookNode:
    """The quickstart from its first cell to its last, on tiny rooms."""
    from nbclient import NotebookClient  # slow to import, and one process of the tests needs it

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    (place,) = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    settings = merge(TINY, {"tracking": {"experiment_name": "quickstart"}, "trainer": {"epochs": 1}})
    quick = f"SETTINGS = {settings!r}\n{QUICK}"
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(quick))
    folder = tmp_path_factory.mktemp("quickstart")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the client's own making
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    assert len(list((folder / "results").iterdir())) == 2
    return notebook


def outputs(notebook: NotebookNode, code: str) -> dict[str, str]:
    """What the cell that contains a text has put out: by type, the last of each; `text` is what it printed."""
    (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code" and code in cell.source]
    found = {"text": "".join(output.text for output in cell.outputs if output.output_type == "stream")}
    for output in cell.outputs:
        found |= output.get("data", {})
    return found


def test_the_notebook_trains_and_compares(executed: NotebookNode) -> None:
    lines = outputs(executed, "plain = br.Trainer")["text"].splitlines()[-4:]
    assert [line.split()[0] for line in lines] == ["base", "plain", "mean_map", "constant"]
    assert all(0 < float(line.split()[-2]) < 8 for line in lines)


def test_the_notebook_shows_what_it_says(executed: NotebookNode) -> None:
    for code in ("small.predict(", "result.plot()", "prediction.show(", "show(figure)", "show(comparison_figure"):
        with Image.open(io.BytesIO(base64.b64decode(outputs(executed, code)["image/png"]))) as picture:
            assert picture.width > 500, code
            assert len(picture.convert("RGB").getcolors(1_000_000) or []) > 10, code
    (cell,) = [cell for cell in executed.cells if cell.source == "result"]
    page = cell.outputs[0].data["text/html"]
    assert "Success criteria" in page
    assert "data:image/png;base64," in page


def test_an_echo_can_be_listened_to(executed: NotebookNode) -> None:
    assert "<audio" in outputs(executed, "Audio(sample")["text/html"]


# The robot's loop.


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("live") / "best.safetensors"
    save_checkpoint(path, create_model(make_config(TINY)), 1, [])
    return path


@pytest.fixture
def live() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / "live_echo.py"))


def test_the_loop_walks_through_a_simulated_room(
    live: dict[str, Any], checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    live["main"]([str(checkpoint), "--simulate", "--rounds=4", "--pause=0", f"--out={tmp_path}"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    for number, line in enumerate(lines, start=1):
        assert re.fullmatch(
            rf" +{number}  ahead +[\d.]+ m  nearest +[\d.]+ m  rmse +[\d.]+ m  predicted in \d+ ms", line
        )
        assert len(line) <= 80
    assert sorted(file.name for file in tmp_path.iterdir()) == [f"round_{number:04d}.png" for number in range(1, 5)]


def test_the_walk_stays_in_the_room(live: dict[str, Any]) -> None:
    places, model = set(), create_model(make_config(TINY))
    for seed in range(3):
        walk = live["Walk"](0.01, model, seed)
        for _ in range(60):
            walk.go_on()
            place = np.array(walk.pose.position)
            assert (place > 0.3).all()
            assert (place < np.array(walk.room.size) - 0.3).all()
            places.add(walk.pose.position)
    assert len(places) > 60


def sound_card(monkeypatch: pytest.MonkeyPatch, **functions: Any) -> ModuleType:
    """A stand-in for the library that plays and records."""
    card = ModuleType("sounddevice")
    card.PortAudioError = type("PortAudioError", (Exception,), {})  # type: ignore[attr-defined]
    for name, function in {"check_output_settings": dict, "check_input_settings": dict, **functions}.items():
        setattr(card, name, function)
    monkeypatch.setitem(sys.modules, "sounddevice", card)
    return card


def test_with_a_sound_card_it_plays_the_chirp_and_records_two_ears(
    live: dict[str, Any], checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    played = []

    def playrec(sound: np.ndarray, rate: int, channels: int, blocking: bool) -> np.ndarray:
        assert (rate, channels, blocking) == (44_100, 2, True)
        played.append(sound)
        return np.roll(np.tile(sound, (1, 2)), 5000, axis=0)  # the way straight to the ears, 0.1 s late

    sound_card(monkeypatch, playrec=playrec)
    live["main"]([str(checkpoint), "--rounds=2", "--pause=0", "--volume=0.25"])
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [["1", "ahead"], ["2", "ahead"]]
    chirp = ChirpDesign().waveform()
    assert played[0].shape == (len(chirp) + round((0.5 + echo_frames(8.0) / 44_100) * 44_100), 1)
    np.testing.assert_allclose(played[0][: len(chirp), 0], 0.25 * chirp, atol=1e-6)


def ended(live: dict[str, Any], checkpoint: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    with pytest.raises(SystemExit) as code:
        live["main"]([str(checkpoint), "--rounds=1", *options])
    assert code.value.code == 2
    return capsys.readouterr().err


def test_without_the_extra_the_loop_names_it(
    live: dict[str, Any], checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    assert 'pip install "base-residual-depth[live]"' in ended(live, checkpoint, capsys)


def test_without_portaudio_the_loop_names_it(
    live: dict[str, Any],
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    said = ended(live, checkpoint, capsys)
    assert said.startswith("Error: The PortAudio library is not installed")
    assert "--simulate" in said


def test_without_a_microphone_the_loop_says_so(
    live: dict[str, Any], checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    card = sound_card(monkeypatch)

    def refuse(**settings: object) -> None:
        raise card.PortAudioError("Invalid number of channels [PaErrorCode -9998]")

    card.check_input_settings = refuse  # type: ignore[attr-defined]
    said = ended(live, checkpoint, capsys)
    assert "no loudspeaker with two microphones at 44100 Hz here (Invalid number of channels" in said


def test_a_muted_microphone_is_noticed(
    live: dict[str, Any], checkpoint: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sound_card(monkeypatch, playrec=lambda sound, *_, **__: np.zeros((len(sound), 2)))
    assert "The microphones hear nothing at all" in ended(live, checkpoint, capsys)


@pytest.mark.parametrize("option", ["--volume=3", "--rounds=-1", "--pause=-1", "--pause=nan", "--seed=-1"])
def test_settings_that_make_no_sense_are_refused(
    live: dict[str, Any], checkpoint: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert "expected are rounds" in ended(live, checkpoint, capsys, option)


def test_a_terminal_gets_the_map_in_colours(live: dict[str, Any]) -> None:
    depth = np.tile(np.linspace(0, 8, 64), (64, 1))
    lines = live["drawn"](depth, 8.0).split("\n")
    assert [len(line) for line in lines] == [64] * 32
    colours = [str(span.style) for span in lines[0].spans]
    assert colours[0] == "rgb(68,1,84) on rgb(68,1,84)"  # both ends of the colours of depth
    assert colours[-1] == "rgb(253,231,36) on rgb(253,231,36)"
