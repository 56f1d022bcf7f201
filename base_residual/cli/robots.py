"""The commands of `brdepth` that take a trained model to a robot: list, predict, export and time it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from base_residual.cli.help_pages import Command
from base_residual.cli.loading import is_given, load_for_command, opinion
from base_residual.cli.printer import Printer
from base_residual.cli.shared_options import (
    CheckpointArgument,
    DeviceOption,
    JsonOption,
    QuietOption,
    completing,
)
from base_residual.config.names import listed
from base_residual.errors import ConfigError

if TYPE_CHECKING:
    from base_residual.models.network import DepthNet

FORMATS = ("onnx",)  # that a checkpoint is exported to
CLOUDS = ("ply",)  # formats of point clouds

app = typer.Typer()


@app.command(cls=Command)
def predict(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[CHECKPOINT|NAME] ECHO.wav",
            help="Two-channel recordings, left ear first, after the checkpoint or the name of a released model, if it "
            "is not to be small. (default: a recording that comes with the package)",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the depth maps and pictures.")] = Path("predictions"),
    points: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(CLOUDS),
            help="Write a point cloud, too: metres, x forward, y left, z up.",
            autocompletion=completing(CLOUDS),
        ),
    ] = None,
    scan: Annotated[
        bool, typer.Option("--scan", help="Write a planar scan, too: JSON by the names of ROS' LaserScan.")
    ] = False,
    parts: Annotated[
        bool, typer.Option("--parts", help="Write base, residual, final and remainder as one .npz, too.")
    ] = False,
    no_picture: Annotated[
        bool, typer.Option("--no-picture", help="Draw nothing; drawing takes most of the time.")
    ] = False,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Predict depth for recordings of your own: a .npy map in metres and a picture each.

    Metres are along the camera's axis, or along each pixel's ray where data.depth_along says so. A second map, the
    remainder, says how far off each pixel may be, if the network is calibrated.
    """
    from base_residual.deploy.predict import Wanted, write_predictions
    from base_residual.machine import cpu_threads, few_threads
    from base_residual.models.released import DEFAULT, find_released

    if points is not None and points not in CLOUDS:
        raise ConfigError(f"Unknown format '{points}'. Known are {listed(points, CLOUDS)}")
    wanted = Wanted(not no_picture, points is not None, scan, parts)
    printer, echoes, checkpoint, truths = Printer(as_json, quiet), files or [], find_released(DEFAULT), None
    if echoes and _is_checkpoint(echoes[0]):
        checkpoint, *echoes = echoes
    model = load_for_command(checkpoint, device).model
    if not echoes:
        echoes, truths = _sample_for(model)
    with cpu_threads(few_threads()):
        written = write_predictions(model, echoes, out, truths, wanted)
    rows = [
        {"recording": echo} | one.files | opinion(one.emission, one.doubts)
        for echo, one in zip(echoes, written, strict=True)
    ]
    level = model.calibration and model.calibration.level
    printer.json({"predictions": rows, "level": level})
    printer.show(*("  ".join(map(str, one.files.values())) for one in written))
    if model.calibration is None:
        printer.show(f"How far off a pixel may be is not known: {checkpoint} is not calibrated (brdepth calibrate).")


def _sample_for(model: DepthNet) -> tuple[list[Path], list[Path] | None]:
    """Return the recording that comes with the package, and what a camera like the model's saw there, if known."""
    from base_residual.models.released import SAMPLE_VIEW, sample

    echo, truth = sample()
    alike = model.camera is not None and model.camera.field_of_view == SAMPLE_VIEW
    return [echo], [truth] if alike else None  # another camera would have seen something else


@app.command(cls=Command)
def models(as_json: JsonOption = False, quiet: QuietOption = False) -> None:
    """List the models that come with the package: what they are, were trained on, and reach."""
    from rich.text import Text

    from base_residual.cli.tables import models_table
    from base_residual.models.released import released

    printer, known = Printer(as_json, quiet), released()
    printer.json({name: model._asdict() for name, model in known.items()})
    lines = [f"{name}: {model.about}" for name, model in known.items()]
    printer.show(models_table(known), *map(Text, [*lines, "Beside each rmse that of a depth map which hears nothing."]))


@app.command(cls=Command)
def export(
    checkpoint: CheckpointArgument,
    out: Annotated[Path | None, typer.Option(help="ONNX file to write.", show_default="beside the checkpoint")] = None,
    kind: Annotated[
        str,
        typer.Option(
            "--format", metavar="|".join(FORMATS), help="Format to write.", autocompletion=completing(FORMATS)
        ),
    ] = FORMATS[0],
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a checkpoint as ONNX, waveform in and depth out, and check that ONNX Runtime gets the same depth."""
    from base_residual.deploy.onnx import export_onnx

    if kind not in FORMATS:
        raise ConfigError(f"Unknown format '{kind}'. Known are {listed(kind, FORMATS)}")
    path = export_onnx(load_for_command(checkpoint, "cpu").model, out or checkpoint.with_suffix(".onnx"))
    printer, size = Printer(as_json, quiet), path.stat().st_size
    printer.json({"onnx": path, "bytes": size})
    printer.show(f"ONNX: {path} ({size / 2**20:.1f} MiB)")


@app.command(cls=Command)
def benchmark(
    ctx: typer.Context,
    checkpoint: CheckpointArgument,
    batch_size: Annotated[int, typer.Option(min=1, max=1024, help="Echoes at a time, for the throughput.")] = 32,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure what a checkpoint costs on this machine: latency, throughput, memory, operations.

    Of an ONNX file that export has written, it is the latency in ONNX Runtime.
    """
    from base_residual.cli.tables import cost_table, onnx_cost_table
    from base_residual.deploy.benchmark import Cost, OnnxCost, measure, measure_onnx
    from base_residual.machine import busy

    printer = Printer(as_json, quiet)
    cost: Cost | OnnxCost
    if checkpoint.suffix.lower() == ".onnx":
        idle = [name for name in ("batch_size", "device") if is_given(ctx, name)]
        if idle:
            raise ConfigError(f"--{idle[0].replace('_', '-')} does nothing for an ONNX file; leave it out.")
        cost = measure_onnx(checkpoint)
        table = onnx_cost_table(cost, checkpoint.name)
    else:
        cost = measure(load_for_command(checkpoint, device).model, batch_size)
        table = cost_table(cost, checkpoint.name)
    printer.json(asdict(cost))
    printer.show(table)
    if note := busy(cost.load):
        printer.show(note)


def _is_checkpoint(path: Path) -> bool:
    """Return whether a path stands for a checkpoint, by its ending; without one, a file is a recording, else a name."""
    return path.suffix.lower() in (".safetensors", ".onnx") if path.suffix else not path.is_file()
