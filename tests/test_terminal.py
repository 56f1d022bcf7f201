from __future__ import annotations

import fcntl
import io
import logging
import os
import pty
import re
import select
import struct
import sys
import termios
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nursery import Forked, Nursery
from rich.console import Console
from test_cli import TINY_OPTIONS, brdepth, sentence

from base_residual.cli.main import Notes
from base_residual.config.run_layout import Record
from base_residual.config.schema import Config
from base_residual.evaluation import Criterion, criteria_table
from base_residual.training.terminal import ConsoleTracker, ProgressTracker, epoch_line, terminal_tracker

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


@pytest.fixture(autouse=True)
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")


def test_bars_show_how_far_all_epochs_are_and_the_figures_of_the_last_one(
    tiny: Callable[..., Config], tmp_path: Path
) -> None:
    console = terminal()
    tracker = ProgressTracker(console)
    tracker.preparing("Rendering rooms", 1, 5)
    tracker.start(tiny({"trainer": {"epochs": 4}}), tmp_path, [])
    history: list[Record] = []
    for epoch, rmse in ((1, 1.5), (2, 0.8), (3, 0.9)):
        for step in range(1, 11):
            tracker.step(epoch, step, 10)
        history.append(record(epoch, rmse))
        tracker.epoch(history)
    tracker.step(4, 1, 10)
    tracker._bars.refresh()
    tracker.close()
    lines = [" ".join(line.split()) for line in written(console).splitlines()]
    assert any(
        re.fullmatch(r"Epoch 4 of 4 \S+ 78% [0-9:]+ loss 0.90, rmse 0.900 m, best 0.800 in 2", line) for line in lines
    )
    assert any(re.fullmatch(r"Step 1 of 10 \S+ 10% \S+", line) for line in lines)


def test_a_bar_counts_what_there_is_of_each_split(tiny: Callable[..., Config], tmp_path: Path) -> None:
    tracker = ProgressTracker(terminal())
    for of in (7000, 200):
        tracker.preparing("Preparing recordings", of, of)
    (part,) = tracker._bars.tasks
    tracker.close()
    assert (part.completed, part.total) == (200, 200)


def test_the_lines_stay_what_they_are_above_bars(tiny: Callable[..., Config], tmp_path: Path) -> None:
    console = terminal()
    tracker = ProgressTracker(console)
    tracker.preparing("Rendering rooms", 1, 5)
    tracker.start(tiny(), tmp_path, [])
    tracker.epoch([record(1, 0.5)])
    tracker.close()
    lines = [line.strip() for line in written(console).splitlines()]
    assert epoch_line(record(1, 0.5)) in lines
    assert "Rendering rooms, once." in lines


def test_a_run_that_goes_on_tells_the_time_left_by_its_own_steps(tiny: Callable[..., Config], tmp_path: Path) -> None:
    tracker = ProgressTracker(terminal())
    tracker.start(tiny({"trainer": {"epochs": 4}}), tmp_path, [record(1, 0.5), record(2, 0.4)])
    for step in range(1, 3):
        tracker.step(3, step, 1000)
    tracker.close()
    (whole, _) = tracker._bars.tasks
    assert whole.completed == 2002
    assert sum(sample.completed for sample in whole._progress) == 2


def test_bars_are_drawn_where_a_terminal_can(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(terminal_tracker(terminal()), ProgressTracker)
    assert type(terminal_tracker(terminal(), live=False)) is ConsoleTracker
    assert type(terminal_tracker(Console(file=io.StringIO(), force_terminal=True))) is ConsoleTracker  # FORCE_COLOR
    assert type(terminal_tracker(Console(file=io.StringIO()))) is ConsoleTracker
    monkeypatch.setenv("TERM", "dumb")
    assert type(terminal_tracker(terminal())) is ConsoleTracker
    assert isinstance(terminal_tracker(terminal(), live=True), ProgressTracker)


def test_bars_that_are_asked_for_need_a_terminal() -> None:
    assert "--live draws in a terminal" in sentence(brdepth("train", *TINY_OPTIONS, "--live", code=2))


def test_a_warning_goes_to_where_standard_error_leads_by_then(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes()
    elsewhere = io.StringIO()
    monkeypatch.setattr(sys, "stderr", elsewhere)
    notes.emit(logging.makeLogRecord({"msg": "silent.wav is silent"}))
    assert elsewhere.getvalue() == "silent.wav is silent\n"


IN_TERMINAL = """
import os
for stream in range(3):
    os.dup2(os.open({!r}, os.O_RDWR), stream)
import base_residual.__main__
"""


def test_a_run_in_a_terminal_is_drawn_without_colours_where_none_are_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nursery: Nursery
) -> None:
    ours, theirs = pty.openpty()  # a real terminal of 80 columns
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    for name in ("COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_COLOR", "1")
    words = ("train", *TINY_OPTIONS, "--results-dir", tmp_path)
    process = Forked(nursery, tmp_path / "said", IN_TERMINAL.format(os.ttyname(theirs)), *words)
    written = b""
    while process.poll() is None or select.select([ours], [], [], 0)[0]:
        if select.select([ours], [], [], 0.1)[0]:
            written += os.read(ours, 65_536)
    os.close(theirs)
    os.close(ours)
    output = written.decode()
    assert process.returncode == 0, output
    assert output.count("\x1b[?25l") == output.count("\x1b[?25h") == 1  # the cursor is back
    assert "Epoch 2 of 2" in CODES.sub("", output)
    lines = [line.strip() for line in CODES.sub("", output).splitlines()]  # bars go back to a line's beginning, too
    printed = re.compile(
        r"Epoch 2: Loss=\d+\.\d\d \(recon=\d+\.\d\d, base=\d+\.\d\d, sparse=\d+\.\d\d\)  val rmse .* m"
    )
    assert any(printed.fullmatch(line) for line in lines)
    assert "Run folder: " in output.split("\x1b[?25h")[1]
    assert not COLOURS.search(output)


def test_colours_are_for_terminals_whose_owner_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def printed(file: io.StringIO) -> str:
        Console(file=file, width=80, highlight=False).print(criteria_table([Criterion("first", True, "1 m")]).to_rich())
        return file.getvalue()

    assert COLOURS.search(printed(Terminal()))
    assert "\x1b" not in printed(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not COLOURS.search(printed(Terminal()))
    assert "\x1b" not in brdepth("--help")
