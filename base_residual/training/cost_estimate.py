"""The cost of a training, from one or two of its steps and a validation on made-up recordings of the right shape."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from time import perf_counter
from typing import Any

import torch

from base_residual.acoustics.framing import echo_frames
from base_residual.config.presets import SPLITS
from base_residual.config.schema import Config
from base_residual.data import open_dataset
from base_residual.data.sample import EchoSample, collate
from base_residual.deploy.benchmark import gflops, parameter_count, peak_memory
from base_residual.errors import ConfigError, DataError, counted, out_of_memory
from base_residual.evaluation import evaluate
from base_residual.machine import (
    busy,
    cpu_threads,
    device_name,
    load,
    many_threads,
    resolve_device,
    standard_torch,
    threads_beside,
)
from base_residual.models.factory import create_model
from base_residual.models.network import DepthNet
from base_residual.training.optimisation import make_optimizer
from base_residual.training.step import LESS_MEMORY, make_step

FEW = 4  # recordings in the step that warms up
PATIENCE = 5.0  # seconds that a step may take and still be followed by another one, of which the faster counts


@dataclass(frozen=True)
class Estimate:
    """Hold what a training will cost.

    Attributes:
        parameters: of the network.
        gflops: floating-point operations of the network for one echo, two per multiply-add, in 10^9.
        device: name of the processor.
        recordings: in each split; None where they cannot be counted.
        uncounted: why they cannot.
        batch_size: recordings per step.
        steps: per epoch; None where the number of recordings is not known.
        step_s: seconds per step.
        evaluation_s: seconds per recording of a validation or test.
        epoch_s: seconds per epoch, its validation included.
        total_s: seconds for all epochs and the test.
        memory_mib: at the peak of a step, in MiB; None where the system does not tell.
        memory_basis, time_basis: what these figures come from, and what they leave out.
    """

    parameters: int
    gflops: float
    device: str
    recordings: dict[str, int] | None
    uncounted: str | None
    batch_size: int
    steps: int | None
    step_s: float
    evaluation_s: float
    epoch_s: float | None
    total_s: float | None
    memory_mib: float | None
    memory_basis: str
    time_basis: str

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        return asdict(self)


@standard_torch()
def estimate(config: Config) -> Estimate:
    """Take a few steps of a training, on its device but not on its data, and leave nothing behind.

    Args:
        config: of the training.

    Raises:
        ConfigError: the device is not there, or has too little memory.
    """
    device = resolve_device(config.trainer.device)
    recordings, uncounted = None, None
    try:
        recordings = count_recordings(config)
    except DataError as error:  # perhaps it is only planned to train on them
        uncounted = str(error)
    batch_size = min(config.trainer.batch_size, recordings["train"] if recordings else config.trainer.batch_size)
    model = create_model(config).to(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    try:
        before = load()
        with cpu_threads(config.trainer.threads or many_threads()):
            step_s = _time_step(config, model, batch_size)
            together = math.ceil(batch_size / config.trainer.accumulate)
            samples = made_up(config, together * threads_beside(device))  # a batch for each thread
            score = partial(evaluate, model, samples, batch_size=together)
            score()  # the first time, memory is laid out
            evaluation_s = _seconds(score, device) / len(samples)
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise ConfigError(
            f"A step with {counted(batch_size, 'recording')} does not fit into the memory of "
            f"{device_name(device)}. {LESS_MEMORY}"
        ) from error
    steps = epoch_s = total_s = None
    if recordings:
        steps = recordings["train"] // batch_size
        epoch_s = steps * step_s + recordings["val"] * evaluation_s
        total_s = config.trainer.epochs * epoch_s + recordings["test"] * evaluation_s
    held = "what PyTorch allocated on the card" if device.type == "cuda" else "the whole process, PyTorch included"
    return Estimate(
        parameters=parameter_count(model),
        gflops=gflops(model),
        device=device_name(device),
        recordings=recordings,
        uncounted=uncounted,
        batch_size=batch_size,
        steps=steps,
        step_s=step_s,
        evaluation_s=evaluation_s,
        epoch_s=epoch_s,
        total_s=total_s,
        memory_mib=peak_memory(device),
        memory_basis=f"measured: {held}; recordings, pictures and the test come on top",
        time_basis=". ".join(
            filter(
                None,
                ["measured on made-up recordings, without reading, preparing and pictures", busy(before).rstrip(".")],
            )
        ),
    )


def count_recordings(config: Config) -> dict[str, int]:
    """Count the recordings of each split, without rendering or preparing any.

    Raises:
        DataError: they are not there, or a table of them is wrong.
    """
    if config.data.name == "simulated" and config.data.root is None:
        rooms = config.simulation
        return {
            split: rooms.poses * count
            for split, count in zip(SPLITS, (rooms.train_rooms, rooms.val_rooms, rooms.test_rooms), strict=True)
        }
    listed = config.model_copy(update={"data": config.data.model_copy(update={"prepare": False})})
    return {split: len(open_dataset(config.data.name, config.data.root, split, listed)) for split in SPLITS}


def made_up(config: Config, count: int) -> list[EchoSample]:
    """Return recordings of noise, with the shapes that the settings ask for."""
    data, random = config.data, torch.Generator().manual_seed(0)
    frames, side = echo_frames(data.max_depth, config.audio.sample_rate), data.output_size
    return [
        EchoSample(
            0.1 * torch.randn(2, frames, generator=random),
            data.max_depth * torch.rand(side, side, generator=random),
            f"made up {number}",
        )
        for number in range(count)
    ]


def _time_step(config: Config, model: DepthNet, batch_size: int) -> float:
    """Return the seconds that a step with a whole batch takes, after a small one that warms up."""
    plain = config.model_copy(update={"trainer": config.trainer.model_copy(update={"compile": False})})
    step = make_step(model, make_optimizer(model, plain.trainer), plain, steps=1, least=batch_size)
    samples = made_up(config, batch_size)
    model.train()

    def timed(count: int) -> float:
        batch = collate(samples[:count])
        return _seconds(lambda: step.update(batch, epoch=1, step=0), step.device)

    timed(min(FEW * step.pieces, batch_size))
    taken = timed(batch_size)
    return min(taken, timed(batch_size)) if taken < PATIENCE else taken


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    begun = perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return perf_counter() - begun
