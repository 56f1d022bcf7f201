"""`brdepth`: parses, calls, prints. What it calls lives elsewhere; heavy imports stay inside the commands."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from base_residual import __version__
from base_residual.config import PRESETS, SIZES, SPLITS, load_layer, make_config, merge, parse_setting
from base_residual.errors import BaseResidualError, TrainingInterrupted
from base_residual.options import (
    DATA_SETTINGS,
    PREPARE_SETTINGS,
    SIMULATE_SETTINGS,
    TRAIN_SETTINGS,
    current_name,
    given_settings,
    setting,
)

if TYPE_CHECKING:
    from rich.console import Console

    from base_residual.checkpoint import Checkpoint
    from base_residual.data.sample import EchoDataset


class Commands(TyperGroup):
    """Ends every user's mistake in one sentence on standard error and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TrainingInterrupted as stop:
            print(stop, file=sys.stderr)
            raise typer.Exit(130) from stop
        except KeyboardInterrupt as stop:
            print("Stopped. What was finished is kept; the same command goes on from there.", file=sys.stderr)
            raise typer.Exit(130) from stop
        except BaseResidualError as error:
            print(f"Error: {error}", file=sys.stderr)
            raise typer.Exit(2) from error


app = typer.Typer(
    cls=Commands,
    name="brdepth",
    help="Depth from sound: from a stereo echo to a depth map in metres, split as final = base + residual.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"token_normalize_func": current_name, "help_option_names": ["-h", "--help"]},
)


def version_wanted(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        print(f"brdepth {__version__}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=version_wanted, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Show what the package has to say, one line each."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)


CheckpointArgument = Annotated[
    Path, typer.Argument(metavar="CHECKPOINT", help="A .safetensors file that a run has written.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N.")]
SplitOption = Annotated[str, typer.Option(help="train, val or test.")]
DatasetOption = Annotated[
    str | None, typer.Option(help="Another dataset than the one of the run.", show_default="the run's")
]
RootOption = Annotated[
    Path | None, typer.Option(help="Folder of the dataset.", show_default="the run's, or BRDEPTH_DATA")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


@app.command()
def train(
    ctx: typer.Context,
    dataset: Annotated[str | None, setting("data.name")] = None,
    data_root: Annotated[Path | None, setting("data.root")] = None,
    model: Annotated[str | None, setting("model.name")] = None,
    preset: Annotated[str, typer.Option(help=f"Loss settings by name: {', '.join(PRESETS)}.")] = "default",
    size: Annotated[
        str | None, typer.Option(help=f"Network by size: {', '.join(SIZES)}.", show_default="small")
    ] = None,
    adaptive: Annotated[bool | None, setting("loss.adaptive", "--adaptive/--no-adaptive")] = None,
    curriculum: Annotated[bool | None, setting("loss.curriculum", "--curriculum/--no-curriculum")] = None,
    warmup_epochs: Annotated[int | None, setting("loss.warmup_epochs")] = None,
    lambda_recon: Annotated[float | None, setting("loss.lambda_recon")] = None,
    lambda_base: Annotated[float | None, setting("loss.lambda_base")] = None,
    lambda_sparse: Annotated[float | None, setting("loss.lambda_sparse")] = None,
    lowpass_kernel: Annotated[int | None, setting("loss.lowpass_kernel")] = None,
    epochs: Annotated[int | None, setting("trainer.epochs")] = None,
    batch_size: Annotated[int | None, setting("trainer.batch_size")] = None,
    learning_rate: Annotated[float | None, setting("trainer.learning_rate")] = None,
    seed: Annotated[int | None, setting("trainer.seed")] = None,
    save_every: Annotated[float | None, setting("trainer.save_every")] = None,
    device: Annotated[str | None, setting("trainer.device")] = None,
    experiment_name: Annotated[str | None, setting("tracking.experiment_name")] = None,
    results_dir: Annotated[Path | None, setting("tracking.results_dir")] = None,
    wandb: Annotated[bool | None, setting("tracking.wandb", "--wandb/--no-wandb")] = None,
    tensorboard: Annotated[bool | None, setting("tracking.tensorboard", "--tensorboard/--no-tensorboard")] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML file with any of the settings; options win over it.")
    ] = None,
    assign: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any setting; repeatable.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where this run's saved state ends.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run of the same name.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the resolved settings and end.")] = False,
) -> None:
    """Train a model; without any option, on simulated rooms and with no download."""
    layers = [load_layer(config)] if config else []
    layers += [*(parse_setting(text) for text in assign or []), given_settings(ctx, TRAIN_SETTINGS)]
    settings = make_config(*layers, preset=preset, size=size)
    if dry_run:
        print(settings.to_yaml(), end="")
        return
    from base_residual.console import blind_lines, criteria_table, metrics_table, protocol_line
    from base_residual.processes import leading
    from base_residual.trainer import Trainer

    out = _console()
    result = Trainer(settings, resume=resume, overwrite=overwrite).fit()
    if not leading():
        return
    rmse = result.test.metrics["rmse"]
    out.print(metrics_table(result.test, f"Test split, weights of epoch {result.best_epoch}"))
    out.print(protocol_line(result.test))
    for line in blind_lines(rmse, result.blind):
        out.print(line)
    out.print(criteria_table(result.criteria))
    print(f"Run folder: {result.run_dir}")
    print(f"Picture:    {result.picture}")
    print(f"Look again: brdepth visualize {result.run_dir / 'best.safetensors'}")


@app.command("eval")
def evaluate_checkpoint(
    ctx: typer.Context,
    checkpoint: CheckpointArgument,
    dataset: DatasetOption = None,
    data_root: RootOption = None,
    split: SplitOption = "test",
    min_depth: Annotated[float, typer.Option(min=0.0, help="Count only pixels at least this far, in metres.")] = 0.0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Score a checkpoint: metrics, decomposition figures and the success criteria that one run can decide."""
    from base_residual.console import criteria_table, metrics_table, protocol_line
    from base_residual.evaluation import evaluate, success_criteria

    loaded, samples = _load(ctx, checkpoint, split, device)
    found = evaluate(loaded.model, samples, min_depth=min_depth, num_workers=loaded.config.data.num_workers)
    criteria = success_criteria(found, [record["val/rmse"] for record in loaded.history])
    if as_json:
        report = found.as_dict() | {"split": split, "epoch": loaded.epoch, "criteria": [c._asdict() for c in criteria]}
        print(json.dumps(report, indent=2))
        return
    out = _console()
    out.print(metrics_table(found, f"{checkpoint.name}, epoch {loaded.epoch}, split {split}"))
    out.print(protocol_line(found))
    out.print(criteria_table(criteria))


@app.command()
def visualize(
    ctx: typer.Context,
    checkpoint: CheckpointArgument,
    dataset: DatasetOption = None,
    data_root: RootOption = None,
    split: SplitOption = "test",
    count: Annotated[int, typer.Option(min=1, max=32, help="Recordings to show, spread over the split.")] = 4,
    audio: Annotated[list[Path] | None, typer.Option(help="Recordings of your own instead; repeatable.")] = None,
    out: Annotated[Path | None, typer.Option(help="PNG file to write.", show_default="beside the checkpoint")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Draw base | residual | final | ground truth."""
    from base_residual.visualize import decomposition_figure, panels, save_figure

    if audio:
        from base_residual.predict import picture_files

        loaded = _load_checkpoint(checkpoint, device)
        rows = picture_files(loaded.model, audio)
    else:
        from base_residual.data.sample import collate, spread

        loaded, samples = _load(ctx, checkpoint, split, device)
        shown = [samples[index] for index in spread(len(samples), count)]
        batch = collate(shown)
        rows = panels(loaded.model.predict(batch.waveform), [sample.depth.numpy() for sample in shown], batch.ids)
    name = f"{checkpoint.stem}_{audio[0].stem if audio else split}_decomposition.png"
    figure = decomposition_figure(rows, f"{loaded.config.run_name}, epoch {loaded.epoch}")
    print(f"Picture: {save_figure(figure, out or checkpoint.with_name(name))}")


@app.command()
def predict(
    checkpoint: CheckpointArgument,
    echoes: Annotated[
        list[Path], typer.Argument(metavar="ECHO.wav...", help="Two-channel recordings, left ear first.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the depth maps and pictures.")] = Path("predictions"),
    device: DeviceOption = "auto",
) -> None:
    """Predict depth for recordings of your own: a .npy map in metres and a picture each."""
    from base_residual.predict import write_predictions

    for array, picture in write_predictions(_load_checkpoint(checkpoint, device).model, echoes, out):
        print(f"{array}  {picture}")


@app.command()
def export(
    checkpoint: CheckpointArgument,
    out: Annotated[Path | None, typer.Option(help="ONNX file to write.", show_default="beside the checkpoint")] = None,
) -> None:
    """Write a checkpoint as ONNX, waveform in and depth out, and check that ONNX Runtime gets the same depth."""
    from base_residual.export import export_onnx

    path = export_onnx(_load_checkpoint(checkpoint, "cpu").model, out or checkpoint.with_suffix(".onnx"))
    print(f"ONNX: {path} ({path.stat().st_size / 2**20:.1f} MiB)")


@app.command()
def benchmark(
    checkpoint: CheckpointArgument,
    batch_size: Annotated[int, typer.Option(min=1, help="Echoes at a time, for the throughput.")] = 32,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Measure what a checkpoint costs on this machine: latency, throughput, memory, operations."""
    from base_residual.console import cost_table
    from base_residual.speed import measure

    cost = measure(_load_checkpoint(checkpoint, device).model, batch_size)
    if as_json:
        print(json.dumps(cost.as_dict(), indent=2))
    else:
        _console().print(cost_table(cost, checkpoint.name))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...", help="Folders of finished runs.")],
    out: Annotated[Path, typer.Option(help="PNG file for the curves.")] = Path("comparison.png"),
    as_json: JsonOption = False,
) -> None:
    """Put finished runs side by side; a plain U-Net among them is what the others are measured against."""
    from base_residual.compare import compare_runs
    from base_residual.console import comparison_tables
    from base_residual.visualize import comparison_figure, save_figure

    comparison = compare_runs(runs)
    if as_json:
        print(json.dumps(comparison.as_dict(), indent=2))
        return
    console = _console()
    for table in comparison_tables(comparison):
        console.print(table)
    console.print("converged: epochs until within 2 % of the run's own best; reached: until the reference's best.")
    curves = {name: [run.val_rmse] for name, run in zip(comparison.names, comparison.runs, strict=True)}
    print(f"Picture: {save_figure(comparison_figure(curves), out)}")


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs.")],
    out: Annotated[
        Path | None,
        typer.Option(help="HTML file to write.", show_default="report.html in the run's folder, or here for several"),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, max=48, help="Rooms to show, from the best to the worst.")] = 9,
    data_root: RootOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Write a page to look at: criteria, curves, rooms to drag through and what differs; one file, no network."""
    from base_residual.compare import read_runs
    from base_residual.console import counting
    from base_residual.gallery import make_gallery
    from base_residual.optimization import resolve_device
    from base_residual.report import require_extra, write_report

    require_extra()
    comparison = read_runs(runs)
    with counting(_console()) as progress:
        gallery = make_gallery(comparison, samples, resolve_device(device), data_root, progress)
    for name, reason in gallery.missing.items():
        print(f"No rooms of {name}: {reason}")
    path = write_report(comparison, gallery, out or (runs[0] if len(runs) == 1 else Path()) / "report.html")
    print(f"Report: {path} ({path.stat().st_size / 1e6:.1f} MB)")


@app.command()
def simulate(
    ctx: typer.Context,
    root: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to create.")],
    rooms: Annotated[int | None, setting("simulation.train_rooms")] = None,
    val_rooms: Annotated[int | None, setting("simulation.val_rooms")] = None,
    test_rooms: Annotated[int | None, setting("simulation.test_rooms")] = None,
    poses: Annotated[int | None, setting("simulation.poses")] = None,
    style: Annotated[str | None, setting("simulation.style")] = None,
    seed: Annotated[int | None, setting("simulation.seed")] = None,
    output_size: Annotated[int | None, setting("data.output_size")] = None,
    max_depth: Annotated[float | None, setting("data.max_depth")] = None,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Render part I of N alone, for job arrays; the last one completes OUT.")
    ] = "1/1",
) -> None:
    """Render echo rooms into a folder, in the layout of BatVision V2."""
    from base_residual.console import counting
    from base_residual.data.simulated import Shard
    from base_residual.data.simulated import simulate as render

    settings = make_config(given_settings(ctx, SIMULATE_SETTINGS))
    with counting(_console()) as progress:
        complete = render(root, settings.data, settings.simulation, progress, Shard.parse(shard))
    if not complete:
        print(f"Shard {shard} is rendered beside {root}, which appears when all shards are.")
        return
    print(f"Rooms: {root}")
    print(f"Train: brdepth train --data-root {root}")


@app.command()
def prepare(
    ctx: typer.Context,
    dataset: Annotated[str | None, setting("data.name")] = None,
    data_root: Annotated[Path | None, setting("data.root")] = None,
    output_size: Annotated[int | None, setting("data.output_size")] = None,
    max_depth: Annotated[float | None, setting("data.max_depth")] = None,
) -> None:
    """Turn a dataset into memory-mapped files, which training reads; `train` does so itself on first use."""
    from base_residual.console import counting
    from base_residual.data import open_dataset
    from base_residual.data.prepared import PreparedSet

    settings = make_config(given_settings(ctx, PREPARE_SETTINGS))
    for split in SPLITS:
        with counting(_console()) as progress:
            found = open_dataset(settings.data.name, settings.data.root, split, settings, progress)
        assert isinstance(found, PreparedSet)
        size = sum(path.stat().st_size for path in found.folder.iterdir())
        print(f"{split}: {len(found)} recordings, {size / 2**20:.0f} MiB, {found.folder}")


@app.command()
def download(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="batvisionv2 or batvisionv1.")],
    folder: Annotated[Path, typer.Argument(metavar="OUT", help="Folder for the archives and what they hold.")],
    only: Annotated[
        str | None, typer.Option(metavar="KIND,...", help="Extract only these: audio, depth, camera, csv.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    server: Annotated[str | None, typer.Option(help="Another Dataverse.", show_default="where the DOI leads")] = None,
) -> None:
    """Download BatVision, about 168 GB in all: resumes, verifies, extracts. Says first how much it is."""
    from base_residual.console import counting, files_table
    from base_residual.data import download as source

    out, address = _console(), (server or source.SERVER).rstrip("/")
    files = source.list_files(dataset, address)
    out.print(files_table(files))
    if not yes and not typer.confirm(f"Download into {folder}, and extract there?"):
        raise typer.Exit(1)
    with counting(out, in_bytes=True) as progress:
        source.download(files, folder, only.split(",") if only else (), address, progress)
    for root in source.roots(folder, dataset):
        print(f"Dataset: {root}")
        print(f"Check:   brdepth check-data {root}")


@app.command("convert-replica")
def convert(
    observations: Annotated[Path, typer.Argument(metavar="PICKLE", help="scene_observations_128.pkl of VisualEchoes.")],
    echoes: Annotated[Path, typer.Argument(metavar="ECHOES", help="Its folder echoes_navigable.")],
    root: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to create.")],
) -> None:
    """Convert VisualEchoes, once, into the layout of BatVision V2; nothing in the pickle is run."""
    from base_residual.console import counting
    from base_residual.data.replica import convert_replica

    with counting(_console()) as progress:
        count = convert_replica(observations, echoes, root, progress)
    print(f"Recordings: {count}, in {root}")
    print(f"Train: brdepth train --dataset replica --data-root {root}")


@app.command("check-data")
def check(
    root: Annotated[
        Path, typer.Argument(metavar="ROOT", help="Folder of a dataset in the layout of BatVision V1 or V2.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Read a whole dataset, say what it holds, and name every problem with its file."""
    from base_residual.console import counting, findings_table
    from base_residual.data.check import check_data

    out = _console()
    with counting(out) as progress:
        findings = check_data(root, progress)
    if as_json:
        print(json.dumps(findings.as_dict(), indent=2))
    else:
        out.print(findings_table(findings))
        for problem in findings.problems:
            print(f"Problem: {problem}")
        print("No problems." if not findings.problems else f"{len(findings.problems)} problems.")
    if findings.problems:
        raise typer.Exit(1)


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def _load_checkpoint(path: Path, device: str) -> Checkpoint:
    from base_residual.checkpoint import load_checkpoint
    from base_residual.optimization import resolve_device

    return load_checkpoint(path, resolve_device(device))


def _load(ctx: typer.Context, path: Path, split: str, device: str) -> tuple[Checkpoint, EchoDataset]:
    """A checkpoint, and a split of its dataset or of the one that the options name."""
    from base_residual.console import counting
    from base_residual.data import open_dataset

    loaded = _load_checkpoint(path, device)
    config = make_config(merge(loaded.config.model_dump(mode="json"), given_settings(ctx, DATA_SETTINGS)))
    with counting(_console()) as progress:
        return loaded, open_dataset(config.data.name, config.data.root, split, config, progress)
