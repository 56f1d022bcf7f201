"""What a notebook shows of predictions and results; in a script, the same pictures in the system's own viewer."""

from __future__ import annotations

import io
import sys
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from base_residual.audio import as_float32
from base_residual.console import blind_lines, figure_rows, protocol_line
from base_residual.errors import RunError, ShapeError
from base_residual.visualize import Map, as_png, curves_figure, decomposition_figure, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from base_residual.evaluation import Evaluation
    from base_residual.model import DepthDecomposition
    from base_residual.trainer import FitResult

ROWS = 6  # predictions in one picture; a batch has many


def show(figure: Figure) -> None:
    """Show a figure at once: beneath the cell of a notebook, elsewhere in the system's picture viewer.

    Raises:
        RunError: there is neither.
    """
    from PIL import Image, ImageShow

    png = as_png(figure)
    if _in_notebook():
        from IPython.display import Image as Shown
        from IPython.display import display

        display(Shown(data=png, format="png"))
    elif not ImageShow.show(Image.open(io.BytesIO(png))):
        raise RunError(
            "There is neither a notebook nor a picture viewer to show this in. Write it into a file with "
            "base_residual.visualize.save_figure."
        )


def prediction_figure(parts: DepthDecomposition, gt: Any = None) -> Figure:
    """The first few predictions of a batch, beside the ground truth where it is given.

    Args:
        parts: base, residual and final, (B, 1, S, S) in metres.
        gt: (S, S), (B, S, S) or (B, 1, S, S) in metres, 0 where nothing was measured.

    Raises:
        ShapeError: the ground truth is not of the predictions' shape.
    """
    count, size = parts.final.shape[0], parts.final.shape[-1]
    truth: Sequence[Map] | None = None
    if gt is not None:
        given = as_float32(gt).detach().cpu().numpy()
        if given.size != count * size * size or given.shape[-2:] != (size, size):
            raise ShapeError(f"The ground truth has shape {given.shape}; expected is {(count, 1, size, size)}.")
        truth = list(given.reshape(count, size, size)[:ROWS])
    shown = type(parts)(*(part[:ROWS] for part in parts))
    names = [""] if count == 1 else [f"{number} of {count}" for number in range(1, min(count, ROWS) + 1)]
    return decomposition_figure(panels(shown, truth, names))


def evaluation_html(evaluation: Evaluation) -> str:
    """A table of the figures, and how they were taken."""
    rows = _table(("figure", "value", "better"), figure_rows(evaluation))
    return f"{rows}<p>{escape(protocol_line(evaluation))}</p>"


def result_html(result: FitResult) -> str:
    """A run at a glance: its curves, its figures on the test split, and the success criteria."""
    rmse = result.test.metrics["rmse"]
    lowest = f"validation rmse {result.best['val/rmse']:.3f} m"
    best = f"The best of {len(result.history)} epochs is {result.best_epoch}, {lowest}."
    verdicts = [(criterion.verdict, criterion.name, criterion.figure) for criterion in result.criteria]
    curves = b64encode(as_png(curves_figure(result.history))).decode()
    return "".join(
        [
            f"<p><b>{escape(str(result.run_dir))}</b><br>{escape(best)}</p>",
            f'<img alt="loss and validation rmse over the epochs" style="max-width:100%" '
            f'src="data:image/png;base64,{curves}">',
            "<p><b>Test split</b></p>",
            evaluation_html(result.test),
            *(f"<p>{escape(line)}</p>" for line in blind_lines(rmse, result.blind)),
            "<p><b>Success criteria</b></p>",
            _table(("", "criterion", "figure"), verdicts),
        ]
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table in the notebook's own style."""
    head = "".join(f"<th>{escape(name)}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _in_notebook() -> bool:
    """Whether the code runs in a kernel, which draws what it is given; IPython in a terminal does not."""
    core = sys.modules.get("IPython.core.getipython")
    shell = core.get_ipython() if core is not None else None
    return shell is not None and hasattr(shell, "kernel")
