"""Several processes that train together under torchrun: who they are, and what they tell each other.

`Processes` is all that the rest of the package needs. What comes after it is how a group begins and, above all, ends.
"""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import NamedTuple
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch import Tensor

from base_residual.errors import ConfigError, TrainingError


class Processes(NamedTuple):
    """Name this process among those that train together, and let them share.

    Alone, which is the default, every method gives back what it got.
    """

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Tell whether this process writes and prints for all."""
        return self.rank == 0

    def mean(self, tensor: Tensor) -> Tensor:
        """Return the mean of a tensor over all processes, without gradients."""
        if self.world == 1:
            return tensor
        return summed(tensor.detach()) / self.world

    def highest(self, number: int) -> int:
        """Return the highest of all processes' numbers. The CPUs wait for each other here, the devices do not."""
        if self.world == 1:
            return number
        found = _lent(torch.tensor(number))
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def gathered(self, tensor: Tensor) -> Tensor:
        """Return the rows of all processes' tensors, (N_1 + ... + N_world, ...) in order of rank, on the CPU."""
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
        """Wait until all processes have come this far."""
        self.highest(0)


ALONE = Processes()


def summed(tensor: Tensor) -> Tensor:
    """Return the sum of all processes' tensors, as a tensor that no thread of gloo holds."""
    total = _lent(tensor.clone())
    dist.all_reduce(total)
    return total.clone()


def is_first_process() -> bool:
    """Tell whether this process is the first, or the only one; known before they have met."""
    return _number("WORLD_SIZE", 1) == 1 or _number("RANK", 0) == 0


def _number(name: str, default: int | None = None) -> int:
    """Return one of torchrun's numbers from the environment.

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


def local_device(device: torch.device) -> torch.device:
    """Return the device of this process: under torchrun, each has a card of its own.

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
def process_group(device: torch.device) -> Iterator[Processes]:
    """Join the processes that torchrun has started, or stay alone where there is one.

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
    # Its functions keep the group of the moment of their import as a default. Imported later, by the averaging of
    # gradients, they would hold this group beyond its end, and its threads abort a Python that ends before them.
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
    """Empty the ended calls that an error came through: the tensors in them would keep the group's threads busy."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


# Threads of gloo hold a tensor that is being sent, and a thread that lets go of it needs Python for a moment. It must
# not do so once Python has ended, which would abort the process, nor while the group ends, which would wait for it for
# ever. So every tensor that gloo gets is remembered, and the group ends when its threads hold none of them.
_lent_tensors: WeakSet[Tensor] = WeakSet()
_unfinished: list[dist.ProcessGroup | None] = []  # groups that are never to end, since a thread of theirs may be stuck
PATIENCE = 1.0  # seconds to wait for such threads; those of a group that has lost a process may hold on for long


def _lent(tensor: Tensor) -> Tensor:
    """Remember a tensor for as long as this process or a thread of gloo holds it."""
    _lent_tensors.add(tensor)
    return tensor


def _all_returned() -> bool:
    """Tell whether gloo's threads have let go of all that was lent to them, or do so in time."""
    until = time.monotonic() + PATIENCE
    while _lent_tensors and time.monotonic() < until:
        time.sleep(0.001)
    return not _lent_tensors
