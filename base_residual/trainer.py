"""Training: epochs, validation, saving, resuming."""

from __future__ import annotations

import json
import math
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from base_residual.baseline import PlainLoss, create_model
from base_residual.checkpoint import load_checkpoint, save_checkpoint
from base_residual.config import Config, TrainerConfig, make_config
from base_residual.console import ConsoleTracker
from base_residual.data import open_dataset
from base_residual.data.augment import augment
from base_residual.data.sample import EchoBatch, EchoDataset, collate, spread
from base_residual.errors import ConfigError, DataError, TrainingError, TrainingInterrupted
from base_residual.evaluation import BlindGuess, Criterion, Evaluation, evaluate, success_criteria
from base_residual.files import replacing
from base_residual.losses import LossTerms, make_loss
from base_residual.model import DepthNet
from base_residual.run_folder import STATE, Position, claimed, restore_state, save_state
from base_residual.tracking import Record, Tracker, make_trackers
from base_residual.visualize import curves_figure, decomposition_figure, panels, save_figure

RISE = 0.15  # share of the steps in which the one-cycle schedule rises
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


class Batches:
    """Sample indices of each batch of an epoch, decided by seed and epoch alone, from any step on.

    Args:
        count: samples of the dataset.
        batch_size: samples per batch; what is left over at the end of an epoch is left out.
        seed: of the run.
    """

    def __init__(self, count: int, batch_size: int, seed: int) -> None:
        self.count, self.batch_size, self.seed = count, min(batch_size, count), seed
        self.epoch, self.first = 1, 0

    def __len__(self) -> int:
        return self.count // self.batch_size

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.count, generator=generator(self.seed, self.epoch)).tolist()
        for step in range(self.first, len(self)):
            yield order[step * self.batch_size : (step + 1) * self.batch_size]


class Trainer:
    """Trains the network that a configuration describes, and leaves a run folder behind.

    Args:
        config: settings; default: the package's, on simulated rooms.
        train, val, test: datasets to use instead of those that the configuration names.
        resume: go on where the run's saved state ends; begin where there is none.
        overwrite: remove what an earlier run of the same name has left.
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
        self.device = resolve_device(self.config.trainer.device)
        self._given = {"train": train, "val": val, "test": test}
        self._resume, self._overwrite = resume, overwrite
        self._trackers = [*make_trackers(self.config), *([ConsoleTracker()] if trackers is None else trackers)]

    def fit(self) -> FitResult:
        """Train, validate after each epoch, and test the best weights at the end.

        Returns:
            What the run has come to.

        Raises:
            RunError: the run's folder is taken or not writable, or its state belongs to other settings.
            DataError: the data is not there or not as expected.
            TrainingError: the loss is no longer finite.
            TrainingInterrupted: Ctrl-C or a termination signal came; the state was saved.
        """
        run_dir = self.config.run_dir
        with claimed(run_dir, self._resume, self._overwrite):
            try:
                return self._fit(run_dir)
            finally:
                for tracker in self._trackers:
                    tracker.close()

    def _fit(self, run_dir: Path) -> FitResult:
        datasets = {split: self._open(split) if given is None else given for split, given in self._given.items()}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.trainer.seed)
            model = create_model(self.config)
        model.start_at(mean_depth(datasets["train"]))
        model.to(self.device)
        optimizer = make_optimizer(model, self.config.trainer)
        position = Position(1, 0, torch.zeros(4), [])
        if self._resume and (run_dir / STATE).exists():
            position = restore_state(run_dir / STATE, self.config, model, optimizer)
        with replacing(run_dir / "config.yaml") as aside:
            aside.write_text(self.config.to_yaml(), encoding="utf-8")
        for tracker in self._trackers:
            tracker.start(self.config, run_dir, position.history)
        picture = self._run(model, optimizer, datasets["train"], datasets["val"], position)
        return self._finish(datasets["train"], datasets["test"], position, picture)

    def _open(self, split: str) -> EchoDataset:
        data = self.config.data
        return open_dataset(data.name, data.root, split, self.config, self._tell_preparing)

    def _tell_preparing(self, what: str, done: int, total: int) -> None:
        for tracker in self._trackers:
            tracker.preparing(what, done, total)

    def _run(
        self,
        model: DepthNet,
        optimizer: torch.optim.Optimizer,
        train: EchoDataset,
        val: EchoDataset,
        position: Position,
    ) -> Path:
        """All epochs from `position` on; returns the last picture."""
        config, run_dir = self.config, self.config.run_dir
        settings = config.trainer
        loss = make_loss(config.loss) if model.splits else PlainLoss(config.loss.recon)
        batches = Batches(len(train), settings.batch_size, settings.seed)
        loader = make_loader(train, batches, config.data.num_workers, self.device)
        picture = run_dir / f"epoch_{settings.epochs:04d}_decomposition.png"
        with interruptible() as interrupted:
            while position.epoch <= settings.epochs:
                epoch = position.epoch
                loss.set_epoch(epoch)
                detach = config.loss.curriculum and epoch > config.loss.warmup_epochs
                batches.epoch, batches.first = epoch, position.step
                model.train()
                position.sums = position.sums.to(self.device)
                for batch in loader:
                    terms = self._step(model, optimizer, loss, batch, position, len(batches), detach)
                    position.sums = position.sums + terms
                    position.step += 1
                    for tracker in self._trackers:
                        tracker.step(epoch, position.step, len(batches))
                    if interrupted.is_set():
                        save_state(run_dir / STATE, config, model, optimizer, position)
                        raise TrainingInterrupted(
                            f"Stopped in epoch {epoch} after {position.step} of {len(batches)} steps. All of it is "
                            f"saved in {run_dir}; the same command with --resume goes on from there."
                        )
                self._end_epoch(model, optimizer, val, position, loss.weights._asdict(), len(batches), detach)
                if epoch % settings.picture_every == 0 or epoch == settings.epochs:
                    picture = self._picture(model, val, epoch)
        return picture

    def _step(
        self,
        model: DepthNet,
        optimizer: torch.optim.Optimizer,
        loss: torch.nn.Module,
        batch: EchoBatch,
        position: Position,
        steps: int,
        detach: bool,
    ) -> Tensor:
        """One update; returns the loss and its terms, (4,), without waiting for the device."""
        settings = self.config.trainer
        waveform = batch.waveform.to(self.device, non_blocking=True)
        gt = batch.depth.to(self.device, non_blocking=True)
        chance = generator(settings.seed, position.epoch, position.step)
        waveform, gt = augment(waveform, gt, self.config.data, chance)
        done = (position.epoch - 1) * steps + position.step
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(done, settings.epochs * steps, settings)
        with mixed_precision(settings.precision, self.device):
            parts = model.listen(waveform, detach)
        terms: LossTerms
        total, terms = loss(*parts, gt)
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.grad_clip)
        optimizer.step()
        return torch.stack([total, *terms]).detach()

    def _end_epoch(
        self,
        model: DepthNet,
        optimizer: torch.optim.Optimizer,
        val: EchoDataset,
        position: Position,
        weights: dict[str, float],
        steps: int,
        detach: bool,
    ) -> None:
        """Validate, record, save."""
        config, run_dir, epoch = self.config, self.config.run_dir, position.epoch
        means = (position.sums / steps).tolist()
        if not all(math.isfinite(value) for value in means):
            raise TrainingError(
                f"The loss of epoch {epoch} is not finite. Nothing of this epoch was saved; lower "
                f"trainer.learning_rate (now {config.trainer.learning_rate:g}) or use "
                "trainer.precision=fp32, and go on with --resume."
            )
        found = evaluate(
            model, val, batch_size=config.trainer.batch_size, num_workers=config.data.num_workers, detach_base=detach
        )
        record: Record = {"epoch": epoch}
        record |= {
            f"train/loss_{name}": value for name, value in zip(("total", "recon", "base", "sparse"), means, strict=True)
        }
        record |= {f"train/lambda_{name}": value for name, value in weights.items()}
        record |= {f"val/{name}": value for name, value in (found.metrics | found.decomposition).items()}
        position.history.append(record)
        if position.best_epoch == epoch:
            save_checkpoint(run_dir / "best.safetensors", model, epoch, position.history)
        save_checkpoint(run_dir / "last.safetensors", model, epoch, position.history)
        position.epoch, position.step, position.sums = epoch + 1, 0, torch.zeros(4)
        if epoch % config.trainer.save_every == 0 or epoch == config.trainer.epochs:
            save_state(run_dir / STATE, config, model, optimizer, position)
        for tracker in self._trackers:
            tracker.epoch(position.history)

    def _picture(self, model: DepthNet, val: EchoDataset, epoch: int) -> Path:
        samples = [val[index] for index in spread(len(val), PICTURED)]
        batch = collate(samples)
        parts = model.predict(batch.waveform)
        rows = panels(parts, [sample.depth.numpy() for sample in samples], batch.ids)
        path = self.config.run_dir / f"epoch_{epoch:04d}_decomposition.png"
        save_figure(decomposition_figure(rows, f"Epoch {epoch}, validation recordings"), path)
        for tracker in self._trackers:
            tracker.picture(epoch, path)
        return path

    def _finish(self, train: EchoDataset, test: EchoDataset, position: Position, picture: Path) -> FitResult:
        """Test the best weights and write what came of it."""
        config, run_dir = self.config, self.config.run_dir
        best = load_checkpoint(run_dir / "best.safetensors", self.device)
        found = evaluate(best.model, test, batch_size=config.trainer.batch_size, num_workers=config.data.num_workers)
        blind = BlindGuess.from_dataset(train).rmse_on(test, config.data.max_depth)
        criteria = success_criteria(found, [record["val/rmse"] for record in position.history])
        save_figure(curves_figure(position.history, config.run_name), run_dir / "curves.png")
        with replacing(run_dir / "evaluation.json") as aside:
            report = found.as_dict() | {
                "split": "test",
                "blind_rmse": blind,
                "criteria": [c._asdict() for c in criteria],
            }
            aside.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        return FitResult(run_dir, position.history, position.best_epoch, found, blind, criteria, picture)


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C or a termination signal sets, so that no step is cut in two; a second one acts at once."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield event
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def make_optimizer(model: DepthNet, settings: TrainerConfig) -> torch.optim.Optimizer:
    """The optimiser over all of a network's parameters."""
    kind = torch.optim.AdamW if settings.optimizer == "AdamW" else torch.optim.Adam
    return kind(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True)


def make_loader(dataset: EchoDataset, batches: Batches, workers: int, device: torch.device) -> DataLoader[Any]:
    """A loader whose order `batches` decides."""
    return DataLoader(
        dataset,  # type: ignore[arg-type]
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # leaves the global one alone
    )


def learning_rate(step: int, steps: int, settings: TrainerConfig) -> float:
    """Rate of a step, counted from 0: a linear rise, then half a cosine (after Smith and Topin, 2018), or constant."""
    if settings.lr_schedule == "constant":
        return settings.learning_rate
    part = (step + 1) / steps
    if part < RISE:
        return settings.learning_rate * part / RISE
    return settings.learning_rate * (0.5 + 0.5 * math.cos(math.pi * (part - RISE) / (1 - RISE))) + 1e-7


def mean_depth(dataset: EchoDataset) -> float:
    """Mean of the measured pixels of some training maps, in metres.

    Raises:
        DataError: the dataset is empty or nothing was measured in those maps.
    """
    total = count = 0.0
    for index in spread(len(dataset), MEAN_FROM):
        depth = dataset[index].depth
        total, count = total + float(depth.sum()), count + float((depth > 0).sum())
    if not count:
        raise DataError("Not one depth map of the training split has a measured pixel: there is nothing to learn from.")
    return total / count


def resolve_device(name: str) -> torch.device:
    """The device that a setting means; auto takes CUDA, then MPS, then the CPU.

    Raises:
        ConfigError: it is not there.
    """
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, yes in there.items() if yes))
    kind, _, number = name.partition(":")
    if not there[kind] or (number and int(number) >= torch.cuda.device_count()):
        known = ", ".join(kind for kind, yes in there.items() if yes)
        raise ConfigError(f"The device '{name}' is not on this machine. It has {known}; 'auto' takes the fastest.")
    return torch.device(name)


def mixed_precision(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """Where the network computes in bf16: when asked, or by itself on devices that have it in hardware."""
    if precision == "auto":
        cuda = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        native = cuda or (device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16")))
    else:
        native = precision == "bf16"
    return torch.autocast(device.type, torch.bfloat16) if native else nullcontext()


def generator(*numbers: int) -> torch.Generator:
    """A random generator that those numbers decide."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1, np.uint32)[0]))
