"""The commands of `brdepth` that judge a trained model: score it, draw with it, calibrate it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from base_residual.cli.help_pages import Command
from base_residual.cli.loading import is_given, load_for_command, opinion
from base_residual.cli.printer import Printer
from base_residual.cli.shared_options import (
    CheckpointArgument,
    DatasetOption,
    DeviceOption,
    FieldOfViewOption,
    FollowLinksOption,
    JsonOption,
    QuietOption,
    RootOption,
    SplitOption,
)
from base_residual.config.presets import Layer
from base_residual.errors import BaseResidualError, ConfigError, DataError, PredictionError

if TYPE_CHECKING:
    from base_residual.config.schema import Config
    from base_residual.data.sample import EchoDataset
    from base_residual.models.checkpoint import Checkpoint
    from base_residual.models.network import DepthNet

WIDE = 0.4  # of the largest depth: a mean remainder that says next to nothing
CAMERA = ("field_of_view", "depth_along")  # settings of a dataset's camera

app = typer.Typer()


@app.command("eval", cls=Command)
def evaluate_checkpoint(
    checkpoint: CheckpointArgument,
    dataset: DatasetOption = None,
    data_root: RootOption = None,
    split: SplitOption = "test",
    follow_links: FollowLinksOption = False,
    field_of_view: FieldOfViewOption = None,
    min_depth: Annotated[float, typer.Option(min=0.0, help="Count only pixels at least this far, in metres.")] = 0.0,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Score a checkpoint: metrics, decomposition figures and the success criteria that one run can decide."""
    from rich.text import Text

    from base_residual.config.run_layout import val_rmse
    from base_residual.evaluation import criteria_table, evaluate, success_criteria, why_undecided
    from base_residual.evaluation.blind import blind_lines, known_rmse
    from base_residual.machine import own_cores

    printer = Printer(as_json, quiet)
    loaded, config = _load(checkpoint, dataset, data_root, follow_links, field_of_view, device)
    samples = _open(loaded, config, split, printer)
    workers = min(loaded.config.data.num_workers, own_cores())  # of the machine that it was trained on
    found = evaluate(loaded.model, samples, min_depth=min_depth, num_workers=workers)
    curve, why = val_rmse(loaded.history), why_undecided(loaded.config.model.name)
    tested = checkpoint.parent if split == "test" and config == loaded.config else None
    blind, unknown = dict[str, float](), list[str]()
    try:
        blind = known_rmse(tested, lambda: _open(loaded, config, "train", printer), samples, found)
    except BaseResidualError as error:
        unknown = [f"No blind guess: {error}"]
    criteria = success_criteria(found, curve, undecided=why, blind=blind)
    verdicts = [criterion._asdict() for criterion in criteria]
    about = {"checkpoint": checkpoint, "dataset": config.data.name, "data_root": config.data.root, "split": split}
    about |= {"field_of_view": config.data.field_of_view}
    printer.json(found.as_dict() | about | {"epoch": loaded.epoch, "blind_rmse": blind, "criteria": verdicts})
    of = _other_data(loaded.config, config) or config.data.name
    printer.show(found.table(f"{checkpoint.name}, epoch {loaded.epoch}, split {split} of {of}"))
    lines = [
        *filter(None, [found.by_metre()]),
        found.protocol_line(),
        *_view_lines(samples),
        *blind_lines(found.metrics["rmse"], blind),
        *unknown,
    ]
    printer.show(*map(Text, lines), criteria_table(criteria))


@app.command(cls=Command)
def visualize(
    ctx: typer.Context,
    checkpoint: CheckpointArgument,
    dataset: DatasetOption = None,
    data_root: RootOption = None,
    split: SplitOption = "test",
    follow_links: FollowLinksOption = False,
    field_of_view: FieldOfViewOption = None,
    count: Annotated[int, typer.Option(min=1, max=32, help="Recordings to show, spread over the split.")] = 4,
    audio: Annotated[
        list[Path] | None, typer.Option(metavar="ECHO.wav", help="Recordings of your own instead; repeatable.")
    ] = None,
    view: Annotated[
        bool, typer.Option("--view", help="Draw where the points lie instead: from above and from behind.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="PNG file to write.", show_default="beside the checkpoint")] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw base | residual | final | remainder | ground truth, or the points in space."""
    from base_residual.config.run_layout import PICTURES, written_about
    from base_residual.models.decomposition import require_camera
    from base_residual.models.released import is_released
    from base_residual.plots.figures import decomposition_figure, save_figure
    from base_residual.plots.views import view_figure

    printer, other, about, doubtful = Printer(as_json, quiet), "", {}, ""
    if audio:
        from base_residual.deploy.predict import mark, picture_files

        idle = [
            name
            for name in ("dataset", "data_root", "split", "follow_links", "field_of_view", "count")
            if is_given(ctx, name)
        ]
        if idle:
            raise ConfigError(f"--{idle[0].replace('_', '-')} does nothing beside --audio; leave one of them out.")
        loaded = load_for_command(checkpoint, device)
        rows, examined = picture_files(loaded.model, audio)
        opinions = zip(audio, map(opinion, examined.emission, examined.doubts), strict=True)
        about = {"recordings": [{"recording": path} | opinion for path, opinion in opinions]}
        doubtful = mark(list(dict.fromkeys(doubt for doubts in examined.doubts for doubt in doubts)))
    else:
        from base_residual.data.sample import spread_indices
        from base_residual.deploy.predict import picture_samples

        loaded, config = _load(checkpoint, dataset, data_root, follow_links, field_of_view, device)
        samples = _open(loaded, config, split, printer)
        other = _other_data(loaded.config, config)
        shown = [samples[index] for index in spread_indices(len(samples), count)]
        rows = picture_samples(loaded.model, shown)
    shows = audio[0].stem if audio else f"{other}_{split}" if other else split
    of = "own recordings" if audio else f"{split} split" + (f" of {other}" if other else "")
    trained = f"{loaded.config.in_words}, epoch {loaded.epoch}"
    title = f"{checkpoint.stem if is_released(checkpoint) else trained}: {of}"
    if view:
        figure = view_figure(rows, require_camera(loaded.model.camera), doubtful or title)
    else:
        figure = decomposition_figure(rows, doubtful or title)
    picture = save_figure(figure, out or written_about(checkpoint, shows, PICTURES[view]))
    printer.json({"picture": picture} | about)
    printer.show(f"Picture: {picture}")


@app.command("calibrate", cls=Command)
def calibrate_checkpoint(
    checkpoint: CheckpointArgument,
    dataset: DatasetOption = None,
    data_root: RootOption = None,
    follow_links: FollowLinksOption = False,
    field_of_view: FieldOfViewOption = None,
    level: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of the pixels that is to lie within the remainder.")
    ] = 0.9,
    out: Annotated[
        Path | None, typer.Option(help="Checkpoint to write.", show_default="NAME_calibrated.safetensors")
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Give a checkpoint its remainder: how far off each pixel may be, in metres.

    It is fitted to the dataset's train split and set by its val split, on which the network must not have been trained.
    The test split then says what it holds. Base, residual and final stay as they are.
    """
    from rich.text import Text

    from base_residual.cli.progress import counting
    from base_residual.config.presets import DATASET_WORDS
    from base_residual.evaluation import evaluate
    from base_residual.models.checkpoint import save_checkpoint
    from base_residual.models.released import is_released
    from base_residual.training.calibration import calibrate, least_places

    printer = Printer(as_json, quiet)
    if dataset is None and data_root is None and is_released(checkpoint):
        raise ConfigError(
            f"{checkpoint} is calibrated, on simulated rooms. Name recordings of your own: --dataset batvisionv2 "
            "--data-root ROOT, laid out as the data page says."
        )
    least_places(level)  # refuses what is no share, before there is anything to wait for
    loaded, config = _load(checkpoint, dataset, data_root, follow_links, field_of_view, device)
    path = out or _beside(checkpoint, f"{checkpoint.stem}_calibrated.safetensors")
    if path.suffix != ".safetensors" or path.is_dir():
        raise ConfigError(f"{path} is no name of a checkpoint. Give a file that ends in .safetensors.")
    train, held_out = (_open(loaded, config, split, printer) for split in ("train", "val"))
    with counting(printer.progress) as progress:
        data = DATASET_WORDS[config.data.name]
        found = calibrate(loaded.model, train, held_out, data, level, progress=progress)
    start = loaded.model.provenance.start
    save_checkpoint(path, loaded.model, loaded.epoch, loaded.history, loaded.config, start)
    try:
        tested = evaluate(loaded.model, _open(loaded, config, "test", printer))
        interval = tested.interval
        share, mean = interval["coverage"], interval["remainder_mean"]
        says = f"On the test split it is {mean:.2f} m on average, and {share:.1%} of the pixels lie within."
        if mean > WIDE * loaded.model.max_depth:
            says += " So wide a remainder says next to nothing: the network does not know such recordings."
        lines = [says, tested.by_metre()]
    except (DataError, PredictionError) as error:
        interval, lines = {}, [f"What it holds on a test split is not known. {error}"]
    printer.json({"checkpoint": path, "calibration": found._asdict(), "interval": interval})
    printer.show(*map(Text, [f"Remainder for {found}.", *_view_lines(held_out), *lines, f"Checkpoint: {path}"]))


def _other_data(own: Config, used: Config) -> str:
    """Return the name of the data that a checkpoint is tried on, if it is not that of its own run."""
    if (used.data.name, used.data.root) == (own.data.name, own.data.root):
        return ""
    return used.data.root.resolve().name if used.data.root else used.data.name


def _load(
    path: Path,
    dataset: str | None,
    data_root: Path | None,
    follow_links: bool,
    field_of_view: tuple[float, float] | None,
    device: str,
) -> tuple[Checkpoint[DepthNet], Config]:
    """Load a checkpoint, and the settings for its dataset or for the one that is given.

    A released model, whose own dataset is large, has rooms that it was not trained on instead.
    """
    from base_residual.config.resolve import make_config
    from base_residual.models.released import TRIED_ON, is_released

    loaded = load_for_command(path, device)
    own = TRIED_ON if is_released(path) and dataset is None and data_root is None else {}
    given: Layer = {}
    if dataset is not None:
        given["name"] = dataset
    if data_root is not None or given.get("name", loaded.config.data.name) != loaded.config.data.name:
        given["root"] = data_root  # the run's folder holds another dataset
    if follow_links:
        given["follow_links"] = True
    if field_of_view is not None:
        given["field_of_view"] = field_of_view
    kept = loaded.config.model_dump(mode="json")
    if "root" in given:  # another dataset has its own camera
        kept["data"] = {key: value for key, value in kept["data"].items() if key not in CAMERA}
    return loaded, make_config(kept, own, {"data": given})


def _open(loaded: Checkpoint[DepthNet], config: Config, split: str, printer: Printer) -> EchoDataset:
    """Open a split of a dataset as the network's camera sees it; what has to be made first is told."""
    from base_residual.cli.progress import counting
    from base_residual.data import open_again
    from base_residual.data.views import camera_of, seen_from

    with counting(printer.progress) as progress:
        samples = open_again(config, split=split, progress=progress)
    return seen_from(samples, camera_of(config.data), loaded.model.camera)


def _view_lines(samples: EchoDataset) -> list[str]:
    """Say what counts where the camera of the data is not that of the network."""
    from base_residual.data.views import SeenFrom

    if not isinstance(samples, SeenFrom):
        return []
    views = ["{:g} x {:g} degrees".format(*camera.field_of_view) for camera in (samples.other, samples.own)]
    return [f"The network sees {views[0]}, the data's camera {views[1]} (--field-of-view): only what both see counts."]


def _beside(checkpoint: Path, name: str) -> Path:
    """Return a path of that name beside a checkpoint; in the current folder for a released model."""
    from base_residual.models.released import is_released

    return Path(name) if is_released(checkpoint) else checkpoint.with_name(name)
