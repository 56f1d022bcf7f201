"""`brdepth`: parses, calls, prints. What it calls lives elsewhere; heavy imports stay inside the commands."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from base_residual.cli import datasets as cli_data
from base_residual.cli.command import EXIT_CODES, Command, Commands, Notes
from base_residual.cli.options import (
    DATA_SETTINGS,
    AssignOption,
    CheckpointArgument,
    ConfigOption,
    DatasetOption,
    DeviceOption,
    JsonOption,
    QuietOption,
    RootOption,
    SplitOption,
    completing,
    current_name,
    given_settings,
    setting,
    settings_beneath,
)
from base_residual.cli.output import Output
from base_residual.config.names import listed
from base_residual.config.presets import PRESETS, SIZES
from base_residual.errors import ConfigError
from base_residual.version import __version__

if TYPE_CHECKING:
    from base_residual.config.schema import Config
    from base_residual.data.sample import EchoDataset
    from base_residual.models.checkpoint import Checkpoint
    from base_residual.models.network import DepthNet

FORMATS = ("onnx",)  # that a checkpoint is exported to

log = logging.getLogger("base_residual")

app = typer.Typer(
    cls=Commands,
    name="brdepth",
    help="Depth from sound: from a stereo echo to a depth map in metres, split as final = base + residual.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,  # Rich takes longer to import than the help to be asked for
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
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name need not be text
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[Notes()])


@app.command(cls=Command)
def train(
    ctx: typer.Context,
    dataset: Annotated[str | None, setting("data.name")] = None,
    data_root: Annotated[Path | None, setting("data.root")] = None,
    model: Annotated[str | None, setting("model.name")] = None,
    preset: Annotated[
        str,
        typer.Option(
            metavar="NAME", help=f"Settings by name: {', '.join(PRESETS)}.", autocompletion=completing(PRESETS)
        ),
    ] = "default",
    size: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Network by size: {', '.join(SIZES)}. (default: small)",
            autocompletion=completing(SIZES),
        ),
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
    compile_: Annotated[bool | None, setting("trainer.compile", "--compile/--no-compile")] = None,
    experiment_name: Annotated[str | None, setting("tracking.experiment_name")] = None,
    results_dir: Annotated[Path | None, setting("tracking.results_dir")] = None,
    wandb: Annotated[bool | None, setting("tracking.wandb", "--wandb/--no-wandb")] = None,
    tensorboard: Annotated[bool | None, setting("tracking.tensorboard", "--tensorboard/--no-tensorboard")] = None,
    config: ConfigOption = None,
    assign: AssignOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where this run's saved state ends.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run of the same name.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the settings and what training would cost, and end.")
    ] = False,
    live: Annotated[
        bool | None,
        typer.Option(
            "--live/--no-live",
            help="Draw how it goes, or print lines alone. (default: draw in a terminal)",
            rich_help_panel="Output",
        ),
    ] = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a model; without any option, on simulated rooms and with no download."""
    from base_residual.config.resolve import make_config
    from base_residual.config.run_layout import BEST

    file, assigned = settings_beneath(config, assign)
    settings = make_config(*assigned, given_settings(ctx), preset=preset, size=size, file=file)
    if warmup_epochs is not None and not (settings.loss.adaptive or settings.loss.curriculum):
        log.warning("--warmup-epochs does nothing without --adaptive or --curriculum.")
    out = Output(as_json, quiet)
    if dry_run:
        _rehearse(settings, out)
        return
    from rich.text import Text

    from base_residual.cli.tables import criteria_table, metrics_table
    from base_residual.evaluation.blind import blind_lines
    from base_residual.training.distributed import is_first_process
    from base_residual.training.terminal import terminal_tracker
    from base_residual.training.trainer import Trainer

    trackers = [] if quiet else [terminal_tracker(out.progress, live)]
    result = Trainer(settings, resume=resume, overwrite=overwrite, trackers=trackers).fit()
    if not is_first_process():
        return
    best = result.run_dir / BEST
    out.json(result.as_dict())
    out.show(
        metrics_table(result.test, f"Test split, weights of epoch {result.best_epoch}"),
        Text(result.test.protocol_line()),
        *(Text(line) for line in blind_lines(result.test.metrics["rmse"], result.blind)),
        criteria_table(result.criteria),
        f"Run folder: {result.run_dir}",
        f"Picture:    {result.picture}",
        f"Look again: brdepth visualize {quote(str(best))}",
    )


@app.command("eval", cls=Command)
def evaluate_checkpoint(
    ctx: typer.Context,
    checkpoint: CheckpointArgument,
    dataset: DatasetOption = None,
    data_root: RootOption = None,
    split: SplitOption = "test",
    min_depth: Annotated[float, typer.Option(min=0.0, help="Count only pixels at least this far, in metres.")] = 0.0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score a checkpoint: metrics, decomposition figures and the success criteria that one run can decide."""
    from rich.text import Text

    from base_residual.cli.tables import criteria_table, metrics_table
    from base_residual.evaluation import evaluate, success_criteria, why_undecided

    out = Output(as_json, quiet)
    loaded, config, samples = _load(ctx, checkpoint, split, device, out)
    found = evaluate(loaded.model, samples, min_depth=min_depth, num_workers=loaded.config.data.num_workers)
    curve, why = [record["val/rmse"] for record in loaded.history], why_undecided(loaded.config.model.name)
    criteria = success_criteria(found, curve, undecided=why)
    verdicts = [criterion._asdict() for criterion in criteria]
    about = {"checkpoint": checkpoint, "dataset": config.data.name, "data_root": config.data.root, "split": split}
    out.json(found.as_dict() | about | {"epoch": loaded.epoch, "criteria": verdicts})
    of = _other_data(loaded.config, config) or config.data.name
    out.show(metrics_table(found, f"{checkpoint.name}, epoch {loaded.epoch}, split {split} of {of}"))
    out.show(Text(found.protocol_line()), criteria_table(criteria))


@app.command(cls=Command)
def visualize(
    ctx: typer.Context,
    checkpoint: CheckpointArgument,
    dataset: DatasetOption = None,
    data_root: RootOption = None,
    split: SplitOption = "test",
    count: Annotated[int, typer.Option(min=1, max=32, help="Recordings to show, spread over the split.")] = 4,
    audio: Annotated[
        list[Path] | None, typer.Option(metavar="ECHO.wav", help="Recordings of your own instead; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="PNG file to write.", show_default="beside the checkpoint")] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw base | residual | final | ground truth."""
    from base_residual.plots.figures import decomposition_figure, panels, save_figure

    result, other = Output(as_json, quiet), ""
    if audio:
        from base_residual.deploy.predict import picture_files

        idle = [name for name in ("dataset", "data_root", "split", "count") if _is_given(ctx, name)]
        if idle:
            raise ConfigError(f"--{idle[0].replace('_', '-')} does nothing beside --audio; leave one of them out.")
        loaded = _load_checkpoint(checkpoint, device)
        rows = picture_files(loaded.model, audio)
    else:
        from base_residual.data.sample import collate, spread_indices

        loaded, config, samples = _load(ctx, checkpoint, split, device, result)
        other = _other_data(loaded.config, config)
        shown = [samples[index] for index in spread_indices(len(samples), count)]
        batch = collate(shown)
        rows = panels(loaded.model.predict(batch.waveform), [sample.depth.numpy() for sample in shown], batch.ids)
    shows = audio[0].stem if audio else f"{other}_{split}" if other else split
    name = f"{checkpoint.stem}_{shows}_decomposition.png"
    figure = decomposition_figure(rows, f"{loaded.config.run_name}, epoch {loaded.epoch}{other and f', {other}'}")
    picture = save_figure(figure, out or checkpoint.with_name(name))
    result.json({"picture": picture})
    result.show(f"Picture: {picture}")


@app.command(cls=Command)
def predict(
    checkpoint: CheckpointArgument,
    echoes: Annotated[list[Path], typer.Argument(metavar="ECHO.wav", help="Two-channel recordings, left ear first.")],
    out: Annotated[Path, typer.Option(help="Folder for the depth maps and pictures.")] = Path("predictions"),
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Predict depth for recordings of your own: a .npy map in metres and a picture each."""
    from base_residual.deploy.predict import write_predictions

    result = Output(as_json, quiet)
    written = write_predictions(_load_checkpoint(checkpoint, device).model, echoes, out)
    rows = [{"recording": echo, "depth": a, "picture": b} for echo, (a, b) in zip(echoes, written, strict=True)]
    result.json({"predictions": rows})
    result.show(*(f"{array}  {picture}" for array, picture in written))


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
    path = export_onnx(_load_checkpoint(checkpoint, "cpu").model, out or checkpoint.with_suffix(".onnx"))
    result, size = Output(as_json, quiet), path.stat().st_size
    result.json({"onnx": path, "bytes": size})
    result.show(f"ONNX: {path} ({size / 2**20:.1f} MiB)")


@app.command(cls=Command)
def benchmark(
    checkpoint: CheckpointArgument,
    batch_size: Annotated[int, typer.Option(min=1, max=1024, help="Echoes at a time, for the throughput.")] = 32,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure what a checkpoint costs on this machine: latency, throughput, memory, operations."""
    from base_residual.cli.tables import cost_table
    from base_residual.deploy.benchmark import measure

    cost = measure(_load_checkpoint(checkpoint, device).model, batch_size)
    out = Output(as_json, quiet)
    out.json(cost.as_dict())
    out.show(cost_table(cost, checkpoint.name))


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

    result, comparison = Output(as_json, quiet), compare_runs(runs)
    curves = {name: [run.val_rmse] for name, run in zip(comparison.names, comparison.runs, strict=True)}
    picture = out or (None if as_json else Path("comparison.png"))
    figures, *verdicts = comparison_tables(comparison)
    result.show(
        figures,
        Text(comparison.reference.test.protocol_line()),
        *verdicts,
        Text("converged: epochs until within 2 % of the run's own best; reached: until the reference's best."),
    )
    if picture:  # which can fail, and then the tables are there
        save_figure(comparison_figure(curves), picture)
        result.show(f"Picture: {picture}")
    result.json(comparison.as_dict() | {"picture": picture})


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
    from base_residual.evaluation.comparison import read_runs
    from base_residual.machine import resolve_device
    from base_residual.report.gallery import make_gallery
    from base_residual.report.page import require_extra, write_report

    require_extra()
    result, comparison = Output(as_json, quiet), read_runs(runs)
    with counting(result.progress) as progress:
        gallery = make_gallery(comparison, samples, resolve_device(device), data_root, progress)
    result.show(*(f"No rooms of {name}: {reason}" for name, reason in gallery.missing.items()))
    path = write_report(comparison, gallery, out or (runs[0] if len(runs) == 1 else Path()) / "report.html")
    size = path.stat().st_size
    result.json({"report": path, "bytes": size, "missing": gallery.missing})
    result.show(f"Report: {path} ({size / 1e6:.1f} MB)")


app.add_typer(cli_data.app)


def _rehearse(config: Config, out: Output) -> None:
    """Print what training would use and, as comments of the same YAML file, what it would cost."""
    if out.quiet and not out.as_json:
        return  # the settings are valid, which is all that is asked
    from base_residual.cli.tables import estimate_lines
    from base_residual.training.cost_estimate import estimate
    from base_residual.training.distributed import is_first_process

    if not is_first_process():
        return
    found = estimate(config)
    out.show(config.to_yaml().rstrip(), *(f"# {line}" for line in estimate_lines(found)))
    out.json({"config": config.model_dump(mode="json"), "estimate": found.as_dict()})


def _load_checkpoint(path: Path, device: str) -> Checkpoint[DepthNet]:
    from base_residual.machine import resolve_device
    from base_residual.models.factory import load_checkpoint

    return load_checkpoint(path, resolve_device(device))


def _is_given(ctx: typer.Context, name: str) -> bool:
    """Whether an option was typed, rather than left at its default."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _other_data(own: Config, used: Config) -> str:
    """What the data is called that a checkpoint is tried on, if it is not that of its own run."""
    if (used.data.name, used.data.root) == (own.data.name, own.data.root):
        return ""
    return used.data.root.resolve().name if used.data.root else used.data.name


def _load(
    ctx: typer.Context, path: Path, split: str, device: str, out: Output
) -> tuple[Checkpoint[DepthNet], Config, EchoDataset]:
    """A checkpoint, and a split of its dataset or of the one that the options name, with the settings of that."""
    from base_residual.cli.progress import counting
    from base_residual.config.resolve import make_config
    from base_residual.data import open_dataset

    loaded = _load_checkpoint(path, device)
    given = given_settings(ctx, DATA_SETTINGS)
    if given.get("data", {}).get("name", loaded.config.data.name) != loaded.config.data.name:
        given["data"].setdefault("root", None)  # the run's folder holds another dataset
    config = make_config(loaded.config.model_dump(mode="json"), given)
    with counting(out.progress) as progress:
        return loaded, config, open_dataset(config.data.name, config.data.root, split, config, progress)
