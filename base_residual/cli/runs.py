"""The commands of `brdepth` that put finished runs side by side: as tables, and as a page to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from base_residual.cli.help_pages import Command
from base_residual.cli.printer import Printer
from base_residual.cli.shared_options import DeviceOption, JsonOption, QuietOption, RootOption

app = typer.Typer()


@app.command(cls=Command)
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of finished runs.")],
    out: Annotated[
        Path | None,
        typer.Option(help="PNG file for the curves.", show_default="comparison.png; none with --json"),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Put finished runs side by side; a plain U-Net among them is what the others are measured against."""
    from rich.text import Text

    from base_residual.cli.tables import comparison_tables
    from base_residual.evaluation.comparison import compare_runs
    from base_residual.plots.figures import comparison_figure, save_figure

    printer, comparison = Printer(as_json, quiet), compare_runs(runs)
    curves = {name: [run.val_rmse] for name, run in zip(comparison.names, comparison.runs, strict=True)}
    picture = out or (None if as_json else Path("comparison.png"))
    figures, *verdicts = comparison_tables(comparison)
    printer.show(
        figures,
        Text(comparison.reference.test.protocol_line()),
        *verdicts,
        Text("converged: epochs until within 2 % of the run's own best; reached: until the reference's best."),
    )
    if picture:  # which can fail, and then the tables are there
        save_figure(comparison_figure(curves), picture)
        printer.show(f"Picture: {picture}")
    printer.json(comparison.as_dict() | {"picture": picture})


@app.command(cls=Command)
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of finished runs.")],
    out: Annotated[
        Path | None,
        typer.Option(help="HTML file to write.", show_default="report.html in the run's folder, or here for several"),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, max=48, help="Rooms to show, from the best to the worst.")] = 9,
    data_root: RootOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a page to look at: criteria, curves, rooms to drag through and what differs; one file, no network."""
    from base_residual.cli.progress import counting
    from base_residual.config.run_layout import REPORT
    from base_residual.evaluation.comparison import read_runs
    from base_residual.machine import resolve_device
    from base_residual.report.gallery import make_gallery
    from base_residual.report.page import require_extra, write_report

    require_extra()
    printer, comparison = Printer(as_json, quiet), read_runs(runs)
    with counting(printer.progress) as progress:
        gallery = make_gallery(comparison, samples, resolve_device(device), data_root, progress)
    printer.show(*(f"No rooms of {name}: {reason}" for name, reason in gallery.missing.items()))
    path = write_report(comparison, gallery, out or (runs[0] if len(runs) == 1 else Path()) / REPORT)
    size = path.stat().st_size
    printer.json({"report": path, "bytes": size, "missing": gallery.missing})
    printer.show(f"Report: {path} ({size / 1e6:.1f} MB)")
