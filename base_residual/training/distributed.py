"""What the processes of one training share under torchrun: who they are, their means and sums, their batch norm."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple
from weakref import WeakSet

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from base_residual.errors import ConfigError, TrainingError


class Processes(NamedTuple):
    """This process among those that train together; alone by default, when every method gives back what it got."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this one writes and prints for all."""
        return self.rank == 0

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean of a tensor over all processes, without gradients."""
        if self.world == 1:
            return tensor
        return _added(tensor.detach()) / self.world

    def highest(self, number: int) -> int:
        """The highest of all processes' numbers. The CPUs wait for each other here, the devices do not."""
        if self.world == 1:
            return number
        found = _lent(torch.tensor(number))
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def gathered(self, tensor: Tensor) -> Tensor:
        """The rows of all processes' tensors, (N_1 + ... + N_world, ...) in order of rank, on the CPU."""
        tensor = tensor.cpu()
        if self.world == 1:
            return tensor
        counts = [_lent(torch.zeros(1, dtype=torch.int64)) for _ in range(self.world)]
        dist.all_gather(counts, _lent(torch.tensor([len(tensor)])))
        longest = max(int(count) for count in counts)
        padded = _lent(tensor.new_zeros(longest, *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        parts = [_lent(torch.empty_like(padded)) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])

    def share(self, count: int) -> range:
        """Return this process's part of `count` samples: every `world`-th of them."""
        return range(self.rank, count, self.world)

    def wait(self) -> None:
        """Go on when all processes have come this far."""
        self.highest(0)


ALONE = Processes()


# Threads of gloo do the talking. One that lets go of a tensor needs Python for a moment, and so must not do it once
# Python ends, which would abort the process, nor while the group ends, which waits for its threads: a deadlock.
_lent_tensors: WeakSet[Tensor] = WeakSet()
_unfinished: list[dist.ProcessGroup | None] = []  # groups that are never to end, since a thread of theirs may be stuck
PATIENCE = 1.0  # seconds to wait for such threads; those of a group that has lost a process may hold on for long


def _lent(tensor: Tensor) -> Tensor:
    """The same tensor, remembered for as long as this process or a thread of gloo holds it."""
    _lent_tensors.add(tensor)
    return tensor


def _added(tensor: Tensor) -> Tensor:
    """The sum of all processes' tensors, as one that no thread of gloo holds."""
    total = _lent(tensor.clone())
    dist.all_reduce(total)
    return total.clone()


def _all_returned() -> bool:
    """Whether gloo's threads have let go of all that was lent to them, or do so in time."""
    until = time.monotonic() + PATIENCE
    while _lent_tensors and time.monotonic() < until:
        time.sleep(0.001)
    return not _lent_tensors


def leading() -> bool:
    """Whether this process is the first, or the only one; known before they have met."""
    return _number("WORLD_SIZE", 1) == 1 or _number("RANK", 0) == 0


def _number(name: str, default: int | None = None) -> int:
    """One of torchrun's numbers from the environment.

    Raises:
        ConfigError: it is not there, or no whole number.
    """
    text = os.environ.get(name, "" if default is None else str(default))
    if not text.isdecimal():
        came = f"is '{text}'" if text else "is not set"
        raise ConfigError(
            f"The environment's {name} {came}; expected is a whole number. Start processes with torchrun."
        )
    return int(text)


def own_device(device: torch.device) -> torch.device:
    """The device of this process: under torchrun, each has a card of its own.

    Raises:
        ConfigError: there are more processes than cards, all are given the same one, or the device is for one alone.
    """
    if device.type == "mps" and _number("WORLD_SIZE", 1) > 1:
        raise ConfigError("Several processes cannot train on mps. Start one, or give them trainer.device=cpu.")
    if device.type != "cuda" or "LOCAL_RANK" not in os.environ:
        return device
    if device.index is not None:
        if _number("LOCAL_WORLD_SIZE", 1) > 1:
            raise ConfigError(f"All processes here would be on {device}. With --device cuda each takes its own.")
        return device
    number, cards = _number("LOCAL_RANK"), torch.cuda.device_count()
    if number >= cards:
        raise ConfigError(f"Process {number} of this machine finds {cards} graphics cards. Start one process per card.")
    return torch.device("cuda", number)


@contextmanager
def joined(device: torch.device) -> Iterator[Processes]:
    """The processes that torchrun has started, or this one alone.

    Args:
        device: of this process; CUDA talks over NCCL, everything else over gloo.

    Raises:
        ConfigError: the environment does not say how they meet.
        TrainingError: another one has ended.
    """
    world = _number("WORLD_SIZE", 1)
    if world == 1:
        yield Processes()
        return
    rank, _ = _number("RANK"), _number("MASTER_PORT")
    if rank >= world or not os.environ.get("MASTER_ADDR"):
        raise ConfigError(
            f"This is process {rank} of {world}, and nobody says where they meet. Start them with torchrun."
        )
    # Its functions take the group of the moment at which it is imported, as the gradients' averaging does later, for a
    # default: the group would outlive its end, and threads that still wait for work abort Python when it ends first.
    import_module("torch.distributed.nn")
    if device.type == "cuda" and device.index is not None:  # pinned memory and the like take to the current card
        torch.cuda.set_device(device)
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        yield Processes(dist.get_rank(), dist.get_world_size())
    except BaseException as error:
        _clear_frames(error)
        if isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error)):
            raise TrainingError(
                f"Process {rank} of {world} has lost another one, which has ended or "
                "cannot be reached. What was saved is whole; start them all again with --resume."
            ) from error
        raise
    finally:
        if dist.is_initialized():
            if not _all_returned():
                _unfinished.append(dist.group.WORLD)
            dist.destroy_process_group()


def _clear_frames(error: BaseException | None) -> None:
    """Empty the ended calls that an error came through: what they held would keep the group of processes alive."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


class SharedNorm(_BatchNorm):
    """Batch norm over the batches of all processes, on any device, so that their number does not change the result.

    Ioffe and Szegedy, ICML 2015; PyTorch's own synchronised one runs on graphics cards alone.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, ...) to the same shape."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        normal, mean, variance, count = _NormOverAll.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, self.running_mean, self.eps
        )
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        shared: Tensor = normal
        return shared


class _NormOverAll(torch.autograd.Function):
    """A batch less the mean of all processes' batches, over their deviation; their mean, variance and count as well.

    PyTorch's own batch norm for one process makes the passes over the batch: it normalises by a mean and a variance
    that it is given, and what these add to the gradient is once more a batch norm, with other weights.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, around: Tensor, eps: float) -> tuple[Tensor, ...]:
        mean, variance = torch.batch_norm_update_stats(x.float(), None, None, 0.0)
        # The squares are summed around the running mean, the same in all processes: around 0, those of a mean far from
        # it would leave nothing of a small variance.
        away, count = mean - around, x.new_full((1,), x.numel() / x.shape[1], dtype=torch.float32)
        total = _added(torch.cat([count * away, count * (variance + away.square()), count]))
        away, square = total[:-1].unflatten(0, (2, -1)) / total[-1]
        mean, variance, count = around + away, (square - away.square()).clamp(min=0), total[-1]
        ctx.save_for_backward(x, weight, mean, variance, count)
        ctx.mark_non_differentiable(mean, variance, count)
        ctx.eps = eps
        return F.batch_norm(x, mean, variance, weight, bias, eps=eps), mean, variance, count

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, count = ctx.saved_tensors
        inverse = (variance + ctx.eps).rsqrt()
        # A CPU takes the mean and the variance, a card the mean and the inverse deviation.
        _, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, mean, inverse, False, ctx.eps, [False, True, True]
        )
        scale = weight * inverse
        by_variance, by_mean = -scale / count * _added(torch.stack([of_weight, of_bias]))
        of_x = F.batch_norm(x, mean, variance, by_variance, by_mean, eps=ctx.eps)
        of_x.addcmul_(gradient, scale.view(1, -1, *[1] * (x.ndim - 2)).to(x.dtype))
        return of_x, of_weight, of_bias, None, None


def share_norms(module: nn.Module) -> None:
    """Replace every batch norm in a module by one over all processes, with the same weights under the same names."""
    for name, child in module.named_children():
        if isinstance(child, _BatchNorm):
            shared = SharedNorm(child.num_features, child.eps, child.momentum)
            shared.weight, shared.bias = child.weight, child.bias
            shared.running_mean, shared.running_var = child.running_mean, child.running_var
            shared.num_batches_tracked = child.num_batches_tracked
            setattr(module, name, shared.train(child.training))
        else:
            share_norms(child)


def leave_uncompiled(network: nn.Module) -> None:
    """Keep the shared batch norms of a network out of its compilation, which would begin anew for each of them."""
    for module in network.modules():
        if isinstance(module, SharedNorm):
            module.forward = torch.compiler.disable(module.forward)  # type: ignore[method-assign]
