"""One page for finished runs: criteria, curves, rooms and settings in an HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from importlib.util import find_spec
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from base_residual.errors import MissingExtraError, counted
from base_residual.evaluation.blind import blind_lines
from base_residual.evaluation.comparison import Comparison, FinishedRun
from base_residual.files.atomic import write_whole
from base_residual.losses import LOSS_NAMES
from base_residual.plots.figures import DEPTH_COLOURS, HOLE, SIGNED_COLOURS, standard_style
from base_residual.plots.tables import Table
from base_residual.report.gallery import Gallery
from base_residual.version import __version__

# Readable on white and on black, told apart without colour by dashes and markers; one per run. After the last, the
# same colours have other dashes and markers.
COLOURS = ("#2b83ba", "#d55e00", "#009e73", "#b5489a", "#8a7a00", "#7a6fd0")
DASHES = ("solid", "dashed", "dotted")  # as CSS and the plotting library both call them
MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "x")
INK, GRID = "#444444", "#e5e5e5"  # report.js has the page's own colours in their place, dark ones in the dark
EXPLAINED = {
    "ahead": "share by which rmse lies below the reference's",
    "gain": "share by which the residual lowers the rmse of the base",
    "converged": "epochs until within 2 % of the run's own best validation rmse",
    "reached": "epochs until the reference's best validation rmse",
}


class Line(NamedTuple):
    """One curve of a chart: a value for each epoch, from 1."""

    name: str
    values: Sequence[float]
    style: int


class Chart(NamedTuple):
    """Curves over the epochs; `key` is the name of its place in the page, `item` what the plotting library draws."""

    key: str
    title: str
    lines: list[Line]
    item: dict[str, Any]

    @property
    def numbers(self) -> Table:
        """Return the same as numbers, for those who cannot see it."""
        epochs = zip_longest(*(line.values for line in self.lines))
        rows = [
            (str(epoch), *("" if value is None else f"{value:.4f}" for value in values))
            for epoch, values in enumerate(epochs, start=1)
        ]
        return Table(self.title, ("epoch", *(line.name for line in self.lines)), rows)


def require_extra() -> None:
    """Refuse, before anything is computed, where a report cannot be drawn.

    Raises:
        MissingExtraError: bokeh is not installed.
    """
    if not find_spec("bokeh"):
        raise MissingExtraError("report", "report")


def write_report(comparison: Comparison, gallery: Gallery, path: Path) -> Path:
    """Write the page for one or more runs.

    Args:
        comparison: the runs.
        gallery: rooms of them.
        path: HTML file; whole or not at all.

    Raises:
        MissingExtraError: bokeh is not installed.
        RunError: the file cannot be written.
    """
    require_extra()
    from bokeh.resources import Resources
    from jinja2 import Environment, PackageLoader, StrictUndefined

    page = Environment(
        loader=PackageLoader("base_residual.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.policies["json.dumps_kwargs"] = {"sort_keys": False}  # the plotting library refers back to what came before
    runs = list(zip(comparison.names, comparison.runs, strict=True))
    text = page.get_template("report.html").render(
        version=__version__,
        library=Resources(mode="inline", components=["bokeh"]).render_js(),
        comparison=comparison,
        heading=_heading(comparison),
        runs=runs,
        protocol=comparison.reference.test.protocol_line(),
        explained=EXPLAINED,
        blind_lines=blind_lines,
        counted=counted,
        figures=_figures_table(comparison),
        charts=_charts(runs),
        colours=COLOURS,
        dashes=DASHES,
        gallery=gallery,
        gallery_data=asdict(gallery) | {"palettes": _palettes()},
    )
    write_whole(path, text)
    return path


def _heading(comparison: Comparison) -> str:
    """Return what the runs are, in words."""
    words = [run.config.in_words for run in comparison.runs]
    return words[0] if len(words) == 1 else f"{len(words)} runs compared: {', '.join(comparison.names)}"


def _figures_table(comparison: Comparison) -> Table:
    """Return every figure of the test split, a column for each run; empty where a run has no such figure."""
    figures = [{name: (value, better) for name, value, better in run.test.rows()} for run in comparison.runs]
    every = {name: better for table in figures for name, (_, better) in table.items()}
    rows = [
        (name, better, *(table[name][0] if name in table else "" for table in figures))
        for name, better in every.items()
    ]
    return Table("Test split", ("figure", "better", *comparison.names), rows)


def _charts(runs: Sequence[tuple[str, FinishedRun]]) -> dict[str, list[Chart]]:
    """Return the page's charts by section; a section without anything to show is empty."""

    def curves(key: str) -> list[Line]:
        return [
            Line(name, [record[key] for record in run.history], style)
            for style, (name, run) in enumerate(runs)
            if key in run.history[0]
        ]

    residual = curves("val/residual_abs_mean")
    losses = []
    for place, (name, run) in enumerate(runs):
        terms = LOSS_NAMES if run.test.decomposition else LOSS_NAMES[:1]
        lines = [
            Line(term, [record[f"train/loss_{term}"] for record in run.history], style)
            for style, term in enumerate(terms)
        ]
        losses.append(_chart(f"loss-{place}", f"Training loss of {name}", lines, "loss (m)", from_zero=True))
    return {
        "rmse": [_chart("rmse", "Validation rmse", curves("val/rmse"), "val/rmse (m)")],
        "residual": [_chart("residual", "Size of the residual", residual, "mean |residual| (m)", from_zero=True)]
        if residual
        else [],
        "losses": losses,
    }


def _chart(key: str, title: str, lines: list[Line], unit: str, *, from_zero: bool = False) -> Chart:
    """Draw curves; the legend is the page's, which wraps on a phone and takes the keyboard."""
    from bokeh.core.types import ID
    from bokeh.embed import json_item
    from bokeh.models import BasicTicker, HoverTool
    from bokeh.plotting import figure

    plot = figure(
        height=320,
        sizing_mode="stretch_width",
        output_backend="svg",
        tools="",
        toolbar_location=None,
        x_axis_label="epoch",
        y_axis_label=unit,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
    )
    for place, line in enumerate(lines):
        colour, again = COLOURS[line.style % len(COLOURS)], line.style + line.style // len(COLOURS)
        dash, marker = (kind[again % len(kind)] for kind in (DASHES, MARKERS))
        source: Any = {
            "epoch": list(range(1, len(line.values) + 1)),
            "value": [round(value, 5) for value in line.values],
            "name": [line.name] * len(line.values),
        }
        drawn = plot.line("epoch", "value", source=source, color=colour, line_dash=dash, line_width=2)
        points = plot.scatter("epoch", "value", source=drawn.data_source, color=colour, marker=marker, size=6)
        drawn.name = points.name = f"{key}-{place}"
    plot.add_tools(HoverTool(tooltips=[("", "@name"), ("epoch", "@epoch"), (unit, "@value{0.0000}")]))
    if from_zero:
        plot.y_range.start = 0  # type: ignore[attr-defined]
    plot.xaxis.ticker = BasicTicker(min_interval=1)
    plot.grid.grid_line_color = GRID
    for axis in plot.axis:
        axis.axis_line_color = axis.major_tick_line_color = INK
        axis.minor_tick_line_color = None
        axis.axis_label_text_color = axis.major_label_text_color = INK
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font = axis.major_label_text_font = "sans-serif"
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "13px"
    return Chart(key, title, lines, dict(json_item(plot, ID(f"chart-{key}"))))


def _palettes() -> dict[str, Any]:
    """Return the colours of `visualize`, as 256 red, green and blue values each."""
    with standard_style() as matplotlib:
        from matplotlib.colors import to_rgb

        def table(name: str) -> list[list[int]]:
            colours: list[list[int]] = matplotlib.colormaps[name](np.arange(256), bytes=True)[:, :3].tolist()
            return colours

        return {
            "depth": table(DEPTH_COLOURS),
            "signed": table(SIGNED_COLOURS),
            "hole": [round(255 * part) for part in to_rgb(HOLE)],
        }
