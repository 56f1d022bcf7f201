"""The tables that the commands print."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from rich import box
from rich.filesize import decimal
from rich.table import Column, Table
from rich.text import Text

from base_residual.config.presets import SPLITS
from base_residual.data.check import Findings
from base_residual.deploy.benchmark import Cost
from base_residual.evaluation import Criterion
from base_residual.evaluation.comparison import Comparison
from base_residual.metrics import Evaluation
from base_residual.training.terminal import spoken

if TYPE_CHECKING:
    from base_residual.data.download import RemoteFile
    from base_residual.training.cost_estimate import Estimate

FEW_RUNS = 3  # of which each has a column of its own in 80


def metrics_table(evaluation: Evaluation, title: str) -> Table:
    """The depth metrics, and the decomposition figures where there are any, as one narrow table."""
    table = Table(
        *("figure", Column("value", justify="right"), "better"),
        title=title,
        title_justify="left",
        min_width=len(title),  # so that it is in one line, where there is room
        box=box.SIMPLE_HEAD,
    )
    for row in evaluation.rows():
        table.add_row(*row)
    return table


def criteria_table(criteria: Sequence[Criterion]) -> Table:
    """The success criteria with their verdicts."""
    table = Table("", "criterion", "figure", title="Success criteria", title_justify="left", box=box.SIMPLE_HEAD)
    for criterion in criteria:
        colour = {True: "green", False: "red", None: "yellow"}[criterion.met]
        table.add_row(Text(criterion.verdict, colour), criterion.name, criterion.figure)
    return table


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
    """Return what a training will cost, at most 78 columns wide, so that each line can be a comment."""
    recordings = estimate.recordings
    step = f"{estimate.step_s:.3g} s for a step of {estimate.batch_size} recordings"
    if recordings and estimate.epoch_s is not None and estimate.total_s is not None:
        data = ", ".join(f"{count:,} {split}" for split, count in recordings.items())
        time = f"{spoken(estimate.total_s)} in all, {spoken(estimate.epoch_s)} an epoch, {step}"
    else:
        data, time = "not there yet, so that only a step can be timed", step
    memory = "unknown here" if estimate.memory_mib is None else f"about {estimate.memory_mib:,.0f} MiB"
    facts = {
        "network": f"{estimate.parameters / 1e6:.2f} M parameters, {estimate.gflops:.2f} GFLOP for one echo",
        "data": data,
        "device": estimate.device,
        "time": f"about {time} ({estimate.time_basis})",
        "memory": f"{memory} ({estimate.memory_basis})",
    }
    return [
        line
        for name, fact in facts.items()
        for line in wrap(fact, 78, initial_indent=f"{name + ':':<9}", subsequent_indent=" " * 9)
    ]


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
