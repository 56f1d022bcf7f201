"""Training: epochs, validation, saving, resuming."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from base_residual.config.presets import DATASET_WORDS
from base_residual.config.resolve import make_config
from base_residual.config.run_layout import BEST, CONFIG, STATE, Record, val_rmse
from base_residual.config.schema import Config
from base_residual.data import open_dataset
from base_residual.data.loading import end_unguarded_script, read_batches, readers_in_words
from base_residual.data.prepared import PreparedSet
from base_residual.data.sample import EchoDataset, abbreviate_names, spread_indices
from base_residual.data.splits import SplitIdentity, look_at_split
from base_residual.errors import DataError, RunError, TrainingError, TrainingInterrupted, out_of_memory
from base_residual.evaluation import evaluate, success_criteria, why_undecided
from base_residual.evaluation.blind import BlindGuess
from base_residual.evaluation.elsewhere import try_elsewhere
from base_residual.losses import LOSS_NAMES
from base_residual.machine import cpu_threads, many_threads, resolve_device, standard_torch
from base_residual.metrics import Evaluation
from base_residual.models.adopt import adopt, require_alike
from base_residual.models.factory import create_model, load_checkpoint, load_start
from base_residual.models.network import DepthNet
from base_residual.training.batches import Batches, make_loader
from base_residual.training.distributed import ALONE, is_first_process, local_device, process_group
from base_residual.training.interruption import interruptible
from base_residual.training.optimisation import make_optimizer
from base_residual.training.result import FitResult
from base_residual.training.run_folder import (
    begin_run,
    calibrate_best,
    claimed,
    last_picture,
    save_evaluation,
    save_picture,
    save_weights,
    start_trackers,
)
from base_residual.training.run_state import Position, check_alike, resumed, save_state
from base_residual.training.step import LESS_MEMORY, TrainingStep, make_step
from base_residual.training.sync_batch_norm import synchronise_batch_norms
from base_residual.training.trackers import Tracker, make_trackers

log = logging.getLogger("base_residual")

GO_ON, SAVE, STOP = range(3)  # what follows a step; of all processes' requests the highest counts
FIRST_PICTURE = 20.0  # seconds of training after which there is something to look at, however long an epoch takes
MEAN_FROM = 256  # training maps from which the mean depth is taken


class Trainer:
    """Train the network that a configuration describes, and leave a run folder behind.

    Args:
        config: settings; default: the package's, on simulated rooms.
        train: dataset to train on, instead of the one that the configuration names.
        val: the same, to validate on.
        test: the same, to test on.
        resume: go on where the run's saved state ends; begin where there is none.
        overwrite: remove what an earlier run of the same name has left, once this one can begin.
        init: begin with the weights of this checkpoint, or of the released model of this name. The settings have to be
            those of its network but for the map's side and the largest depth; `fine_tuning_config` gives them.
        trackers: told how the run goes, beside those that the configuration asks for; default: one for the terminal.

    Raises:
        ConfigError: the device is not there.
        RunError: a run cannot begin anew and go on.
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
        init: str | Path | None = None,
        trackers: Sequence[Tracker] | None = None,
    ) -> None:
        self.config = config or make_config()
        if resume and init is not None:
            raise RunError(
                "--init begins a run, and --resume goes on with one, whose weights are saved; give one of them. What "
                f"goes on is {_how_to_go_on(self.config, True)}."
            )
        self.device = local_device(resolve_device(self.config.trainer.device))
        self._processes = ALONE
        self._given = {"train": train, "val": val, "test": test}
        self._resume, self._overwrite, self._init = resume, overwrite, init
        if trackers is None:
            from base_residual.training.terminal import terminal_tracker  # what draws in a terminal is slow to import

            trackers = [terminal_tracker()]
        trackers = [*make_trackers(self.config), *trackers]
        self._trackers = trackers if is_first_process() else []
        self._saved = 0.0  # when the state was last saved, by the monotonic clock
        self._first_picture = math.inf  # when the first picture is due, if no epoch has ended before

    @standard_torch()
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
        end_unguarded_script()
        with (
            cpu_threads(self.config.trainer.threads or many_threads()),
            process_group(self.device) as self._processes,
        ):
            leads = self._processes.leads
            with claimed(self.config.run_dir, self._resume, self._overwrite) if leads else nullcontext():
                self._processes.wait()
                try:
                    with _errors_in_words(self.device):
                        return self._fit()
                finally:
                    for tracker in self._trackers:
                        tracker.close()

    def _fit(self) -> FitResult:
        """Open the data, make the network, train and validate in every epoch, and test at the end."""
        config, settings, run_dir, processes = self.config, self.config.trainer, self.config.run_dir, self._processes
        first, start = (None, None) if self._init is None else load_start(self._init)
        if first is not None:
            require_alike(config, first.config)  # before there is anything to wait for
        train, val, test = opened = [self._open(split) for split in self._given]
        identities = {name: self._look(name, dataset) for name, dataset in zip(self._given, opened, strict=True)}
        model = self._make_network(train, first)
        optimizer = make_optimizer(model, settings)
        batches = Batches(len(train), settings.batch_size, settings.seed, processes)
        step = make_step(model, optimizer, config, len(batches), batches.least, processes)
        position = Position.at_start(identities, start)
        if self._resume:
            position = resumed(config, step.networks, optimizer, position)
        check_alike(position, config, processes)
        if processes.leads:
            begin_run(config, position, self._overwrite)
        start_trackers(self._trackers, config, position)
        loader = make_loader(train, batches, config.data.num_workers, self.device, config.data.max_depth)
        self._saved = time.monotonic()
        self._first_picture = math.inf if position.history else self._saved + FIRST_PICTURE
        with interruptible() as interrupted:
            for epoch in range(position.epoch, settings.epochs + 1):
                self._train_epoch(step, batches, loader, position, interrupted, val)
                losses = self._mean_losses(step, position)
                found = self._score(step.eval_model, val, step.micro_batch, detach_base=step.detaches(epoch))
                position.end_epoch(epoch_record(epoch, losses, step, found))
                if processes.leads:
                    save_weights(run_dir, step.eval_model, position)
                for tracker in self._trackers:
                    tracker.epoch(position.history)
                if epoch % settings.picture_every == 0 or epoch in (1, settings.epochs):
                    self._draw(step, val, epoch)
                if epoch == settings.epochs:  # after all that a resumed run would not do again
                    self._save(step, position)
            if processes.highest(STOP if interrupted.is_set() else GO_ON) == STOP:
                rest = f"{_how_to_go_on(config, bool(position.start))} tests it"
                raise TrainingInterrupted(f"Stopped before the test. What was learned is saved in {run_dir}; {rest}.")
        return self._test(train, val, test, position, step.micro_batch)

    def _open(self, split: str) -> EchoDataset:
        """Return a split that was given, or the one that the configuration names, rendered and prepared."""
        config, data, dataset = self.config, self.config.data, self._given[split]
        if dataset is None:
            dataset = open_dataset(data.name, data.root, split, config, self._tell_preparing)
        return dataset

    def _look(self, split: str, dataset: EchoDataset) -> SplitIdentity:
        """Check that a split can be used, before the first step; return what it holds."""
        data = self.config.data
        # Rooms that each machine renders for itself are decided by the settings, and differ in the last bits.
        rendered = data.name == "simulated" and data.root is None
        files = dataset.files_hash if isinstance(dataset, PreparedSet) and not rendered else None
        return look_at_split(split, dataset, data, self.config.audio, files)

    def _tell_preparing(self, what: str, done: int, total: int) -> None:
        for tracker in self._trackers:
            tracker.preparing(what, done, total)

    def _make_network(self, train: EchoDataset, first: DepthNet | None) -> DepthNet:
        """Make the network on the run's device; it begins at the mean depth, or with the weights of another."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.trainer.seed)
            model = create_model(self.config)
        depth = mean_depth(train, self.config.data.max_depth)
        if first is None:
            model.initialise_depth(depth)
        else:
            adopt(model, first, depth)
        model.to(self.device)
        if self._processes.world > 1:
            synchronise_batch_norms(model)
        return model

    def _train_epoch(
        self,
        step: TrainingStep,
        batches: Batches,
        loader: DataLoader[Any],
        position: Position,
        interrupted: threading.Event,
        val: EchoDataset,
    ) -> None:
        """Take the steps of an epoch that are left; draw and save in between when it is time, and stop when asked."""
        epoch = position.epoch
        step.loss.set_epoch(epoch)
        batches.epoch, batches.first = epoch, position.step
        step.model.train()
        position.sums = position.sums.to(self.device)
        for batch in read_batches(loader):
            position.sums = position.sums + step.update(batch, epoch, position.step)
            position.step += 1
            for tracker in self._trackers:
                tracker.step(epoch, position.step, len(batches))
            if time.monotonic() >= self._first_picture:
                self._draw(step, val, epoch)
            due = time.monotonic() >= self._saved + 60 * self.config.trainer.save_every
            request = self._processes.highest(STOP if interrupted.is_set() else SAVE if due else GO_ON)
            if request != GO_ON:
                self._save(step, position)
            if request == STOP:
                self._processes.wait()  # until all is saved: the end of one process ends the others
                raise TrainingInterrupted(
                    f"Stopped in epoch {epoch} after {position.step} of {len(batches)} steps. All of it is saved in "
                    f"{self.config.run_dir}; {_how_to_go_on(self.config, bool(position.start))} goes on from there."
                )

    def _draw(self, step: TrainingStep, val: EchoDataset, epoch: int) -> None:
        """Draw what the network makes of some validation recordings by now."""
        self._first_picture = math.inf
        if self._processes.leads:
            picture = save_picture(self.config.run_dir, step.eval_model, val, epoch)
            for tracker in self._trackers:
                tracker.picture(epoch, picture)

    def _mean_losses(self, step: TrainingStep, position: Position) -> list[float]:
        """Return an epoch's mean loss and terms over all processes, in the order of `LOSS_NAMES`."""
        self._tell_faults(step, position.epoch)
        *sums, steps = self._processes.mean(position.sums).tolist()
        if not steps:
            raise TrainingError(f"Not one step of epoch {position.epoch} could be taken.")
        return [value / steps for value in sums]

    def _score(self, model: DepthNet, dataset: EchoDataset, micro_batch: int, detach_base: bool = False) -> Evaluation:
        """Score a network on a dataset, of which each process takes a share; all get the same figures."""
        return evaluate(
            model,
            dataset,
            batch_size=micro_batch,
            num_workers=self.config.data.num_workers,
            detach_base=detach_base,
            indices=self._processes.share(len(dataset)),
            gathered=self._processes.gathered,
        )

    def _tell_faults(self, step: TrainingStep, epoch: int) -> None:
        """Say which steps were left out, or end the run for them."""
        faults = step.faults.found()
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

    def _save(self, step: TrainingStep, position: Position) -> None:
        """Write where the run stands; the losses of all processes go into it."""
        self._tell_faults(step, position.epoch)
        position.sums = self._processes.mean(position.sums)
        if self._processes.leads:
            save_state(self.config.run_dir / STATE, self.config, step.networks, step.optimizer, position)
        self._saved = time.monotonic()

    def _test(
        self, train: EchoDataset, val: EchoDataset, test: EchoDataset, position: Position, micro_batch: int
    ) -> FitResult:
        """Calibrate and test the best weights, and write what came of it."""
        config, run_dir = self.config, self.config.run_dir
        self._processes.wait()  # until the best weights are written
        best = load_checkpoint(run_dir / BEST, self.device)
        if best.epoch > len(position.history):
            raise RunError(
                f"{run_dir} holds the weights of epoch {best.epoch}, to which the run had come before it was killed, "
                f"and now it ends before. Go on with --resume and --epochs {best.epoch} or more (trainer.epochs)."
            )
        uncalibrated = ""
        if self._processes.leads:
            own = "recordings that were given" if self._given["val"] is not None else DATASET_WORDS[config.data.name]
            uncalibrated = calibrate_best(run_dir, best, train, val, own, micro_batch)
        self._processes.wait()
        best = load_checkpoint(run_dir / BEST, self.device)
        found = self._score(best.model, test, micro_batch)
        blind = BlindGuess.from_dataset(train, config.data.max_depth).rmse_on(test, config.data.max_depth)
        curve, why = val_rmse(position.history), why_undecided(config.model.name)
        criteria = success_criteria(found, curve, undecided=why, blind=blind)
        picture = last_picture(run_dir, len(position.history))
        elsewhere = try_elsewhere(best.model) if self._processes.leads else []
        result = FitResult(
            run_dir,
            position.history,
            best.epoch,
            found,
            blind,
            criteria,
            picture,
            config.in_words,
            elsewhere,
            position.start,
            best.model.calibration,
            uncalibrated,
        )
        if self._processes.leads:
            save_evaluation(result)
        self._processes.wait()  # until all is written: the end of one process would end the others
        return result


def _how_to_go_on(config: Config, initialised: bool) -> str:
    """Return the command that goes on with a run; --init implied settings that are noted in its folder."""
    if initialised:
        return f"brdepth train --config {config.run_dir / CONFIG} --resume"
    return "the same command with --resume (resume=True)"


@contextmanager
def _errors_in_words(device: torch.device) -> Iterator[None]:
    """Say in a sentence what PyTorch raises where memory is short, readers end, or a network cannot be compiled."""
    try:
        with readers_in_words():
            yield
    except RuntimeError as error:
        if out_of_memory(error):
            raise TrainingError(f"A step does not fit into the memory of {device}. {LESS_MEMORY}") from error
        if not type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            raise
        why = " ".join(str(error).partition("\n\n")[0].split())  # what comes after is for developers
        raise TrainingError(f"PyTorch cannot compile the network here ({why}). Train with --no-compile.") from error


def epoch_record(epoch: int, losses: Sequence[float], step: TrainingStep, found: Evaluation) -> Record:
    """Return an epoch's line of metrics.jsonl.

    Args:
        epoch: from 1.
        losses: means over its steps, in the order of `LOSS_NAMES`.
        step: whose loss knows the weights of its terms.
        found: figures of the validation.
    """
    record: Record = {"epoch": epoch}
    record |= {f"train/loss_{name}": value for name, value in zip(LOSS_NAMES, losses, strict=True)}
    record |= {f"train/lambda_{name}": value for name, value in step.loss.weights._asdict().items()}
    return record | {f"val/{name}": value for name, value in (found.metrics | found.decomposition).items()}


def mean_depth(dataset: EchoDataset, max_depth: float) -> float:
    """Return the mean of the measured pixels of some training maps, in metres.

    Raises:
        DataError: nothing was measured in those maps.
    """
    maps = [dataset[index].depth.clamp(max=max_depth) for index in spread_indices(len(dataset), MEAN_FROM)]
    measured = torch.cat([depth[depth > 0] for depth in maps])
    if not len(measured):
        raise DataError(f"Not one of {len(maps)} depth maps, spread over the train split, has a measured pixel.")
    return float(measured.double().mean())
