"""A run's folder: held by one process at a time, begun with the settings, filled with weights, pictures and figures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from base_residual.config.run_layout import BEST, CONFIG, CURVES, EVALUATION, LAST, picture_name, written_files
from base_residual.config.schema import Config
from base_residual.data.sample import EchoDataset, spread_indices
from base_residual.deploy.predict import picture_samples
from base_residual.errors import DataError, PredictionError, RunError
from base_residual.files.atomic import discard, discard_temporary, write_whole
from base_residual.files.json import as_json
from base_residual.models.checkpoint import Checkpoint, save_checkpoint
from base_residual.models.network import DepthNet
from base_residual.plots.figures import decomposition_figure, save_figure, standard_style
from base_residual.training.calibration import calibrate
from base_residual.training.curves import history_figure
from base_residual.training.result import FitResult
from base_residual.training.run_state import Position
from base_residual.training.trackers import Tracker

PICTURED = 3  # validation recordings in a decomposition picture


@contextmanager
def claimed(run_dir: Path, resume: bool, overwrite: bool) -> Iterator[None]:
    """Hold a run's folder for one process, and refuse to touch another run's files.

    Raises:
        RunError: the folder holds a run, is in use, or cannot be written to.
    """
    if resume and overwrite:
        raise RunError("--resume goes on with a run and --overwrite replaces it; give one of them.")
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(run_dir / ".lock", blocking=False)
        lock.acquire()
    except Timeout as error:
        raise RunError(
            f"Another process is training in {run_dir}. Wait for it, or use another --experiment-name."
        ) from error
    except OSError as error:
        raise RunError(f"Cannot write to {run_dir}: {error.strerror or error}.") from error
    try:
        if not resume and not overwrite and written_files(run_dir):
            raise RunError(
                f"{run_dir} already holds a run. Go on with --resume (resume=True), choose another "
                "--experiment-name (tracking.experiment_name), or replace it with --overwrite (overwrite=True)."
            )
        discard_temporary(run_dir)  # of a process that was killed
        yield
    finally:
        discard(run_dir / ".lock")  # while it is held: nobody else may hold another file of that name
        lock.release()
        with suppress(OSError):  # there is something to keep, or somebody has removed the folder
            run_dir.rmdir()


def remove_run(run_dir: Path) -> None:
    """Remove the files of a run, and nothing else that lies in its folder.

    Raises:
        RunError: one cannot be removed.
    """
    for path in written_files(run_dir):
        try:
            path.unlink()
        except OSError as error:
            raise RunError(f"Cannot remove {path}: {error.strerror or error}.") from error


def begin_run(config: Config, position: Position, overwrite: bool) -> None:
    """Write the settings, now that there is something to train on, and a network to train.

    Args:
        config: of the run.
        position: where it begins.
        overwrite: remove what an earlier run has left.

    Raises:
        RunError: a file cannot be removed or written, or no picture can be drawn.
    """
    run_dir = config.run_dir
    with standard_style():  # raises here, and not when an epoch's work could be lost
        pass
    if overwrite:
        remove_run(run_dir)
    if position.epoch <= config.trainer.epochs:  # a run that goes on is not finished, whatever it was before
        discard(run_dir / EVALUATION)
    began = f"# It began with the weights of {position.start}.\n" if position.start else ""
    write_whole(run_dir / CONFIG, began + config.to_yaml())


def start_trackers(trackers: Sequence[Tracker], config: Config, position: Position) -> None:
    """Tell trackers that a run begins; if one cannot take it, leave no run behind in which nothing has been done."""
    try:
        for tracker in trackers:
            tracker.start(config, config.run_dir, position.history)
    except Exception:
        if not position.history and not position.step:
            remove_run(config.run_dir)
        raise


def save_weights(run_dir: Path, model: DepthNet, position: Position) -> None:
    """Save the weights of the epoch that has just ended as the last ones, and as the best if they are."""
    epoch = len(position.history)
    if position.best_epoch == epoch:
        save_checkpoint(run_dir / BEST, model, epoch, position.history, start=position.start)
    save_checkpoint(run_dir / LAST, model, epoch, position.history, start=position.start)


def calibrate_best(
    run_dir: Path, best: Checkpoint[DepthNet], train: EchoDataset, val: EchoDataset, data: str, batch_size: int
) -> str:
    """Give the best weights a remainder, which the validation split sets; return why not if it cannot."""
    why = ""
    best.model.remainder = best.model.calibration = None  # of a run that was killed here
    try:
        calibrate(best.model, train, val, data, batch_size=batch_size)
    except (DataError, PredictionError) as error:  # a run does not end for it
        why = str(error)
    save_checkpoint(run_dir / BEST, best.model, best.epoch, best.history, start=best.model.provenance.start)
    return why


def save_picture(run_dir: Path, model: DepthNet, val: EchoDataset, epoch: int) -> Path:
    """Draw what the network makes of some validation recordings; return the picture's path."""
    samples = [val[index] for index in spread_indices(len(val), PICTURED)]
    about = f"{model.config.in_words}, " if model.config else ""
    title = f"{about}epoch {epoch}: validation recordings"
    figure = decomposition_figure(picture_samples(model, samples), title)
    return save_figure(figure, run_dir / picture_name(epoch))


def last_picture(run_dir: Path, epochs: int) -> Path:
    """Return the last picture that a run of so many epochs has left.

    A run that was stopped, and now ends before, has none of its last epoch.
    """
    pictures = [run_dir / picture_name(epoch) for epoch in range(epochs, 0, -1)]
    return next((picture for picture in pictures if picture.exists()), pictures[0])


def save_evaluation(result: FitResult) -> None:
    """Draw the curves, and write the test's figures, with which a run is finished."""
    save_figure(history_figure(result.history, result.title), result.run_dir / CURVES)
    write_whole(result.run_dir / EVALUATION, as_json(result.evaluation_report(), indent=2) + "\n")
