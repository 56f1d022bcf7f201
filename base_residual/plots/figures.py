"""Pictures: decomposition panels and training curves."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from base_residual.errors import RunError, printable
from base_residual.files.atomic import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

Map = NDArray[np.floating[Any]]

DEPTH_COLOURS = "viridis"
SIGNED_COLOURS = "RdBu"
REMAINDER_COLOURS = "magma_r"
HOLE = "0.85"  # light grey, where nothing was measured
LOSS_STYLES = ("k-", "C0-", "C2-", "C3-")  # of the loss and its terms
RMSE_STYLES = ("k-", "C2--")  # of the whole prediction and its base
MAX_LABEL = 36  # characters beside a row
MAX_TITLE = 26  # characters above each column
NOT_STYLE = ("backend", "backend_fallback", "interactive", "toolbar", "webagg")  # settings of windows
MIN_SCALE = 0.01  # metres; length of a colour scale at least, so that a tiny residual stays pale
INSIDE = 99.5  # percent of the pixels that a colour scale reaches


@contextmanager
def standard_style() -> Iterator[ModuleType]:
    """Draw with Matplotlib's own settings within the context, whatever files and environment variables here say.

    Yields:
        Matplotlib.

    Raises:
        RunError: Matplotlib cannot read a file of settings, or has no folder for its fonts.
    """
    backend = os.environ.pop("MPLBACKEND", None) if "matplotlib" not in sys.modules else None  # it need not be there
    talk = logging.getLogger("matplotlib")
    level = talk.level
    talk.setLevel(logging.ERROR)  # not of the temporary folder that it takes where no home can be written to
    try:
        import matplotlib
    except (OSError, ValueError) as error:
        raise RunError(
            f"Matplotlib does not start here: {' '.join(str(error).split())}. Mend or move its settings, which are in "
            "a file matplotlibrc, or give it a folder with MPLCONFIGDIR."
        ) from error
    finally:
        talk.setLevel(level)
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    if backend is not None:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend  # for what else the program may draw
    own = {name: value for name, value in matplotlib.rcParamsDefault.items() if name.partition(".")[0] not in NOT_STYLE}
    with matplotlib.rc_context(own):
        yield matplotlib


class Panel(NamedTuple):
    """One row of a decomposition figure: maps (S, S) in metres, and a title; `None` for what is not known."""

    base: Map
    residual: Map
    final: Map
    gt: Map | None
    title: str
    remainder: Map | None = None


def panels(
    parts: Iterable[Tensor], gt: Sequence[Map] | None, titles: Sequence[str], remainder: Tensor | None = None
) -> list[Panel]:
    """Return the rows of a decomposition figure for a batch of predictions.

    Args:
        parts: base, residual and final of a batch, (B, 1, S, S) in metres each.
        gt: measured depth, (S, S) in metres each, 0 where nothing was measured; None if there is none.
        titles: of the rows; there are as many rows as titles.
        remainder: how far off each pixel may be, (B, 1, S, S) in metres; None for a network that is not calibrated.
    """
    base, residual, final = (_maps(part) for part in parts)
    bounds = [None] * len(titles) if remainder is None else _maps(remainder)
    return [
        Panel(base[row], residual[row], final[row], None if gt is None else np.asarray(gt[row]), title, bounds[row])
        for row, title in enumerate(titles)
    ]


def _maps(part: Tensor) -> Map:
    """Return maps (B, 1, S, S) as an array (B, S, S)."""
    maps: Map = part[:, 0].detach().float().cpu().numpy()
    return maps


class Scale(NamedTuple):
    """Where the colour scales of a recording's maps end, in metres: of depth, and of the residual around 0."""

    low: float
    high: float
    reach: float


def colour_scale(row: Panel) -> Scale:
    """Return the colour scales of a row: one spans base, final and ground truth, so that all three show their shapes.

    The ends are percentiles over measured pixels, so that neither a stray pixel nor a prediction in a hole sets them.
    """
    truth = row.gt if row.gt is not None and (row.gt > 0).any() else None
    measured = np.ones_like(row.final, dtype=bool) if truth is None else truth > 0
    depths = [depth[measured] for depth in (row.base, row.final, truth) if depth is not None]
    low = min(float(np.percentile(depth, 100 - INSIDE)) for depth in depths)
    high = max(float(np.percentile(depth, INSIDE)) for depth in depths)
    reach = float(np.percentile(np.abs(row.residual[measured]), INSIDE))
    return Scale(low, max(high, low + MIN_SCALE), max(reach, MIN_SCALE))


def beyond(values: Map, low: float, high: float) -> Literal["neither", "min", "max", "both"]:
    """Return at which ends of a colour scale there are values beyond it, as a colour bar marks it by an arrow."""
    below, above = bool((values < low).any()), bool((values > high).any())
    return "both" if below and above else "min" if below else "max" if above else "neither"


@standard_style()
def depth_colours(depth: Map) -> NDArray[np.uint8]:
    """Return red, green, blue and opacity (..., 4) of depths (...): the pictures' colours, from nearest to farthest."""
    from matplotlib import colormaps

    low, high = depth.min(), depth.max()
    colours: NDArray[np.uint8] = colormaps[DEPTH_COLOURS]((depth - low) / max(high - low, MIN_SCALE), bytes=True)
    return colours


@standard_style()
def decomposition_figure(rows: Sequence[Panel], title: str = "") -> Figure:
    """Draw base, residual, final, remainder and ground truth in metres, one row per recording.

    Base, final and ground truth of a row share one colour scale, which spans all three. The residual is blue where it
    adds depth and red where it takes some away. Its scale is symmetric around zero and fits its own values. That of the
    remainder begins at zero. An arrow at the end of a scale says that some values lie beyond it.

    Args:
        rows: from top to bottom; a column is left out if no row has its map.
        title: of the figure.
    """
    from matplotlib.figure import Figure

    fields = {"base": "base", "residual": "residual", "final": "final", "remainder": "remainder", "ground truth": "gt"}
    names = [name for name, field in fields.items() if any(getattr(row, field) is not None for row in rows)]
    figure = Figure(figsize=(3.1 * len(names), 2.75 * len(rows) + 0.5), dpi=120, layout="constrained")
    axes = figure.subplots(len(rows), len(names), squeeze=False)
    for place, (row, line) in enumerate(zip(rows, axes, strict=True)):
        low, high, reach = colour_scale(row)
        for name, axis in zip(names, line, strict=True):
            values = getattr(row, fields[name])
            axis.set_xticks([])
            axis.set_yticks([])
            if place == 0:
                axis.set_title(name, fontsize=12)
            if values is None:
                axis.axis("off")
                continue
            if name == "residual":
                ends = beyond(values, -reach, reach)
                image = axis.imshow(values, cmap=SIGNED_COLOURS, vmin=-reach, vmax=reach)
            elif name == "remainder":
                most = max(float(np.percentile(values, INSIDE)), MIN_SCALE)
                ends = beyond(values, 0.0, most)
                image = axis.imshow(values, cmap=REMAINDER_COLOURS, vmin=0.0, vmax=most)
            else:
                shown = np.ma.masked_less_equal(values, 0) if name == "ground truth" else values
                ends = beyond(np.ma.compressed(shown), low, high)
                axis.set_facecolor(HOLE)
                image = axis.imshow(shown, cmap=DEPTH_COLOURS, vmin=low, vmax=high)
            bar = figure.colorbar(image, ax=axis, shrink=0.9, pad=0.02, extend=ends)
            bar.ax.tick_params(labelsize=8)
            bar.ax.set_title("m", fontsize=8)
        line[0].set_ylabel(shorten(replace_missing_glyphs(row.title), MAX_LABEL), fontsize=9, parse_math=False)
    if title:
        most = MAX_TITLE * len(names)
        figure.suptitle(shorten(replace_missing_glyphs(title), most), fontsize=13, parse_math=False)
    return figure


def shorten(text: str, most: int) -> str:
    """Shorten a text to at most `most` characters, with an ellipsis in place of its middle."""
    if len(text) <= most:
        return text
    before = most // 2
    return f"{text[:before]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - (most - before - 1) :]}"


def replace_missing_glyphs(name: str) -> str:
    """Replace each character that the figures' font lacks by the replacement character."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))
    return "".join(
        letter if font.get_char_index(ord(letter)) else "\N{REPLACEMENT CHARACTER}" for letter in printable(name)
    )


@standard_style()
def curves_figure(
    losses: Mapping[str, Sequence[float]], rmse: Mapping[str, Sequence[float]], title: str = ""
) -> Figure:
    """Draw the loss and its terms, and validation rmse, over the epochs.

    Args:
        losses: by name, the training loss and then its terms, in metres per epoch.
        rmse: by name, that of the whole prediction and then of its parts, in metres per epoch.
        title: of the figure.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.6), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2)
    for axis, curves, styles in ((left, losses, LOSS_STYLES), (right, rmse, RMSE_STYLES)):
        for (name, values), style in zip(curves.items(), styles, strict=False):
            axis.plot(range(1, len(values) + 1), values, style, marker="o", ms=3, label=name, lw=1.6)
    left.set(xlabel="epoch", ylabel="m", title="training loss and its terms")
    right.set(xlabel="epoch", ylabel="rmse (m)", title="validation")
    for axis in (left, right):
        axis.set_ylim(0, 1.08 * max(float(np.max(line.get_ydata())) for line in axis.lines))
        _tidy_epochs(axis)
    if title:
        figure.suptitle(shorten(replace_missing_glyphs(title), 3 * MAX_TITLE), fontsize=13, parse_math=False)
    return figure


@standard_style()
def comparison_figure(curves: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Draw validation rmse over the epochs, a line per name: the mean of its runs, and the range that they span.

    Args:
        curves: for each name, the validation rmse of one or more runs, in metres per epoch; all of the same length.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), dpi=120, layout="constrained")
    axis = figure.subplots()
    for place, (name, runs) in enumerate(curves.items()):
        values = np.array(runs)  # (runs, epochs)
        epochs = np.arange(1, values.shape[1] + 1)
        line = axis.plot(
            epochs, values.mean(axis=0), f"C{place % 10}o", ms=3, label=replace_missing_glyphs(name), lw=1.8
        )[0]
        line.set_linestyle(("-", "--", ":")[place // 10 % 3])  # the colours repeat after ten
        axis.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.15, lw=0)
    axis.set(xlabel="epoch", ylabel="validation rmse (m)")
    _tidy_epochs(axis)
    return figure


def _tidy_epochs(axis: Axes) -> None:
    """Style a curve over epochs: whole numbers, a pale grid, a legend without a frame, two spines."""
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    for label in axis.legend(frameon=False).get_texts():
        label.set_parse_math(False)  # a run's name may hold a dollar sign
    axis.spines[["top", "right"]].set_visible(False)


@standard_style()
def as_png(figure: Figure) -> bytes:
    """Return a figure as the content of a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    content = io.BytesIO()
    FigureCanvasAgg(figure).print_png(content)
    return content.getvalue()


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG, whole or not at all.

    Raises:
        RunError: the file cannot be written, or its name does not end in .png.
    """
    if path.suffix.lower() != ".png" and not path.is_dir():
        raise RunError(f"{path} would hold a PNG picture. Give a name that ends in .png.")
    write_whole(path, as_png(figure))
    return path
