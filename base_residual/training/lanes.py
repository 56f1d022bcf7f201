"""Lanes: parts of a batch that go through a network at the same time on the CPU, each on cores of its own.

A step is many hundred small operations. Threads that share each of them wait for each other as often; lanes wait once.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from base_residual.models.twins import twin_of
from base_residual.training.faults import norm_statistics

SMALLEST = 8  # recordings in a lane, at least: batch norm takes its statistics from them


class Lanes:
    """Twins of a network, one for each lane, that share its weights.

    Each normalises by the statistics of its own part of the batch. The running statistics of the network become the
    mean of the twins'. Sums are taken in the order of the lanes, so the same seed gives the same numbers.

    Args:
        model: the network in training, on the CPU.
        count: of lanes.
        threads: that they have together.
    """

    def __init__(self, model: nn.Module, count: int, threads: int) -> None:
        self._model, self._twins = model, [twin_of(model, _own_statistics) for _ in range(count)]
        self._statistics = [*zip(norm_statistics(model), *map(norm_statistics, self._twins), strict=True)]
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(threads // count,))

    def __len__(self) -> int:
        return len(self._twins)

    def backward(self, loss_of: Callable[[nn.Module, int], tuple[Tensor, Tensor]]) -> Tensor:
        """Add the gradients of all lanes' losses to the weights'.

        Args:
            loss_of: from a lane's network and its number to the loss of its part and to what is to be returned.

        Returns:
            The sum of what came beside the losses.
        """
        for twin in self._twins:
            twin.train(self._model.training)
        for statistic, *own in self._statistics:
            for each in own:
                each.copy_(statistic)

        def gradients(lane: int) -> tuple[tuple[Tensor | None, ...], Tensor]:
            loss, beside = loss_of(self._twins[lane], lane)
            return torch.autograd.grad(loss, self._weights, allow_unused=True), beside

        found, besides = zip(*self._pool.map(gradients, range(len(self))), strict=True)
        for weight, *parts in zip(self._weights, *found, strict=True):
            for part in parts:
                if part is not None:
                    weight.grad = part if weight.grad is None else weight.grad + part
        for statistic, *own in self._statistics:
            statistic.copy_(torch.stack(own).mean(dim=0) if statistic.is_floating_point() else own[0])
        return torch.stack(besides).sum(dim=0)


def _own_statistics(module: nn.Module) -> None:
    """Give a twin statistics of its own if it is a norm."""
    if isinstance(module, _BatchNorm):
        module._buffers = {
            name: buffer if buffer is None else buffer.clone() for name, buffer in module._buffers.items()
        }
