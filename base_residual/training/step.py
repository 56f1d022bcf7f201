"""One update of the weights, from a batch to the optimiser's step."""

from __future__ import annotations

import math
import warnings
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from base_residual.config.schema import Config
from base_residual.data.augment import Augmented, augment, stretch
from base_residual.data.sample import EchoBatch
from base_residual.losses import LossTerms, PlainLoss, make_loss
from base_residual.machine import keep_freed_memory, mixed_precision
from base_residual.models.network import DepthNet
from base_residual.training.activation_checkpointing import recompute_stages
from base_residual.training.distributed import ALONE, Processes, leave_uncompiled
from base_residual.training.optimisation import generator, learning_rate
from base_residual.training.weight_average import RunningMean

LESS_MEMORY = "Lower trainer.batch_size, raise trainer.accumulate, or set trainer.recompute=true."


class Updater:
    """Takes batches and changes a network's weights.

    A step whose loss or gradient is not finite in any process changes neither the weights, towards which their mean
    goes on, nor the statistics of batch norms, and is remembered until `faults` is asked. None of it waits for the
    device.

    Args:
        model: the network, on its device.
        optimizer: over its parameters.
        config: of the run.
        steps: updates in an epoch.
        least: recordings of a batch that the process with the fewest gets; no batch goes through in more parts.
        processes: those that train together; each has its share of every batch.
    """

    def __init__(
        self,
        model: DepthNet,
        optimizer: torch.optim.Optimizer,
        config: Config,
        steps: int,
        least: int,
        processes: Processes = ALONE,
    ) -> None:
        self.model, self.optimizer, self.config, self.steps, self.processes = model, optimizer, config, steps, processes
        self.parts = min(config.trainer.accumulate, least)  # as many in all processes, which answer each other
        self.at_once = math.ceil(least / self.parts)  # recordings that go through together, and so fit into memory
        self.device = next(model.parameters()).device
        keep_freed_memory(self.device)
        # With several processes, a mean is over the pixels of all: their gradients are averaged as if each had as many.
        self.loss = (
            make_loss(config.loss, processes.mean)
            if model.has_residual
            else PlainLoss(config.loss.recon, processes.mean)
        )
        span = config.trainer.average * steps
        self._mean = RunningMean(model, span) if span else None
        if config.trainer.recompute:
            recompute_stages(model)
        self._shared: DistributedDataParallel | None = None
        if processes.world > 1:
            cards = [self.device] if self.device.type == "cuda" else None
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of the keyword's next name, which older versions lack
                self._shared = DistributedDataParallel(model, device_ids=cards, broadcast_buffers=False)
        network: nn.Module = self._shared or model
        if config.trainer.compile:
            leave_uncompiled(network)
        self._network = torch.compile(network) if config.trainer.compile else network
        norms = (module for module in model.modules() if isinstance(module, _BatchNorm))
        self._statistics = [buffer for norm in norms for buffer in norm.buffers()]
        self._suspects: list[tuple[Tensor, list[str]]] = []  # whether a step was at fault, and its recordings

    @property
    def networks(self) -> dict[str, DepthNet]:
        """The network in training, `model`, and the one to judge and keep, `mean`, where weights are averaged."""
        return {"model": self.model} | ({"mean": self._mean.model} if self._mean else {})

    @property
    def judged(self) -> DepthNet:
        """The network to validate and to save."""
        return self.networks.get("mean", self.model)

    def detaches(self, epoch: int) -> bool:
        """Whether the reconstruction no longer moves the base in an epoch."""
        return self.config.loss.curriculum and epoch > self.config.loss.warmup_epochs

    def update(self, batch: EchoBatch, epoch: int, step: int) -> Tensor:
        """One update with this process's share of a batch.

        Args:
            batch: the share; of the whole batch, every `world`-th recording.
            epoch: from 1.
            step: within the epoch, from 0.

        Returns:
            The loss, its three terms and 1, (5,), on the device; all 0 where the step was at fault.
        """
        settings = self.config.trainer
        waveform = batch.waveform.to(self.device, non_blocking=True)
        gt = batch.depth.to(self.device, non_blocking=True)
        places = range(self.processes.rank, len(waveform) * self.processes.world, self.processes.world)
        chances = [generator(settings.seed, epoch, step, place) for place in places]
        changed = augment(waveform, gt, self.config.audio.sample_rate, self.config.data, chances)
        taken = (epoch - 1) * self.steps + step
        rate = learning_rate(taken, settings.epochs * self.steps, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        before = [statistic.clone() for statistic in self._statistics]
        sums = torch.zeros(4, device=self.device)
        for part, share in enumerate(self._shares(changed.depth)):
            last = part == self.parts - 1
            with nullcontext() if last else self._alone():
                sums += self._backward(Augmented(*(t[part :: self.parts] for t in changed)), epoch, share)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.grad_clip)
        fault = self.processes.mean(1 - torch.isfinite(norm + sums.sum()).float()) > 0
        for statistic, old in zip(self._statistics, before, strict=True):
            statistic.copy_(torch.where(fault, old, statistic))
        self.optimizer.found_inf = fault.float()  # type: ignore[attr-defined]  # a fused optimiser then does nothing
        # On MPS it took all steps until June 2026 (PyTorch's pull request 186360): the CPU waits there to know.
        if self.device.type != "mps" or not fault:
            self.optimizer.step()
        if self._mean:
            self._mean.update(taken + 1)
        self._suspects.append((fault, batch.ids))
        return torch.where(fault, 0, torch.cat([sums, sums.new_ones(1)]))

    def faults(self) -> list[list[str]]:
        """This process's recordings in each step at fault since this was last asked; waits for the device."""
        found = [ids for fault, ids in self._suspects if fault]
        self._suspects = []
        return found

    def _shares(self, gt: Tensor) -> Tensor:
        """The share of all measured pixels that each part has, (parts,): what its mean weighs in that of the batch."""
        if self.parts == 1:
            return gt.new_ones(1)
        measured = torch.stack([(gt[part :: self.parts] > 0).sum() for part in range(self.parts)])
        counts = self.processes.mean(measured.float())
        return counts / counts.sum().clamp(min=1e-6)

    def _backward(self, part: Augmented, epoch: int, share: Tensor) -> Tensor:
        """Add a part's gradients to the others; returns its loss and terms, (4,), as shares of the batch's."""
        features = self.model.features(part.waveform)
        if self.config.data.stretch:
            features = stretch(features, part.size, part.emitted)
        with mixed_precision(self.config.trainer.precision, self.device):
            decomposition = self._network(features, self.detaches(epoch))
        terms: LossTerms
        total, terms = self.loss(*decomposition, part.depth)
        (total * share).backward()
        return torch.stack([total, *terms]).detach() * share

    def _alone(self) -> AbstractContextManager[None]:
        """Where gradients are kept for now, and not yet averaged over the processes."""
        return self._shared.no_sync() if self._shared else nullcontext()
