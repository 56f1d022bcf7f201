"""Training: epochs, validation, saving, resuming."""

from __future__ import annotations

import logging
import signal
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from html import escape
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from base_residual.config.resolve import make_config
from base_residual.config.run_layout import BEST, CONFIG, CURVES, EVALUATION, LAST, STATE, Record, picture_name
from base_residual.config.schema import Config
from base_residual.data import open_dataset
from base_residual.data.depth_maps import TOO_NEAR
from base_residual.data.loading import read_batches
from base_residual.data.sample import EchoDataset, abbreviate_names, check_split, collate, spread_indices
from base_residual.errors import DataError, RunError, TrainingError, TrainingInterrupted, out_of_memory
from base_residual.evaluation import Criterion, criteria_table, evaluate, success_criteria, why_undecided
from base_residual.evaluation.blind import BlindGuess, blind_lines
from base_residual.files.atomic import discard, replacing
from base_residual.files.json import as_json
from base_residual.losses import LOSS_NAMES
from base_residual.machine import resolve_device
from base_residual.metrics import Evaluation
from base_residual.models.checkpoint import save_checkpoint
from base_residual.models.factory import create_model, load_checkpoint
from base_residual.models.network import DepthNet
from base_residual.plots.display import show
from base_residual.plots.figures import as_png, decomposition_figure, panels, save_figure
from base_residual.training.batches import Batches, make_loader
from base_residual.training.curves import history_figure
from base_residual.training.distributed import ALONE, joined, leading, own_device, share_norms
from base_residual.training.optimisation import make_optimizer
from base_residual.training.run_folder import (
    SUMS,
    Position,
    claimed,
    remove_run,
    restore_state,
    save_state,
    settings_mark,
)
from base_residual.training.step import LESS_MEMORY, Updater
from base_residual.training.trackers import Tracker, make_trackers

log = logging.getLogger("base_residual")

log = logging.getLogger("base_residual")

GO_ON, SAVE, STOP = range(3)  # what a step may be asked to be followed by; of all processes' wishes the highest counts
AGAIN = 1.0  # seconds within which a second signal is the first one, passed on
PICTURED = 3  # validation recordings in a decomposition picture
MEAN_FROM = 256  # training maps from which the mean depth is taken


@dataclass(frozen=True)
class FitResult:
    """What a run has come to.

    Attributes:
        run_dir: folder with all that it wrote.
        history: one record per epoch, as in metrics.jsonl.
        best_epoch: the epoch with the lowest validation rmse, whose weights are in best.safetensors.
        test: figures of those weights on the test split.
        blind: test rmse of the training set's mean map and of its best constant, in metres.
        criteria: the success criteria.
        picture: the last decomposition picture.
    """

    run_dir: Path
    history: list[Record]
    best_epoch: int
    test: Evaluation
    blind: dict[str, float]
    criteria: list[Criterion]
    picture: Path

    @property
    def best(self) -> Record:
        """The record of the best epoch."""
        return self.history[self.best_epoch - 1]

    def as_dict(self) -> dict[str, Any]:
        """What evaluation.json says and where things are, ready for JSON."""
        return _tested(self.test, self.blind, self.criteria) | {
            "best_epoch": self.best_epoch,
            "epochs": len(self.history),
            "best": self.best,
            "run_dir": str(self.run_dir),
            "checkpoint": str(self.run_dir / BEST),
            "picture": str(self.picture),
        }

    def plot(self) -> None:
        """Draw the curves at once: in a notebook beneath the cell, else in the system's picture viewer.

        Raises:
            RunError: there is nothing to show them in.
        """
        show(history_figure(self.history, self.run_dir.name))

    def _repr_html_(self) -> str:
        """Return what a notebook shows where a cell ends with a result: curves, figures, success criteria."""
        lowest = f"validation rmse {self.best['val/rmse']:.3f} m"
        best = f"The best of {len(self.history)} epochs is {self.best_epoch}, {lowest}."
        curves = b64encode(as_png(history_figure(self.history))).decode()
        return "".join(
            [
                f"<p><b>{escape(str(self.run_dir))}</b><br>{escape(best)}</p>",
                f'<img alt="loss and validation rmse over the epochs" style="max-width:100%" '
                f'src="data:image/png;base64,{curves}">',
                "<p><b>Test split</b></p>",
                self.test._repr_html_(),
                *(f"<p>{escape(line)}</p>" for line in blind_lines(self.test.metrics["rmse"], self.blind)),
                "<p><b>Success criteria</b></p>",
                criteria_table(self.criteria, title="").to_html(),
            ]
        )


class Trainer:
    """Trains the network that a configuration describes, and leaves a run folder behind.

    Args:
        config: settings; default: the package's, on simulated rooms.
        train: dataset to train on; default: the one that the configuration names.
        val: dataset to validate on; default: the same.
        test: dataset to test on; default: the same.
        resume: go on where the run's saved state ends; begin where there is none.
        overwrite: remove what an earlier run of the same name has left, once this one can begin.
        trackers: who is told how it goes, beyond those that the configuration asks for; default: the terminal.

    Raises:
        ConfigError: the device is not there.
    """

    def __init__(
        self,
        config: Config | None = None,
        *,
        train: EchoDataset | None = None,
        val: EchoDataset | None = None,
        test: EchoDataset | None = None,
        resume: bool = False,
        overwrite: bool = False,
        trackers: Sequence[Tracker] | None = None,
    ) -> None:
        self.config = config or make_config()
        self.device = own_device(resolve_device(self.config.trainer.device))
        self._processes = ALONE
        self._given = {"train": train, "val": val, "test": test}
        self._resume, self._overwrite = resume, overwrite
        if trackers is None:
            from base_residual.training.terminal import terminal_tracker  # what draws in a terminal is slow to import

            trackers = [terminal_tracker()]
        told = [*make_trackers(self.config), *trackers]
        self._trackers = told if leading() else []

    def fit(self) -> FitResult:
        """Train, validate after each epoch, and test the best weights at the end.

        Under torchrun all processes call this: each takes its share of every batch, the first writes and prints, and
        the numbers are those of one process with the same batch size.

        Returns:
            What the run has come to.

        Raises:
            RunError: the run's folder is taken or not writable, its state belongs to other settings, or processes have
                found different ones.
            DataError: the data is not there or not as expected.
            TrainingError: the loss is no longer finite, a step does not fit into memory, the network cannot be compiled
                on this machine, or another process has ended.
            TrainingInterrupted: Ctrl-C or a termination signal came; the state was saved.
        """
        run_dir = self.config.run_dir
        with joined(self.device) as self._processes:
            leads = self._processes.leads
            with claimed(run_dir, self._resume, self._overwrite) if leads else nullcontext():
                self._processes.wait()
                try:
                    return self._fit(run_dir)
                except RuntimeError as error:
                    if out_of_memory(error):
                        raise TrainingError(
                            f"A step does not fit into the memory of {self.device}. {LESS_MEMORY}"
                        ) from error
                    if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                        raise
                    why = " ".join(str(error).partition("\n\n")[0].split())  # what comes after is for developers
                    raise TrainingError(
                        f"PyTorch cannot compile the network here ({why}). Train with --no-compile."
                    ) from error
                finally:
                    for tracker in self._trackers:
                        tracker.close()

    def _fit(self, run_dir: Path) -> FitResult:
        datasets = {split: self._open(split) if given is None else given for split, given in self._given.items()}
        for split, dataset in datasets.items():
            check_split(split, dataset, self.config.data, self.config.audio.sample_rate)
        settings = self.config.trainer
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            model = create_model(self.config)
        model.initialise_depth(mean_depth(datasets["train"], self.config.data.max_depth))
        model.to(self.device)
        if self._processes.world > 1:
            share_norms(model)
        optimizer = make_optimizer(model, settings)
        batches = Batches(len(datasets["train"]), settings.batch_size, settings.seed, self._processes)
        updater = Updater(model, optimizer, self.config, len(batches), batches.least, self._processes)
        position = Position(1, 0, torch.zeros(SUMS), [], len(datasets["train"]))
        if self._resume and (run_dir / EVALUATION).exists() and not (run_dir / STATE).exists():
            raise RunError(
                f"The run in {run_dir} is finished, and {STATE}, from which it could go on, is gone. Replace it with "
                "--overwrite (overwrite=True), or use another --experiment-name."
            )
        if self._resume and (run_dir / STATE).exists():
            position = restore_state(run_dir / STATE, self.config, updater.networks, optimizer, position.recordings)
        if settings.epochs < len(position.history):
            raise RunError(
                f"The run in {run_dir} has {len(position.history)} epochs and cannot end after {settings.epochs} "
                "(trainer.epochs). Give as many or more, or begin another run."
            )
        self._check_alike(position)
        if self._processes.leads:
            if self._overwrite:
                remove_run(run_dir)  # now that there is something to train on, and a network to train
            if position.epoch <= settings.epochs:  # a run that goes on is not finished, whatever it was before
                discard(run_dir / EVALUATION)
            with replacing(run_dir / CONFIG) as aside:
                aside.write_text(self.config.to_yaml(), encoding="utf-8")
        for tracker in self._trackers:
            tracker.start(self.config, run_dir, position.history)
        picture = self._run(updater, batches, datasets["train"], datasets["val"], position)
        return self._finish(datasets["train"], datasets["test"], position, picture, updater.at_once)

    def _check_alike(self, position: Position) -> None:
        """Refuse processes of which one goes on where another begins, or that have other settings, data or folders."""
        there = self.config.run_dir.is_dir()  # the first one has made it
        own = torch.tensor([[position.epoch, position.step, position.recordings, there, settings_mark(self.config)]])
        if len(self._processes.gathered(own).unique(dim=0)) > 1:
            raise RunError(
                f"The processes have other settings, different states in {self.config.run_dir}, or different "
                "numbers of recordings. All machines need the same command, results folder and dataset."
            )

    def _open(self, split: str) -> EchoDataset:
        data = self.config.data
        return open_dataset(data.name, data.root, split, self.config, self._tell_preparing)

    def _tell_preparing(self, what: str, done: int, total: int) -> None:
        for tracker in self._trackers:
            tracker.preparing(what, done, total)

    def _run(
        self, updater: Updater, batches: Batches, train: EchoDataset, val: EchoDataset, position: Position
    ) -> Path:
        """All epochs from `position` on; returns the last picture."""
        config, run_dir = self.config, self.config.run_dir
        loader = make_loader(train, batches, config.data.num_workers, self.device)
        saved = time.monotonic()
        with interruptible() as interrupted:
            while position.epoch <= config.trainer.epochs:
                epoch = position.epoch
                updater.loss.set_epoch(epoch)
                batches.epoch, batches.first = epoch, position.step
                updater.model.train()
                position.sums = position.sums.to(self.device)
                for batch in read_batches(loader):
                    position.sums = position.sums + updater.update(batch, epoch, position.step)
                    position.step += 1
                    for tracker in self._trackers:
                        tracker.step(epoch, position.step, len(batches))
                        tracker.losses(position.sums)
                    due = time.monotonic() >= saved + 60 * config.trainer.save_every
                    asked = self._processes.highest(STOP if interrupted.is_set() else SAVE if due else GO_ON)
                    if asked != GO_ON:
                        self._save(updater, position)
                        saved = time.monotonic()
                    if asked == STOP:
                        self._processes.wait()  # until all is saved: the end of one process ends the others
                        raise TrainingInterrupted(
                            f"Stopped in epoch {epoch} after {position.step} of {len(batches)} steps. All of it is "
                            f"saved in {run_dir}; the same command with --resume (resume=True) goes on from there."
                        )
                self._end_epoch(updater, val, position)
        pictures = [run_dir / picture_name(epoch) for epoch in range(position.epoch - 1, 0, -1)]
        # A run that was stopped, and now ends before, has none of its last epoch.
        return next((picture for picture in pictures if picture.exists()), pictures[0])

    def _end_epoch(self, updater: Updater, val: EchoDataset, position: Position) -> None:
        """Validate, record, save."""
        config, run_dir, model, epoch = self.config, self.config.run_dir, updater.judged, position.epoch
        self._tell_faults(updater, epoch)
        *sums, steps = self._processes.mean(position.sums).tolist()
        if not steps:
            raise TrainingError(f"Not one step of epoch {epoch} could be taken.")
        means = [value / steps for value in sums]
        found = evaluate(
            model,
            val,
            batch_size=updater.at_once,
            num_workers=config.data.num_workers,
            detach_base=updater.detaches(epoch),
            indices=self._processes.share(len(val)),
            gathered=self._processes.gathered,
        )
        record: Record = {"epoch": epoch}
        record |= {f"train/loss_{name}": value for name, value in zip(LOSS_NAMES, means, strict=True)}
        record |= {f"train/lambda_{name}": value for name, value in updater.loss.weights._asdict().items()}
        record |= {f"val/{name}": value for name, value in (found.metrics | found.decomposition).items()}
        position.history.append(record)
        position.epoch, position.step, position.sums = epoch + 1, 0, torch.zeros(SUMS)
        if self._processes.leads:
            if position.best_epoch == epoch:
                save_checkpoint(run_dir / BEST, model, epoch, position.history)
            save_checkpoint(run_dir / LAST, model, epoch, position.history)
            if epoch % config.trainer.picture_every == 0 or epoch in (1, config.trainer.epochs):
                self._picture(model, val, epoch)
        if epoch == config.trainer.epochs:  # after all that a resumed run would not do again
            self._save(updater, position)
        for tracker in self._trackers:
            tracker.epoch(position.history)

    def _tell_faults(self, updater: Updater, epoch: int) -> None:
        """Say which steps were left out, or end the run for them."""
        faults = updater.faults()
        if not faults:
            return
        names = abbreviate_names([name for ids in faults for name in ids])
        fault = (
            f"The loss or its gradient was not finite in epoch {epoch}, in {len(faults)} of its steps, with {names}."
        )
        if self.config.trainer.on_fault == "skip":
            log.warning("%s These steps were left out.", fault)
            return
        raise TrainingError(
            f"{fault} Nothing of it reached the weights, nor what was saved. Mend these recordings, lower "
            f"trainer.learning_rate (now {self.config.trainer.learning_rate:g}), or leave such steps out with "
            "trainer.on_fault=skip, and go on with --resume."
        )

    def _save(self, updater: Updater, position: Position) -> None:
        """Write where the run stands; the losses of all processes go into it."""
        self._tell_faults(updater, position.epoch)
        position.sums = self._processes.mean(position.sums)
        if self._processes.leads:
            path = self.config.run_dir / STATE
            save_state(path, self.config, updater.networks, updater.optimizer, position)

    def _picture(self, model: DepthNet, val: EchoDataset, epoch: int) -> None:
        samples = [val[index] for index in spread_indices(len(val), PICTURED)]
        batch = collate(samples)
        parts = model.predict(batch.waveform)
        rows = panels(parts, [sample.depth.numpy() for sample in samples], batch.ids)
        path = self.config.run_dir / picture_name(epoch)
        save_figure(decomposition_figure(rows, f"Epoch {epoch}, validation recordings"), path)
        for tracker in self._trackers:
            tracker.picture(epoch, path)

    def _finish(
        self, train: EchoDataset, test: EchoDataset, position: Position, picture: Path, at_once: int
    ) -> FitResult:
        """Test the best weights and write what came of it."""
        config, run_dir = self.config, self.config.run_dir
        self._processes.wait()  # until the best weights are written
        best = load_checkpoint(run_dir / BEST, self.device)
        if best.epoch > len(position.history):
            raise RunError(
                f"{run_dir} holds the weights of epoch {best.epoch}, to which the run had come before it was killed, "
                f"and now it ends before. Go on with --resume and --epochs {best.epoch} or more (trainer.epochs)."
            )
        found = evaluate(
            best.model,
            test,
            batch_size=at_once,
            num_workers=config.data.num_workers,
            indices=self._processes.share(len(test)),
            gathered=self._processes.gathered,
        )
        blind = BlindGuess.from_dataset(train).rmse_on(test, config.data.max_depth)
        curve, why = [record["val/rmse"] for record in position.history], why_undecided(config.model.name)
        criteria = success_criteria(found, curve, undecided=why)
        if self._processes.leads:
            save_figure(history_figure(position.history, config.run_name), run_dir / CURVES)
            with replacing(run_dir / EVALUATION) as aside:
                report = _tested(found, blind, criteria)
                aside.write_text(as_json(report, indent=2) + "\n", encoding="utf-8")
        self._processes.wait()  # until all is written: the end of one process would end the others
        return FitResult(run_dir, position.history, best.epoch, found, blind, criteria, picture)


def _tested(found: Evaluation, blind: dict[str, float], criteria: list[Criterion]) -> dict[str, Any]:
    return found.as_dict() | {"split": "test", "blind_rmse": blind, "criteria": [c._asdict() for c in criteria]}


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C or a termination signal sets, so that no step is cut in two.

    A second one, a while later, acts at once. Both may come twice in one moment: from the terminal or the cluster, and
    from torchrun, which passes on what it got.
    """
    event, first = threading.Event(), 0.0
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if not event.is_set():
            first = time.monotonic()
            event.set()
        elif time.monotonic() >= first + AGAIN:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def mean_depth(dataset: EchoDataset, max_depth: float) -> float:
    """Mean of the measured pixels of some training maps, in metres.

    Raises:
        DataError: nothing was measured in those maps, or all so near or so far that they cannot be in metres.
    """
    maps = [dataset[index].depth for index in spread_indices(len(dataset), MEAN_FROM)]
    measured = torch.cat([depth[depth > 0] for depth in maps])
    if not len(measured):
        raise DataError("Not one depth map of the training split has a measured pixel: there is nothing to learn from.")
    nearest, farthest = float(measured.min()), float(measured.max())
    if farthest < TOO_NEAR:
        raise DataError(
            f"Nothing in the training split is farther away than {farthest:.3f} m: as if its depth maps were in "
            "metres, where millimetres are expected."
        )
    if nearest >= max_depth:
        raise DataError(
            f"Nothing in the training split is nearer than data.max_depth, {max_depth:g} m: as if its depth maps were "
            "in millimetres, where metres are expected."
        )
    return float(measured.double().mean())
