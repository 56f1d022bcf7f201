"""The terminal's view of a run: a line per epoch, and progress bars beneath the lines."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

from base_residual.config.run_layout import Record, val_rmse
from base_residual.config.schema import Config
from base_residual.errors import ConfigError
from base_residual.losses import LOSS_NAMES
from base_residual.plots.console import plain_console
from base_residual.training.trackers import Tracker

log = logging.getLogger("base_residual")

REMEMBERED = 600.0  # seconds whose pace tells the time that is left; an epoch with its validation fits into them


def epoch_line(record: Record) -> str:
    """Return the line that every epoch prints, at most 80 columns wide."""
    terms = ", ".join(f"{name}={record[f'train/loss_{name}']:.2f}" for name in LOSS_NAMES[1:])
    losses = f"Loss={record['train/loss_total']:.2f} ({terms})"
    return f"Epoch {record['epoch']:.0f}: {losses}  val rmse {record['val/rmse']:.3f} m"


class ConsoleTracker(Tracker):
    """Print the epoch lines, and what is done once before them.

    Args:
        console: where to print; default: standard output.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or plain_console()
        self._told: set[str] = set()
        self._pictured = False
        self._lost = False

    def preparing(self, what: str, done: int, total: int) -> None:
        if what not in self._told:
            self._told.add(what)
            self._print(f"{what}, once.")

    def start(self, config: Config, run_dir: Path, history: list[Record]) -> None:
        going_on = f", after epoch {len(history)}" if history else ""
        self._print(f"Training in {run_dir}{going_on}")

    def picture(self, epoch: int, path: Path) -> None:
        if epoch == 1 and not self._pictured:  # something to look at while the other epochs are made
            self._print(f"First picture: {path}")
        self._pictured = True

    def epoch(self, history: list[Record]) -> None:
        self._print(epoch_line(history[-1]))

    def _print(self, line: str) -> None:
        """Print a line; a run goes on where that cannot be done, since all that it prints is in its folder, too."""
        try:
            self._console.print(line, soft_wrap=True)
        except (OSError, SystemExit) as error:  # Rich ends the program when nobody reads any more
            if not self._lost:
                reason = getattr(error, "strerror", None) or "nobody reads it any more"
                log.warning("The output cannot be written (%s). The training goes on.", reason)
            self._lost = True


class ProgressTracker(ConsoleTracker):
    """Print the epoch lines, and draw two bars beneath them: one for all epochs, one for what is being done.

    The figures beside the bars are those of the last finished epoch: the losses of a step would have to be waited for.

    Args:
        console: a terminal.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._epochs = 0
        self._figures = ""
        self._whole: TaskID | None = None  # the bar of all epochs
        self._part: TaskID | None = None  # the bar beneath it
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[figures]}", markup=False),
            console=console,
            refresh_per_second=2,
            speed_estimate_period=REMEMBERED,
            transient=True,
            # What others print meanwhile, a warning for example, goes above the bars, unless it leads elsewhere.
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )

    def preparing(self, what: str, done: int, total: int) -> None:
        self._bars.start()
        if what not in self._told:
            self._new_part(what, total)
        super().preparing(what, done, total)
        self._show_part(what, done, total)

    def start(self, config: Config, run_dir: Path, history: list[Record]) -> None:
        super().start(config, run_dir, history)
        self._epochs, self._figures = config.trainer.epochs, _figures(history)
        self._new_part("Starting", None)
        self._bars.start()

    def step(self, epoch: int, done: int, steps: int) -> None:
        whole, past = f"Epoch {epoch} of {self._epochs}", (epoch - 1) * steps + done
        if self._whole is None:  # a run that goes on has steps behind it, which tell nothing about its pace
            self._new_part("Starting", steps)
            self._whole = self._bars.add_task(
                whole, completed=past - 1, total=self._epochs * steps, figures=self._figures
            )
        self._bars.update(self._whole, description=whole, completed=past, figures=self._figures)
        if done == 1:
            self._new_part("Starting", steps)
        self._show_part(f"Step {done} of {steps}" if done < steps else "Validating", done)

    def epoch(self, history: list[Record]) -> None:
        self._figures = _figures(history)
        if self._whole is not None:
            self._bars.update(self._whole, figures=self._figures)
        if len(history) == self._epochs:
            self._new_part("Testing", None)
        super().epoch(history)

    def close(self) -> None:
        self._bars.stop()

    def _new_part(self, what: str, total: int | None) -> None:
        """Begin the lower bar anew, with a pace of its own; without a total it only pulses."""
        if self._part is not None:
            self._bars.remove_task(self._part)
        self._part = self._bars.add_task(what, total=total, figures="")

    def _show_part(self, what: str, done: int, total: int | None = None) -> None:
        """Show how far the lower bar is, and of how much if that has changed."""
        if self._part is not None:
            self._bars.update(self._part, description=what, completed=done, total=total)


def _figures(history: list[Record]) -> str:
    """Return the last finished epoch's loss and validation rmse, and the best rmse."""
    if not history:
        return ""
    errors = val_rmse(history)
    best = int(np.argmin(errors))
    loss = history[-1]["train/loss_total"]
    return f"loss {loss:.2f}, rmse {errors[-1]:.3f} m, best {errors[best]:.3f} in {best + 1}"


def terminal_tracker(console: Console | None = None, live: bool | None = None) -> ConsoleTracker:
    """Make the tracker that tells a terminal how a run goes.

    Args:
        console: where to print; default: standard output.
        live: whether to draw bars below the lines; default: in a terminal that can.

    Raises:
        ConfigError: bars are asked for where there is no terminal.
    """
    console = console or plain_console()
    drawable = console.file.isatty()  # Rich takes a file for a terminal where the environment says FORCE_COLOR
    if live and not drawable:
        raise ConfigError("--live draws in a terminal, and the output leads elsewhere. Leave it out to get lines.")
    if live is None:
        live = drawable and console.is_interactive
    return ProgressTracker(console) if live else ConsoleTracker(console)
