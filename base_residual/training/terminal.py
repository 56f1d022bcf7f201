"""What the terminal shows while a run works: a line per epoch, and progress."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from base_residual.config.run_layout import Record
from base_residual.config.schema import Config
from base_residual.errors import ConfigError
from base_residual.losses import LOSS_NAMES
from base_residual.plots.console import plain_console
from base_residual.training.trackers import Tracker


def epoch_line(record: Record) -> str:
    """The line that every epoch prints, at most 80 columns wide."""
    total, recon, base, sparse = (record[f"train/loss_{name}"] for name in LOSS_NAMES)
    losses = f"Loss={total:.2f} (recon={recon:.2f}, base={base:.2f}, sparse={sparse:.2f})"
    return f"Epoch {record['epoch']:.0f}: {losses}  val rmse {record['val/rmse']:.3f} m"


class ConsoleTracker(Tracker):
    """The epoch lines, and what is done once before them.

    Args:
        console: where to print.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or plain_console()
        self._told: set[str] = set()
        self._picture: Path | None = None

    def preparing(self, what: str, done: int, total: int) -> None:
        if what not in self._told:
            self._told.add(what)
            self._console.print(f"{what}, once.")

    def start(self, config: Config, run_dir: Path, history: list[Record]) -> None:
        going_on = f", after epoch {len(history)}" if history else ""
        self._console.print(f"Training in {run_dir}{going_on}", soft_wrap=True)

    def picture(self, epoch: int, path: Path) -> None:
        self._picture = path

    def epoch(self, history: list[Record]) -> None:
        self._console.print(epoch_line(history[-1]), soft_wrap=True)
        if len(history) == 1 and self._picture:  # something to look at while the other epochs are made
            self._console.print(f"First picture: {self._picture}", soft_wrap=True)


def terminal_tracker(console: Console | None = None, live: bool | None = None) -> ConsoleTracker:
    """Who tells a terminal how a run goes.

    Args:
        console: where to print; default: standard output.
        live: whether to draw a view of the run below the lines; default: in a terminal that can.

    Raises:
        ConfigError: a view is asked for where there is no terminal.
    """
    from base_residual.training.live import LiveTracker, drawable

    console = console or plain_console()
    if live and not console.file.isatty():
        raise ConfigError("--live draws in a terminal, and the output leads elsewhere. Leave it out to get lines.")
    return LiveTracker(console) if live or (live is None and drawable(console)) else ConsoleTracker(console)


def spoken(seconds: float) -> str:
    """A time in its two largest units."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    for unit, name, smaller, smaller_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // smaller:02d} {smaller_name}"
    return f"{whole} s"
