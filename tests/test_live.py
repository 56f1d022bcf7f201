from __future__ import annotations

import fcntl
import io
import logging
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from test_cli import TINY_OPTIONS, brdepth, sentence

from base_residual.cli.main import Notes
from base_residual.config.run_layout import Record
from base_residual.config.schema import Config
from base_residual.evaluation import Criterion, criteria_table
from base_residual.training import live
from base_residual.training.live import LiveTracker, Losses, Pace, Sparkline, drawable
from base_residual.training.terminal import ConsoleTracker, epoch_line, terminal_tracker

COLOURS = re.compile(r"\x1b\[(?:[0-9]+;)*(?:3[0-9]|4[0-9]|9[0-7])(?:;[0-9]+)*m")
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def terminal(width: int = 80, **options: Any) -> Console:
    return Console(file=Terminal(), width=width, height=24, highlight=False, **options)


def written(console: Console) -> str:
    """All that went to a console, without control codes."""
    assert isinstance(console.file, io.StringIO)
    return CODES.sub("", console.file.getvalue())


def record(epoch: int, rmse: float) -> Record:
    losses = {"train/loss_total": 0.9, "train/loss_recon": 0.6, "train/loss_base": 0.7, "train/loss_sparse": 0.1}
    return {"epoch": epoch, **losses, "val/rmse": rmse}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time by which a view goes, in seconds."""
    monkeypatch.setenv("TERM", "xterm-256color")
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(live, "monotonic", lambda: now.seconds)
    return now


@pytest.mark.parametrize("width", [70, 80, 120])
def test_a_view_shows_progress_losses_rmse_the_best_epoch_and_the_time_left(
    width: int, clock: SimpleNamespace, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    console = terminal(width)
    tracker = LiveTracker(console)
    tracker.start(tiny({"trainer": {"epochs": 4}}), tmp_path, [])
    history: list[Record] = []
    for epoch, rmse in ((1, 1.5), (2, 0.8), (3, 0.9)):
        for step in range(1, 11):
            clock.seconds += 2
            tracker.step(epoch, step, 10)
            tracker.losses(torch.tensor([1.0, 0.5, 0.25, 0.125, 1.0]) * step)
        history.append(record(epoch, rmse))
        tracker.epoch(history)
    tracker.step(4, 1, 10)
    tracker._live.refresh()
    tracker.close()
    panel = written(console).split("╭")[-1].splitlines()[:5]
    text = " ".join(" ".join(panel).split())
    for words in ("Epoch 4 of 4", "78%, 17 s left", "Step 1 of 10", "1 min 00 s so far", "best 0.800 m, epoch 2"):
        assert words in text
    assert "Loss 1.000 recon 0.500 base 0.250 sparse 0.125" in text
    assert "Val rmse 0.900 m █▁▂" in text
    assert {len(line) for line in panel} == {width - 2} | {width - 3}  # the first one lost its corner above


def test_the_epoch_lines_stay_what_they_are_above_a_view(
    clock: SimpleNamespace, tiny: Callable[..., Config], tmp_path: Path
) -> None:
    console = terminal()
    tracker = LiveTracker(console)
    tracker.preparing("Rendering rooms", 1, 5)
    tracker.start(tiny(), tmp_path, [])
    tracker.epoch([record(1, 0.5)])
    tracker.close()
    lines = [line.strip() for line in written(console).splitlines()]
    assert epoch_line(record(1, 0.5)) in lines
    assert "Rendering rooms, once." in lines


def test_a_view_reads_no_losses_while_steps_are_taken(tiny: Callable[..., Config], tmp_path: Path) -> None:
    class Unread(SimpleNamespace):
        def tolist(self) -> list[float]:
            raise AssertionError("somebody waits for the device")

    tracker = LiveTracker(terminal())
    for step in range(1, 4):
        tracker.step(1, step, 3)
        tracker.losses(Unread(device=torch.device("cpu")))  # type: ignore[arg-type]
    tracker.close()


def test_losses_on_a_card_are_shown_once_they_have_arrived(monkeypatch: pytest.MonkeyPatch) -> None:
    arrived = False

    class Event:
        def __init__(self, device: torch.device) -> None:
            assert device.type == "cuda"

        def record(self, stream: str) -> None:
            assert stream == "stream of cuda:1"  # that of the copy, and not of whichever card is the current one

        def query(self) -> bool:
            return arrived

    class OnCard(SimpleNamespace):
        def to(self, device: str, non_blocking: bool) -> torch.Tensor:
            assert (device, non_blocking) == ("cpu", True)
            copies.append(self.values)
            return torch.tensor(self.values)

    def look(*values: float) -> None:
        losses.look(OnCard(device=torch.device("cuda", 1), values=values))  # type: ignore[arg-type]

    copies: list[tuple[float, ...]] = []
    monkeypatch.setattr(torch, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    losses = Losses()
    look(2.0, 1.0, 0.5, 0.25, 1.0)
    look(3.0, 1.0, 0.5, 0.25, 2.0)
    assert losses.means() is None
    assert len(copies) == 1  # nothing is sent for while the first one is under way
    arrived = True
    look(8.0, 4.0, 4.0, 4.0, 4.0)
    assert losses.means() == [2.0, 1.0, 0.5, 0.25]
    look(8.0, 4.0, 4.0, 4.0, 4.0)
    assert losses.means() == [2.0, 1.0, 1.0, 1.0]


def test_steps_that_were_all_left_out_have_no_mean() -> None:
    losses = Losses()
    losses.look(torch.zeros(5))
    assert losses.means() is None


def test_the_time_left_follows_from_the_pace(clock: SimpleNamespace) -> None:
    pace = Pace()
    assert pace.left(10) is None
    clock.seconds = 100  # what comes before the first step does not count
    pace.note(2)
    assert pace.left(10) is None
    clock.seconds = 106
    pace.note(4)
    assert pace.left(10) == pytest.approx(18)
    clock.seconds = 107
    assert pace.left(10) == pytest.approx(17)
    clock.seconds = 200
    assert pace.left(10) == 0
    assert pace.left(4) is None
    assert pace.so_far == 200


def test_a_sparkline_goes_from_the_lowest_to_the_highest_and_averages_what_does_not_fit() -> None:
    def drawn(values: list[float], width: int = 8) -> str:
        console = Console(file=io.StringIO(), width=width)
        console.print(Sparkline(values))
        return written(console).rstrip("\n")

    assert drawn([8, 1, 2, 3, 4, 5, 6, 7]) == "█▁▂▃▄▅▆▇"
    assert drawn([5.0]) == "▁"
    assert drawn([1, 3, 9, 9, 1, 3], width=3) == "▁█▁"


def test_a_view_is_drawn_where_a_terminal_can(clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert drawable(terminal())
    assert isinstance(terminal_tracker(terminal()), LiveTracker)
    assert type(terminal_tracker(terminal(), live=False)) is ConsoleTracker
    assert not drawable(terminal(width=60))
    assert not drawable(Console(file=io.StringIO(), force_terminal=True))  # FORCE_COLOR, into a file
    assert type(terminal_tracker(Console(file=io.StringIO()))) is ConsoleTracker
    monkeypatch.setattr(Terminal, "encoding", "ascii")
    assert not drawable(terminal())
    monkeypatch.setattr(Terminal, "encoding", "utf-8")
    monkeypatch.setenv("TERM", "dumb")
    assert not drawable(terminal())
    assert isinstance(terminal_tracker(terminal(), live=True), LiveTracker)


def test_a_view_that_is_asked_for_needs_a_terminal() -> None:
    assert "--live draws in a terminal" in sentence(brdepth("train", *TINY_OPTIONS, "--live", code=2))


def test_a_warning_goes_to_where_standard_error_leads_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()
    elsewhere = io.StringIO()
    monkeypatch.setattr(sys, "stderr", elsewhere)
    notes.emit(logging.makeLogRecord({"msg": "silent.wav is silent"}))
    assert elsewhere.getvalue() == "silent.wav is silent\n"


def in_terminal(*arguments: object, **environment: str) -> str:
    """What `brdepth` writes into a real terminal of 80 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    settings = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "base_residual", *map(str, arguments)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=settings | {"TERM": "xterm-256color", "OMP_NUM_THREADS": "1"} | environment,
    )
    os.close(theirs)
    output = b""
    try:
        while part := os.read(ours, 65_536):
            output += part
    except OSError:  # how Linux says that the other side is closed
        pass
    os.close(ours)
    assert process.wait(timeout=60) == 0, output.decode()
    return output.decode()


def test_a_run_in_a_terminal_is_drawn_without_colours_where_none_are_wanted(tmp_path: Path) -> None:
    output = in_terminal("train", *TINY_OPTIONS, "--results-dir", tmp_path, NO_COLOR="1")
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 1  # the cursor is back
    assert "╭─ base_residual_simulated" in CODES.sub("", output)
    lines = [line.strip() for line in CODES.sub("", output).splitlines()]  # a view goes back to a line's beginning, too
    printed = re.compile(
        r"Epoch 2: Loss=\d+\.\d\d \(recon=\d+\.\d\d, base=\d+\.\d\d, sparse=\d+\.\d\d\)  val rmse .* m"
    )
    assert any(printed.fullmatch(line) for line in lines)
    assert "Run folder: " in output.split("\x1b[?25h")[1]
    assert not COLOURS.search(output)


def test_colours_are_for_terminals_whose_owner_wants_them(
    clock: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def printed(file: io.StringIO) -> str:
        Console(file=file, width=80, highlight=False).print(criteria_table([Criterion("first", True, "1 m")]).to_rich())
        return file.getvalue()

    assert COLOURS.search(printed(Terminal()))
    assert "\x1b" not in printed(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not COLOURS.search(printed(Terminal()))
    assert "\x1b" not in brdepth("--help")
