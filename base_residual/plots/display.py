"""Figures in a notebook; in a script, in the system's own viewer."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

from base_residual.errors import RunError
from base_residual.plots.figures import as_png

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
            "base_residual.plots.figures.save_figure."
        )


def _in_notebook() -> bool:
    """Return whether the code runs in a notebook's kernel; IPython in a terminal has none and draws nothing."""
    core = sys.modules.get("IPython.core.getipython")
    shell = core.get_ipython() if core is not None else None
    return shell is not None and hasattr(shell, "kernel")
