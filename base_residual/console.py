"""What the terminal shows: progress and a line per epoch while a run works, tables when it is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from base_residual.compare import Comparison
from base_residual.config import Config
from base_residual.data.check import Findings
from base_residual.errors import ConfigError
from base_residual.evaluation import Criterion, Evaluation
from base_residual.metrics import DEPTH_METRICS
from base_residual.output import plain_console
from base_residual.presets import SPLITS
from base_residual.speed import Cost
from base_residual.tracking import Record, Tracker

if TYPE_CHECKING:
    from base_residual.data.download import RemoteFile
    from base_residual.estimate import Estimate

FEW_RUNS = 3  # of which each has a column of its own in 80
IN_METRES = ("rmse", "mae", "base_positive", "base_rmse", "residual_abs_mean")
HEALTHY = {
    "base_positive": ">= 0",
    "base_smoothness": "below 0.25",
    "base_rmse": "above rmse",
    "residual_abs_mean": "< 1 m, not 0",
    "residual_gain": "> 0",
    "residual_detail_corr": "> 0",
    "clamped_share": "small",
}


def epoch_line(record: Record) -> str:
    """The line that every epoch prints, at most 80 columns wide."""
    total, recon, base, sparse = (record[f"train/loss_{name}"] for name in ("total", "recon", "base", "sparse"))
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
    from base_residual.live import LiveTracker, drawable

    console = console or plain_console()
    if live and not console.file.isatty():
        raise ConfigError("--live draws in a terminal, and the output leads elsewhere. Leave it out to get lines.")
    return LiveTracker(console) if live or (live is None and drawable(console)) else ConsoleTracker(console)


def working(console: Console, in_bytes: bool = False) -> Progress:
    """A progress bar that goes away when it is done and shows nothing where there is no terminal."""
    amount = DownloadColumn() if in_bytes else MofNCompleteColumn()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=30), amount, TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal or console.quiet)


@contextmanager
def counting(console: Console, in_bytes: bool = False) -> Iterator[Callable[[str, int, int], None]]:
    """A progress bar as a function of what is being done, how many are done, and of how many."""
    with working(console, in_bytes) as progress:
        task = progress.add_task("Starting", total=None)
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)


def figure_rows(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    """Each figure of an evaluation: its name, its value with the unit, and which values are the better ones."""
    better = {name: "higher" if name.startswith("delta") else "lower" for name in DEPTH_METRICS} | HEALTHY
    figures = {name: evaluation.metrics[name] for name in DEPTH_METRICS} | evaluation.decomposition
    return [(name, f"{value:.4f}{' m' if name in IN_METRES else ''}", better[name]) for name, value in figures.items()]


def metrics_table(evaluation: Evaluation, title: str) -> Table:
    """The depth metrics, and the decomposition figures where there are any, as one narrow table."""
    table = Table(
        *("figure", Column("value", justify="right"), "better"),
        title=title,
        title_justify="left",
        min_width=len(title),  # so that it is in one line, where there is room
        box=box.SIMPLE_HEAD,
    )
    for row in figure_rows(evaluation):
        table.add_row(*row)
    return table


def protocol_line(evaluation: Evaluation) -> str:
    """How the figures were taken, and over how many images."""
    images, without = evaluation.metrics["images"], evaluation.metrics["images_without_depth"]
    left_out = f", {without:.0f} without a measured pixel left out" if without else ""
    return f"{images:.0f} images{left_out}: {evaluation.protocol.sentence()}."


def criteria_table(criteria: Sequence[Criterion]) -> Table:
    """The success criteria with their verdicts."""
    table = Table("", "criterion", "figure", title="Success criteria", title_justify="left", box=box.SIMPLE_HEAD)
    for criterion in criteria:
        colour = {True: "green", False: "red", None: "yellow"}[criterion.met]
        table.add_row(Text(criterion.verdict, colour), criterion.name, criterion.figure)
    return table


def blind_lines(rmse: float, blind: dict[str, float]) -> list[str]:
    """How far a model is ahead of the predictions that hear nothing."""
    names = {"mean_map": "the mean depth map of the training set", "constant": "the best constant of the training set"}
    lines = []
    for name, score in blind.items():
        ahead = 1 - rmse / score if score > 0 else float("-inf")
        verdict = f"{ahead:.1%} lower" if ahead > 0 else f"NOT lower, {rmse:.3f} m"
        lines.append(f"Against {names[name]} (rmse {score:.3f} m): {verdict}.")
    return lines


def cost_table(cost: Cost, title: str) -> Table:
    """What a model costs on one device."""
    table = Table(
        "", Column("", justify="right"), title=title, title_justify="left", box=box.SIMPLE_HEAD, show_header=False
    )
    memory = "not known" if cost.peak_memory_mib is None else f"{cost.peak_memory_mib:,.0f} MiB"
    table.add_row("parameters", f"{cost.parameters / 1e6:.2f} M")
    table.add_row("operations for one echo", f"{cost.gflops:.2f} GFLOP")
    table.add_row("latency of one echo, median", f"{cost.latency_median_ms:.1f} ms")
    table.add_row("latency of one echo, 95th percentile", f"{cost.latency_p95_ms:.1f} ms")
    table.add_row(f"throughput, {cost.batch_size} at a time", f"{cost.throughput:,.0f} echoes/s")
    table.add_row("peak memory", memory)
    table.add_row("device", cost.device)
    table.add_row("threads", str(cost.threads))
    return table


def estimate_lines(estimate: Estimate) -> list[str]:
    """What a training will cost, at most 78 columns wide, so that each line can be a comment."""
    recordings = estimate.recordings
    step = f"{estimate.step_s:.3g} s for a step of {estimate.batch_size} recordings"
    if recordings and estimate.epoch_s is not None and estimate.total_s is not None:
        data = ", ".join(f"{count:,} {split}" for split, count in recordings.items())
        time = f"{spoken(estimate.total_s)} in all, {spoken(estimate.epoch_s)} an epoch, {step}"
    else:
        data, time = "not there yet, so that only a step can be timed", step
    facts = {
        "network": f"{estimate.parameters / 1e6:.2f} M parameters, {estimate.gflops:.2f} GFLOP for one echo",
        "data": data,
        "device": estimate.device,
        "time": f"about {time} ({estimate.time_basis})",
        "memory": f"about {estimate.memory_mib:,.0f} MiB ({estimate.memory_basis})",
    }
    return [
        line
        for name, fact in facts.items()
        for line in wrap(fact, 78, initial_indent=f"{name + ':':<9}", subsequent_indent=" " * 9)
    ]


def spoken(seconds: float) -> str:
    """A time in its two largest units."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    for unit, name, smaller, smaller_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // smaller:02d} {smaller_name}"
    return f"{whole} s"


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Runs side by side first; then what their settings differ in, if they do, and the verdicts on each of them."""
    reference, names = comparison.reference, comparison.names
    against = names[comparison.runs.index(reference)]
    rows = [comparison.row(run) for run in comparison.runs]
    columns = [
        Column("run", overflow="fold"),
        *(Column(name, justify="right", no_wrap=True, min_width=len(name)) for name in rows[0]),
    ]
    table = Table(
        *columns,
        title=f"Test split, against {against}",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        collapse_padding=True,
    )
    for name, row in zip(names, rows, strict=True):
        table.add_row(name, *row.values())
    wide = len(names) <= FEW_RUNS
    columns = [Column(name, overflow="fold") for name in ("setting", *(names if wide else ("value", "runs")))]
    differing = Table(*columns, title="What differs", title_justify="left", box=box.SIMPLE_HEAD)
    for setting, values in comparison.differing.items():
        given = [str(value) for value in values]
        if wide:
            differing.add_row(setting, *given)
            continue
        for value in dict.fromkeys(given):
            having = (name for name, own in zip(names, given, strict=True) if own == value)
            differing.add_row(setting, value, ", ".join(having))
    tables = [table, differing] if comparison.differing else [table]
    for name, run in zip(names, comparison.runs, strict=True):
        verdicts = criteria_table(comparison.criteria(run))
        verdicts.title = f"Success criteria: {name}"
        tables.append(verdicts)
    return tables


def files_table(files: Sequence[RemoteFile]) -> Table:
    """What is to be downloaded."""
    total = decimal(sum(file.size for file in files))
    columns = Column("file", footer=f"{len(files)} files"), Column("size", footer=total, justify="right")
    table = Table(*columns, box=box.SIMPLE_HEAD, show_footer=True)
    for file in files:
        table.add_row(file.name, decimal(file.size))
    return table


def findings_table(findings: Findings) -> Table:
    """What a dataset holds."""
    table = Table("", "", title="Dataset", title_justify="left", box=box.SIMPLE_HEAD, show_header=False)
    for location in sorted({location for location, _ in findings.recordings}):
        counts = (f"{split} {findings.recordings[location, split]}" for split in SPLITS)
        table.add_row(location, ", ".join(counts))
    rates = (f"{rate} ({count} files)" for rate, count in findings.sample_rates.most_common())
    formats = (f"{name} ({count} files)" for name, count in findings.formats.most_common())
    table.add_row("sample rate (Hz)", ", ".join(rates))
    table.add_row("format", ", ".join(formats))
    shapes = (f"{height} x {width} ({count} files)" for (height, width), count in findings.shapes.most_common())
    table.add_row("depth maps", ", ".join(shapes))
    if findings.farthest:
        table.add_row("measured depth", f"{findings.nearest:.3f} to {findings.farthest:.3f} m")
    table.add_row("invalid pixels", f"{findings.invalid_share:.1%}")
    if findings.shared:
        table.add_row("in several splits", f"{findings.shared} recordings: a test on what was trained on")
    return table
