"""The tables that the commands print."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import TYPE_CHECKING

from rich.filesize import decimal

from base_residual.config.presets import SPLITS
from base_residual.data.check import EMISSIONS, WANDERING, Findings, quantiles
from base_residual.deploy.benchmark import Cost, OnnxCost
from base_residual.errors import counted
from base_residual.evaluation import criteria_table
from base_residual.evaluation.comparison import Comparison
from base_residual.plots.tables import Table

if TYPE_CHECKING:
    from base_residual.data.download import RemoteFile
    from base_residual.models.released import Released
    from base_residual.training.cost_estimate import Estimate

FEW_RUNS = 3  # of which each has a column of its own in 80 characters


def cost_table(cost: Cost, title: str) -> Table:
    """Return what a model costs on one device."""
    memory = "not known" if cost.peak_memory_mib is None else f"{cost.peak_memory_mib:,.0f} MiB"
    rows = [
        ("parameters", f"{cost.parameters / 1e6:.2f} M"),
        ("operations for one echo", f"{cost.gflops:.2f} GFLOP"),
        *_latency_rows(cost),
        (f"throughput, {cost.batch_size} at a time", f"{cost.throughput:,.0f} echoes/s"),
        ("peak memory", memory),
        ("device", cost.device),
        ("threads for one echo, for batches", f"{cost.threads_for_one}, {cost.threads}"),
    ]
    return Table(title, ("", ""), rows, right=(1,))


def onnx_cost_table(cost: OnnxCost, title: str) -> Table:
    """Return what an exported model costs in ONNX Runtime."""
    rows = [
        *_latency_rows(cost),
        ("device", cost.device),
        ("threads", f"{cost.threads}"),
    ]
    return Table(title, ("", ""), rows, right=(1,))


def _latency_rows(cost: Cost | OnnxCost) -> list[tuple[str, str]]:
    """Return how long one echo takes, to its depth map and to a scan."""
    scan = "view not known" if cost.scan_median_ms is None else f"{cost.scan_median_ms:.1f} ms"
    return [
        ("latency of one echo, median", f"{cost.latency_median_ms:.1f} ms"),
        ("latency of one echo, 95th percentile", f"{cost.latency_p95_ms:.1f} ms"),
        ("from samples to a scan, median", scan),
    ]


def models_table(models: dict[str, Released]) -> Table:
    """Return the released models, a column each, and their rmse on rooms that they were not trained on."""
    worlds = list(dict.fromkeys(world for model in models.values() for world in model.rmse))
    rows = [
        ("map", *(f"{model.output_size} x {model.output_size}" for model in models.values())),
        ("up to", *(f"{model.max_depth:g} m" for model in models.values())),
        *((f"rmse, {world}", *(_beside_blind(model.rmse.get(world)) for model in models.values())) for world in worlds),
    ]
    return Table("Models in the package", ("", *models), rows)


def _beside_blind(rmse: tuple[float, float] | None) -> str:
    """Return an rmse beside that of what hears nothing; empty where none was taken."""
    return "{:.3f} m of {:.3f}".format(*rmse) if rmse else ""


def estimate_lines(estimate: Estimate) -> list[str]:
    """Return what a training will cost, at most 78 columns wide, so that each line can be a comment."""
    recordings = estimate.recordings
    step = f"{estimate.step_s:.3g} s for a step of {counted(estimate.batch_size, 'recording')}"
    if recordings and estimate.epoch_s is not None and estimate.total_s is not None:
        data = ", ".join(f"{count:,} {split}" for split, count in recordings.items())
        time = f"{spoken(estimate.total_s)} in all, {spoken(estimate.epoch_s)} an epoch, {step}"
    else:
        data, time = f"only a step can be timed. {estimate.uncounted}", step
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


def spoken(seconds: float) -> str:
    """Return a time in its two largest units."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    whole = round(seconds)
    for unit, name, smaller, smaller_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= unit:
            return f"{whole // unit} {name} {whole % unit // smaller:02d} {smaller_name}"
    return f"{whole} s"


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Return the runs side by side first; then what their settings differ in, if they do, and each one's verdicts."""
    tables = [comparison.runs_table()]
    if comparison.differing:
        few = len(comparison.runs) <= FEW_RUNS
        tables.append(comparison.differing_table() if few else long_differing_table(comparison))
    for name, run in zip(comparison.names, comparison.runs, strict=True):
        tables.append(criteria_table(comparison.criteria(run), f"Success criteria: {name}"))
    return tables


def long_differing_table(comparison: Comparison) -> Table:
    """Return the settings that differ, a row for each value: for more runs than there is room for columns."""
    rows = []
    for setting, values in comparison.differing.items():
        given = [str(value) for value in values]
        for value in dict.fromkeys(given):
            having = (name for name, own in zip(comparison.names, given, strict=True) if own == value)
            rows.append((setting, value, ", ".join(having)))
    return Table("What differs", ("setting", "value", "runs"), rows)


def files_table(files: Sequence[RemoteFile]) -> Table:
    """Return what is to be downloaded, and how much that is in all."""
    rows = [(file.name, decimal(file.size)) for file in files]
    total = (counted(len(files), "file"), decimal(sum(file.size for file in files)))
    return Table("", ("file", "size"), [*rows, ("", ""), total], right=(1,))


def findings_table(findings: Findings) -> Table:
    """Return what a dataset holds."""
    rows = []
    for location in sorted({location for location, _ in findings.recordings}):
        counts = (f"{split} {findings.recordings[location, split]}" for split in SPLITS)
        rows.append((location, ", ".join(counts)))
    rates = (f"{rate} ({counted(count, 'file')})" for rate, count in findings.sample_rates.most_common())
    formats = (f"{name} ({counted(count, 'file')})" for name, count in findings.formats.most_common())
    shapes = (
        f"{height} x {width} ({counted(count, 'file')})" for (height, width), count in findings.shapes.most_common()
    )
    rows += [
        ("sample rate (Hz)", ", ".join(rates)),
        ("format", ", ".join(formats)),
        ("depth maps", ", ".join(shapes)),
    ]
    if findings.emissions:
        moments = zip(EMISSIONS, quantiles(findings.emissions), strict=True)
        rows.append(("direct sound", ", ".join(f"{name} at {moment:.4f} s" for name, moment in moments)))
    if (findings.ear_delay_spread or 0) > WANDERING:
        rows.append(
            ("between the ears", "its delay varies: recordings may begin after it; then use audio.emission=first")
        )
    if findings.farthest:
        rows.append(("measured depth", f"{findings.nearest:.3f} to {findings.farthest:.3f} m"))
    rows.append(("invalid pixels", f"{findings.invalid_share:.1%}"))
    for number, count in findings.backgrounds.most_common():
        rows.append((f"{number:g} m", f"stands for 'no measurement' in {count} depth maps"))
    return Table("Dataset", ("", ""), rows)
