"""What a training will cost: some of its steps, taken on made-up recordings of the right shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from base_residual.acoustics.framing import echo_frames
from base_residual.config.presets import SPLITS
from base_residual.config.schema import Config
from base_residual.data import open_dataset
from base_residual.data.sample import EchoSample, collate
from base_residual.deploy.benchmark import gflops, parameter_count
from base_residual.errors import ConfigError, DataError, out_of_memory
from base_residual.evaluation import evaluate
from base_residual.machine import device_name, resolve_device
from base_residual.models.factory import create_model
from base_residual.training.optimisation import make_optimizer
from base_residual.training.step import LESS_MEMORY, Updater

FEW = 2  # recordings in the first steps
PATIENCE = 0.5  # seconds that a step may take and still be followed by one with twice as many
TIMED = 3  # steps with as many as it came to


@dataclass(frozen=True)
class Estimate:
    """What a training will cost.

    Attributes:
        parameters: of the network.
        gflops: floating-point operations of the network for one echo, two per multiply-add, in 10^9.
        device: name of the processor.
        recordings: in each split; None where the data is not there yet.
        batch_size: recordings per step.
        steps: per epoch; None where the number of recordings is not known.
        step_s: seconds per step.
        evaluation_s: seconds per recording of a validation or test.
        epoch_s: seconds per epoch, its validation included.
        total_s: seconds for all epochs and the test.
        memory_mib: at the peak of a step, in MiB.
        memory_basis: where the figure of memory comes from, and what it leaves out.
        time_basis: where the times come from, and what they leave out.
    """

    parameters: int
    gflops: float
    device: str
    recordings: dict[str, int] | None
    batch_size: int
    steps: int | None
    step_s: float
    evaluation_s: float
    epoch_s: float | None
    total_s: float | None
    memory_mib: float
    memory_basis: str
    time_basis: str

    def as_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self)


def estimate(config: Config) -> Estimate:
    """Take a few steps of a training, on its device but not on its data, and leave nothing behind.

    Args:
        config: of the training.

    Raises:
        ConfigError: the device is not there, or has too little memory.
    """
    device = resolve_device(config.trainer.device)
    recordings = count_recordings(config)
    batch_size = min(config.trainer.batch_size, recordings["train"] if recordings else config.trainer.batch_size)
    at_once = math.ceil(batch_size / config.trainer.accumulate)
    try:
        trial = Trial(config, device)
        kept = trial.kept(FEW) / FEW * at_once
        count = min(FEW, at_once)
        while count < at_once and trial.step(count) < PATIENCE:
            count = min(2 * count, at_once)
        step_s = min(trial.step(count) for _ in range(TIMED)) * batch_size / count
        trial.evaluation(FEW)
        evaluation_s = trial.evaluation(count) / count
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise ConfigError(
            f"A step with {at_once} recordings at a time does not fit into the memory of {device_name(device)}. "
            f"{LESS_MEMORY}"
        ) from error
    memory, memory_basis = (
        kept + trial.held(),
        "counted: weights, gradients, optimiser, activations; PyTorch is not in it",
    )
    if device.type == "cuda" and count == at_once:
        memory, memory_basis = torch.cuda.max_memory_allocated(device), "measured: what PyTorch allocated on the card"
    steps = epoch_s = total_s = None
    if recordings:
        steps = recordings["train"] // batch_size
        epoch_s = steps * step_s + recordings["val"] * evaluation_s
        total_s = config.trainer.epochs * epoch_s + recordings["test"] * evaluation_s
    return Estimate(
        parameters=parameter_count(trial.model),
        gflops=gflops(trial.model),
        device=device_name(device),
        recordings=recordings,
        batch_size=batch_size,
        steps=steps,
        step_s=step_s,
        evaluation_s=evaluation_s,
        epoch_s=epoch_s,
        total_s=total_s,
        memory_mib=memory / 2**20,
        memory_basis=memory_basis,
        time_basis=f"measured: {TIMED} steps of {count} made-up recordings; without reading, preparing and pictures",
    )


def count_recordings(config: Config) -> dict[str, int] | None:
    """How many recordings each split has, without rendering or preparing any; None where the data is not there."""
    if config.data.name == "simulated" and config.data.root is None:
        rooms = config.simulation
        return {
            split: rooms.poses * count
            for split, count in zip(SPLITS, (rooms.train_rooms, rooms.val_rooms, rooms.test_rooms), strict=True)
        }
    listed = config.model_copy(update={"data": config.data.model_copy(update={"prepare": False})})
    try:
        return {split: len(open_dataset(config.data.name, config.data.root, split, listed)) for split in SPLITS}
    except DataError:
        return None


class Trial:
    """A training that is about to begin, with noise for its recordings.

    Args:
        config: of the training; batches are not divided and nothing is compiled here.
        device: that it runs on.
    """

    def __init__(self, config: Config, device: torch.device) -> None:
        settings = config.trainer.model_copy(update={"accumulate": 1, "compile": False})
        config = config.model_copy(update={"trainer": settings})
        self._config, self._device = config, device
        self.model = create_model(config).to(device)
        self._optimizer = make_optimizer(self.model, settings)
        self._updater = Updater(self.model, self._optimizer, config, steps=1, least=1)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)

    def step(self, count: int) -> float:
        """Seconds for one update with `count` recordings."""
        batch = collate(self._recordings(count))
        self.model.train()
        return self._timed(lambda: self._updater.update(batch, epoch=1, step=0))

    def evaluation(self, count: int) -> float:
        """Seconds for scoring `count` recordings."""
        samples = self._recordings(count)
        return self._timed(lambda: evaluate(self.model, samples, batch_size=count))

    def kept(self, count: int) -> int:
        """Bytes that an update with `count` recordings keeps from the way forward for the way back."""
        weights = {tensor.untyped_storage().data_ptr() for tensor in self.model.parameters()}
        kept: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            self.step(count)
        return sum(size for place, size in kept.items() if place not in weights)

    def held(self) -> int:
        """Bytes of the weights, their mean, their gradients and the optimiser's state, once a step was taken."""
        tensors = [state for states in self._optimizer.state.values() for state in states.values()]
        for network in self._updater.networks.values():
            for weights in network.parameters():
                tensors += [weights, weights] if weights.requires_grad else [weights]
        return sum(tensor.nbytes for tensor in tensors)

    def _recordings(self, count: int) -> list[EchoSample]:
        data, random = self._config.data, torch.Generator().manual_seed(0)
        frames, side = echo_frames(data.max_depth, self._config.audio.sample_rate), data.output_size
        return [
            EchoSample(
                0.1 * torch.randn(2, frames, generator=random),
                data.max_depth * torch.rand(side, side, generator=random),
                f"made up {number}",
            )
            for number in range(count)
        ]

    def _timed(self, work: Callable[[], object]) -> float:
        begun = perf_counter()
        work()
        if self._device.type != "cpu":
            torch.accelerator.synchronize(self._device)
        return perf_counter() - begun
