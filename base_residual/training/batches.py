"""The order in which a run takes its samples."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from base_residual.data.loading import reader
from base_residual.data.sample import EchoDataset
from base_residual.errors import ConfigError
from base_residual.training.distributed import ALONE, Processes
from base_residual.training.optimisation import generator


class Batches:
    """Sample indices of each batch of an epoch, decided by seed and epoch alone, from any step on.

    Args:
        count: samples of the dataset.
        batch_size: samples per batch; what is left over at the end of an epoch is left out.
        seed: of the run.
        processes: those that share each batch; this one gets every `world`-th of its samples.

    Raises:
        ConfigError: a batch has fewer samples than there are processes.
    """

    def __init__(self, count: int, batch_size: int, seed: int, processes: Processes = ALONE) -> None:
        self.count, self.batch_size, self.seed, self.processes = count, min(batch_size, count), seed, processes
        self.epoch, self.first = 1, 0
        if self.batch_size < processes.world:
            raise ConfigError(
                f"A batch of {self.batch_size} recordings cannot be shared by {processes.world} processes. Raise "
                "trainer.batch_size, or start fewer processes."
            )

    def __len__(self) -> int:
        return self.count // self.batch_size

    @property
    def least(self) -> int:
        """Return the samples of each batch that the process with the fewest gets."""
        return self.batch_size // self.processes.world

    def __iter__(self) -> Iterator[list[int]]:
        order = torch.randperm(self.count, generator=generator(self.seed, self.epoch)).tolist()
        for step in range(self.first, len(self)):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield batch[self.processes.rank :: self.processes.world]


def make_loader(
    dataset: EchoDataset, batches: Batches, workers: int, device: torch.device, max_depth: float = math.inf
) -> DataLoader[Any]:
    """Make a loader whose order `batches` decides; depths beyond `max_depth` metres are cut to it."""
    pinned = device.type == "cuda"
    return reader(dataset, workers, max_depth, batch_sampler=batches, persistent_workers=workers > 0, pin_memory=pinned)
