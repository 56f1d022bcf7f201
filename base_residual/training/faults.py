"""Steps whose loss or gradient is not finite: their traces are undone, and their recordings are remembered."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from base_residual.training.distributed import ALONE, Processes


class Faults:
    """Undo what a step at fault has left in the statistics of batch norms, and remember which steps those were.

    Nothing here waits for the device until `found` is asked.

    Args:
        model: the network in training.
        processes: those that train together; a fault in one of them is a fault of the step.
    """

    def __init__(self, model: nn.Module, processes: Processes = ALONE) -> None:
        self._statistics = norm_statistics(model)
        self._before: list[Tensor] = []
        self._processes = processes
        self._suspects: list[tuple[Tensor, list[str]]] = []  # whether a step was at fault, and its recordings

    def begin_step(self) -> None:
        """Keep the statistics as they are before a step."""
        self._before = [statistic.clone() for statistic in self._statistics]

    def end_step(self, value: Tensor, ids: list[str]) -> Tensor:
        """Judge a step by a number that is finite unless the step is at fault, and undo the step if it is.

        Args:
            value: a scalar.
            ids: names of the step's recordings.

        Returns:
            Whether the step is at fault in any process, a bool scalar on the device.
        """
        fault = self._processes.mean(1 - torch.isfinite(value).float()) > 0
        for statistic, old in zip(self._statistics, self._before, strict=True):
            statistic.copy_(torch.where(fault, old, statistic))
        self._suspects.append((fault, ids))
        return fault

    def found(self) -> list[list[str]]:
        """Return this process's recordings in each step at fault since this was last asked; waits for the device."""
        found = [ids for fault, ids in self._suspects if fault]
        self._suspects = []
        return found


def norm_statistics(model: nn.Module) -> list[Tensor]:
    """Return what the batch norms of a model have learned beside their weights, always in the same order."""
    return [buffer for module in model.modules() if isinstance(module, _BatchNorm) for buffer in module.buffers()]
