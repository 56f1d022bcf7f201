"""A run as it learns, drawn below its epoch lines: how far it is, the losses, the validation rmse, the time left."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from base_residual.config.run_layout import Record
from base_residual.config.schema import Config
from base_residual.losses import LOSS_NAMES
from base_residual.training.terminal import ConsoleTracker, spoken

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PER_SECOND = 2  # drawings
NARROWEST = 70  # columns
LEFT, RIGHT = 20, 23  # columns of the outer parts, wide enough for what they hold, so that nothing jumps
BLOCKS = "▁▂▃▄▅▆▇█"


class LiveTracker(ConsoleTracker):
    """The epoch lines, and below them a panel that a thread of its own draws anew twice a second.

    Nothing here waits for the device: the losses of a step are shown once they have arrived.

    Args:
        console: a terminal.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._doing, self._done, self._total, self._pace = "Starting", 0, 0, Pace()
        self._run_name, self._epochs, self._epoch = "", 0, 0
        self._history: list[Record] = []
        self._losses = Losses()
        # What others print meanwhile, a warning for example, goes above the panel, unless it leads elsewhere.
        self._live = Live(
            console=console,
            get_renderable=self._panel,
            refresh_per_second=PER_SECOND,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )

    def preparing(self, what: str, done: int, total: int) -> None:
        if what not in self._told:
            self._pace = Pace()
        super().preparing(what, done, total)
        self._doing, self._done, self._total = what, done, total
        self._pace.note(done)
        self._live.start()

    def start(self, config: Config, run_dir: Path, history: list[Record]) -> None:
        super().start(config, run_dir, history)
        self._run_name, self._epochs, self._epoch = config.run_name, config.trainer.epochs, len(history) + 1
        self._doing, self._done, self._total, self._pace = "Starting", 0, 0, Pace()
        self._history = list(history)
        self._live.start()

    def step(self, epoch: int, done: int, steps: int) -> None:
        self._doing = f"Step {done} of {steps}" if done < steps else "Validating"
        self._epoch, self._done, self._total = epoch, done, steps
        self._pace.note((epoch - 1) * steps + done)

    def losses(self, sums: Tensor) -> None:
        self._losses.look(sums)

    def epoch(self, history: list[Record]) -> None:
        self._history = list(history)
        if len(history) == self._epochs:
            self._doing = "Testing"
        super().epoch(history)

    def close(self) -> None:
        self._live.stop()

    def _panel(self) -> Panel:
        rows = self._training() if self._epochs else self._preparation()
        return Panel(
            Group(*rows),
            title=self._run_name or None,
            title_align="left",
            box=box.ROUNDED,
            border_style="dim",
            width=self._console.width - len("^C"),  # room for what a terminal echoes, which must not begin a new line
        )

    def _preparation(self) -> list[RenderableType]:
        return [row(self._doing, bar(self._done, self._total), left_over(self._done, self._total, self._pace))]

    def _training(self) -> list[RenderableType]:
        past, whole = (self._epoch - 1) * self._total + self._done, self._epochs * self._total
        rows: list[RenderableType] = [
            row(f"Epoch {self._epoch} of {self._epochs}", bar(past, whole), left_over(past, whole, self._pace)),
            row(self._doing, bar(self._done, self._total), f"{spoken(round(self._pace.so_far))} so far"),
        ]
        losses = self._losses.means() or shown_losses(self._history)
        if losses:
            total, recon, base, sparse = losses
            terms = f"recon {recon:.3f}   base {base:.3f}   sparse {sparse:.3f}"
            rows.append(Text(f"{f'Loss {total:.3f}':<{LEFT}} {terms}", no_wrap=True, overflow="ellipsis"))
        if self._history:
            errors = [record["val/rmse"] for record in self._history]
            best = int(np.argmin(errors))
            last = f"Val rmse {errors[-1]:.3f} m"
            rows.append(row(last, Sparkline(errors), f"best {errors[best]:.3f} m, epoch {best + 1}"))
        return rows


def drawable(console: Console) -> bool:
    """Whether a console is a terminal in which lines can be drawn anew, wide enough, and with blocks and bars."""
    able = console.is_interactive and not console.options.ascii_only
    return able and console.file.isatty() and console.width >= NARROWEST


def row(name: str, middle: RenderableType, right: str) -> Table:
    """A line of the panel: its outer parts have fixed widths, the middle takes what is left."""
    columns = Column(width=LEFT, no_wrap=True), Column(ratio=1), Column(width=RIGHT, no_wrap=True)
    table = Table.grid(*columns, padding=(0, 1, 0, 0), expand=True)
    table.add_row(name, middle, right)
    return table


def bar(done: int, total: int) -> RenderableType:
    """How much is done; nothing where it is not known of how much."""
    return ProgressBar(total, done) if total else ""


def left_over(done: int, total: int, pace: Pace) -> str:
    """The share that is done, and the time that the rest takes."""
    left = pace.left(total)
    return (f"{done / total:.0%}" if total else "") + (f", {spoken(round(left))} left" if left is not None else "")


def shown_losses(history: Sequence[Record]) -> list[float] | None:
    """The losses of the last epoch."""
    return [history[-1][f"train/loss_{name}"] for name in LOSS_NAMES] if history else None


class Sparkline:
    """Values as one line of blocks, the lowest one standing out; more than fit are averaged."""

    def __init__(self, values: Sequence[float]) -> None:
        self._values = values

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        groups = np.array_split(self._values, min(len(self._values), options.max_width))
        means = np.array([group.mean() for group in groups])
        low, span = means.min(), np.ptp(means) or 1
        blocks = [BLOCKS[round((len(BLOCKS) - 1) * (mean - low) / span)] for mean in means]
        line = Text("".join(blocks), style="cyan", no_wrap=True)
        line.stylize("green", int(means.argmin()), int(means.argmin()) + 1)
        yield line


class Pace:
    """How fast something goes on, from when it was first and when it was last heard of."""

    def __init__(self) -> None:
        self._began = monotonic()
        self._marks: list[tuple[int, float]] = []  # the first and the last: how many were done, and when

    def note(self, done: int) -> None:
        """That many are done by now."""
        self._marks = [*self._marks[:1], (done, monotonic())]

    @property
    def so_far(self) -> float:
        """Seconds since it began."""
        return monotonic() - self._began

    def left(self, total: int) -> float | None:
        """Seconds that the rest of `total` takes at that pace; None where that cannot be told."""
        marks = self._marks
        if len(marks) < 2 or marks[1][0] <= marks[0][0] or marks[1][0] >= total:
            return None
        (first, began), (done, when) = marks
        return max(0.0, (when - began) / (done - first) * (total - done) - (monotonic() - when))


class Losses:
    """The losses of the epoch at work, as far as they have come from the device; nothing here waits for it."""

    def __init__(self) -> None:
        self._here: Tensor | None = None
        self._coming: tuple[Tensor, torch.Event] | None = None

    def look(self, sums: Tensor) -> None:
        """Take what is there, and send for what is not."""
        if sums.device.type == "cpu":
            self._here = sums
        elif sums.device.type == "cuda":  # elsewhere a copy waits, and the last epoch's losses must do
            import torch

            if self._coming and self._coming[1].query():
                self._here, self._coming = self._coming[0], None
            if self._coming is None:
                copy, event = sums.to("cpu", non_blocking=True), torch.Event(sums.device)
                event.record(torch.cuda.current_stream(sums.device))
                self._coming = copy, event

    def means(self) -> list[float] | None:
        """Total, reconstruction, base and sparsity, per step."""
        if self._here is None:
            return None
        *sums, steps = self._here.tolist()
        return [value / steps for value in sums] if steps else None
