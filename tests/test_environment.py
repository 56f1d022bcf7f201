"""Commands do not depend on what starts them: closed streams, signals, encodings, an optimising Python, Matplotlib."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from base_residual.cli.exits import terminable
from base_residual.cli.main import app
from base_residual.config.schema import Config
from base_residual.data.loading import read_batches, readers_in_words
from base_residual.errors import DataError
from base_residual.plots.figures import Panel, as_png, curves_figure, decomposition_figure
from base_residual.training.interruption import TERMINATION, interruptible
from base_residual.training.terminal import ConsoleTracker
from base_residual.training.trackers import Tracker
from base_residual.training.trainer import Trainer

BRDEPTH = f"{sys.executable} -m base_residual"
FEW = "--rooms 1 --val-rooms 1 --test-rooms 1 --poses 1 --output-size 16 --max-depth 2"
KILLED = "DataLoader worker (pid 7) is killed by signal: Killed. "


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "MPL"))}
    path = {"PYTHONPATH": str(Path(__file__).parents[1])}
    return subprocess.run(
        line, shell=True, cwd=folder, env=own | path | environment, capture_output=True, text=True, check=False
    )


def test_closed_streams_do_not_matter(tmp_path: Path) -> None:
    done = shell(f"{BRDEPTH} simulate rooms {FEW} <&- >&- 2>&-", tmp_path)
    assert done.returncode == 0
    assert len(list(tmp_path.glob("rooms/*/audio/*.wav"))) == 3
    assert not any(b"Rooms:" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_for_the_output_is_one_sentence(tmp_path: Path) -> None:
    done = shell(f"{BRDEPTH} simulate rooms {FEW} >/dev/full", tmp_path)
    assert done.returncode == 2
    assert done.stderr == "Error: No space left on device.\n"
    assert (tmp_path / "rooms" / "rooms.json").exists()


def test_every_help_is_there_without_docstrings(tmp_path: Path) -> None:
    done = shell(f"{sys.executable} -OO -m base_residual --help", tmp_path)  # without what -O leaves out, too
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("train", "check-data", "130"))


@pytest.mark.parametrize("number", TERMINATION)
def test_a_termination_signal_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: int) -> None:
    before = signal.getsignal(number)
    signal.signal(number, signal.SIG_DFL)
    monkeypatch.setattr("base_residual.models.factory.load_checkpoint", lambda *_: os.kill(os.getpid(), number))
    done = CliRunner().invoke(app, ["eval", str(tmp_path / "best.safetensors")])
    assert (done.exit_code, done.stderr) == (130, "Stopped. What was finished is kept.\n")
    assert signal.getsignal(number) is signal.SIG_DFL
    signal.signal(number, before)


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no terminal closes here")
def test_nohup_is_heeded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible() as interrupted, terminable():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupted.is_set()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


READ = "import sys; from pathlib import Path; from base_residual.acoustics.recordings import read_echo; "


def test_a_name_that_the_systems_encoding_lacks_is_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "é.wav", np.zeros((90, 2)), 44_100)
    line = f"{sys.executable} -c '{READ} print(read_echo(Path(sys.argv[1]))[0].frames)' é.wav"
    done = shell(line, tmp_path, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert done.stdout == "90\n", done.stderr


def test_a_name_that_cannot_be_encoded_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def opens(*_: object) -> None:
        "é".encode("ascii")

    monkeypatch.setattr("base_residual.models.factory.load_checkpoint", opens)
    done = CliRunner().invoke(app, ["eval", str(tmp_path / "best.safetensors")])
    assert done.exit_code == 2
    assert "'é' has characters that this system's encoding, ascii, lacks. Set LC_ALL=C.UTF-8" in done.stderr


DRAW = """
import hashlib, sys
import numpy as np
from base_residual.plots.figures import Panel, as_png, curves_figure, decomposition_figure, depth_colours
depth = np.linspace(1, 3, 16).reshape(4, 4)
print(depth_colours(depth).tolist())
print(hashlib.sha256(as_png(curves_figure({"total": [2, 1]}, {"final": [3.0, 1.5]}, "$a_b"))).hexdigest())
print(hashlib.sha256(as_png(decomposition_figure([Panel(depth, depth - 2, depth, None, "$a_b")]))).hexdigest())
print([name for name in sys.modules if "pyplot" in name])
"""


def test_no_setting_of_matplotlib_matters_to_a_picture(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nbackend: nonsense\nfigure.dpi: 7\naxes.facecolor: red\n")
    (tmp_path / "draw.py").write_text(DRAW)
    plain = shell(f"{sys.executable} {tmp_path / 'draw.py'}", Path("/"))
    others = shell(f"{sys.executable} draw.py", tmp_path, MPLBACKEND="module://matplotlib_inline.nowhere")
    assert plain.stdout == others.stdout, others.stderr
    assert plain.stdout.endswith("[]\n"), plain.stderr


def test_a_home_that_cannot_be_written_to_is_nothing_to_talk_about(tmp_path: Path) -> None:
    (tmp_path / "draw.py").write_text(DRAW)
    (tmp_path / "home").touch()  # a file, in which nobody can make a folder
    done = shell(f"{sys.executable} draw.py", tmp_path, HOME=str(tmp_path / "home"))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("drawn")
def test_a_programs_own_style_is_neither_used_nor_changed() -> None:
    depth = np.linspace(1, 3, 16).reshape(4, 4)

    def draw() -> bytes:
        curves = curves_figure({"total": [2, 1]}, {"final": [3.0, 1.5]})
        return as_png(curves) + as_png(decomposition_figure([Panel(depth, depth - 2, depth, None, "a")]))

    plain = draw()
    with matplotlib.rc_context({"font.size": 40, "savefig.dpi": 7, "axes.grid": True}):
        assert draw() == plain
        assert matplotlib.rcParams["font.size"] == 40


@pytest.mark.parametrize("error", [SystemExit(1), OSError(28, "No space left on device")])
def test_a_training_goes_on_when_nobody_reads(
    error: BaseException, tiny: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    tracker = ConsoleTracker(SimpleNamespace(print=fails))  # type: ignore[arg-type]
    rooms = {"simulation": {"train_rooms": 8, "val_rooms": 1, "test_rooms": 1}}
    with caplog.at_level(logging.WARNING):
        Trainer(tiny(rooms), trackers=[tracker]).fit()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("The output cannot be written (")


def test_a_reading_process_that_is_killed_is_one_sentence_wherever_it_is_noticed(tiny: Callable[..., Config]) -> None:
    class Noticing(Tracker):
        def step(self, epoch: int, done: int, steps: int) -> None:
            raise RuntimeError(KILLED)

    with pytest.raises(DataError, match="was ended from outside"):
        Trainer(tiny(), trackers=[Noticing()]).fit()
    with pytest.raises(DataError, match="was ended from outside"), readers_in_words():
        raise RuntimeError(KILLED)
    with pytest.raises(RuntimeError, match="another"), readers_in_words():
        raise RuntimeError("another")


def test_a_script_without_a_guard_is_told_what_it_lacks(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "spawn")
    for error in (RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly"), BrokenPipeError(32, "Broken pipe")):
        with pytest.raises(DataError, match='if __name__ == "__main__":'):
            list(read_batches(failing(error)))
    with pytest.raises(DataError, match="was ended from outside"):
        list(read_batches(failing(RuntimeError(KILLED))))
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(SystemExit) as ended:  # what such a process would otherwise train is trained once
        Trainer(tiny(), trackers=[]).fit()
    assert ended.value.code == 1


def failing(error: Exception):  # type: ignore[no-untyped-def]
    raise error
    yield
