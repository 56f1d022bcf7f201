"""The curves of a run: its losses and its validation rmse over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from base_residual.losses import LOSS_NAMES
from base_residual.plots.figures import curves_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from base_residual.config.run_layout import Record

RMSE_CURVES = {"final": "val/rmse", "base alone": "val/base_rmse"}


def history_figure(history: Sequence[Record], title: str = "") -> Figure:
    """Draw the curves of a run.

    Args:
        history: one record per epoch, as in metrics.jsonl.
        title: of the figure.
    """
    losses = {name: [record[f"train/loss_{name}"] for record in history] for name in LOSS_NAMES}
    known = {name: key for name, key in RMSE_CURVES.items() if key in history[0]}
    return curves_figure(losses, {name: [record[key] for record in history] for name, key in known.items()}, title)
