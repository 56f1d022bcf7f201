"""One update of the weights, from a batch to the optimiser's step."""

from __future__ import annotations

import math
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from base_residual.config.schema import Config, TrainerConfig
from base_residual.data.augment import Augmented, augment, stretch
from base_residual.data.sample import EchoBatch
from base_residual.losses import LOSS_NAMES, BaseResidualLoss, LossTerms, PlainLoss, make_loss, weighted_sum
from base_residual.machine import cpu_threads, keep_freed_memory, mixed_precision
from base_residual.models.network import DepthNet
from base_residual.training.activation_checkpointing import checkpoint_activations
from base_residual.training.distributed import ALONE, Processes
from base_residual.training.faults import Faults
from base_residual.training.lanes import SMALLEST, Lanes
from base_residual.training.optimisation import generator, learning_rate
from base_residual.training.sync_batch_norm import leave_uncompiled
from base_residual.training.weight_average import WeightAverage

LESS_MEMORY = "Lower trainer.batch_size, raise trainer.accumulate, or set trainer.recompute=true."


class TrainingStep:
    """Change a network's weights, one batch after the other; `make_step` makes one from the settings.

    A step whose loss or gradient is not finite in any process changes neither the weights nor the statistics of batch
    norms; see `faults`. The mean of the weights still moves on towards them. None of it waits for the device.

    Args:
        model: the network in training, on its device.
        network: what is called for a prediction: `model`, or `model` as compiled and shared by several processes.
        loss: of a prediction.
        optimizer: over the model's parameters.
        average: the mean of the weights, if there is to be one.
        config: of the run.
        steps: updates in an epoch.
        least: recordings of a batch that the process with the fewest gets; no batch goes through in more parts.
        processes: those that train together; each has its share of every batch.
        lanes: in which parts of a batch go through the network at the same time, if there are several.
    """

    def __init__(
        self,
        model: DepthNet,
        network: nn.Module,
        loss: BaseResidualLoss | PlainLoss,
        optimizer: torch.optim.Optimizer,
        average: WeightAverage | None,
        config: Config,
        steps: int,
        least: int,
        processes: Processes = ALONE,
        lanes: Lanes | None = None,
    ) -> None:
        self.model, self.network, self.loss, self.optimizer, self.average = model, network, loss, optimizer, average
        self.config, self.steps, self.processes, self.lanes = config, steps, processes, lanes
        self.parts = min(config.trainer.accumulate, least)  # the same in all processes, which wait for each other
        self.pieces = self.parts * (len(lanes) if lanes else 1)
        self.micro_batch = math.ceil(least / self.parts)  # recordings that go through together, and so fit into memory
        self.device = next(model.parameters()).device
        self.faults = Faults(model, processes)

    @property
    def networks(self) -> dict[str, DepthNet]:
        """Return the network in training, `model`, and its mean, `mean`, where weights are averaged."""
        return {"model": self.model} | ({"mean": self.average.model} if self.average else {})

    @property
    def eval_model(self) -> DepthNet:
        """Return the network to validate and to save."""
        return self.networks.get("mean", self.model)

    def detaches(self, epoch: int) -> bool:
        """Tell whether the reconstruction no longer moves the base in an epoch."""
        return self.config.loss.curriculum and epoch > self.config.loss.warmup_epochs

    def update(self, batch: EchoBatch, epoch: int, step: int) -> Tensor:
        """Take one step with this process's share of a batch.

        Args:
            batch: the share; of the whole batch, every `world`-th recording.
            epoch: from 1.
            step: within the epoch, from 0.

        Returns:
            The loss, its three terms and 1, (5,), on the device; all 0 where the step was at fault.
        """
        with cpu_threads(1) if self.lanes else nullcontext():  # what lies between the lanes is too little to share
            return self._update(batch, epoch, step)

    def _update(self, batch: EchoBatch, epoch: int, step: int) -> Tensor:
        """Do what `update` says."""
        settings, taken = self.config.trainer, (epoch - 1) * self.steps + step
        changed = self._augmented(batch, epoch, step)  # (B, 2, T) and (B, 1, S, S)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(taken, settings.epochs * self.steps, settings)
        self.optimizer.zero_grad(set_to_none=True)
        self.faults.begin_step()
        sums = torch.zeros(len(LOSS_NAMES), device=self.device)
        shares = self._shares(changed.depth)
        for part in range(self.parts):
            sums += self._go_through(part, changed, shares, epoch)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.grad_clip)
        fault = self.faults.end_step(norm + sums.sum(), batch.ids)
        self._change_weights(fault)
        if self.average:
            self.average.update(taken + 1)
        return torch.where(fault, 0, torch.cat([sums, sums.new_ones(1)]))

    def _go_through(self, part: int, changed: Augmented, shares: Tensor, epoch: int) -> Tensor:
        """Add the gradients of a part of a batch to the weights'; return its share of the loss and its terms, (4,)."""
        pieces = range(part, self.pieces, self.parts)  # one for each lane
        if self.lanes:
            return self.lanes.backward(
                lambda network, lane: self._loss_of(network, pieces[lane], changed, shares, epoch)
            )
        with self._gradients_stay_here(part):
            loss, sums = self._loss_of(self.network, part, changed, shares, epoch)
            loss.backward()
        return sums

    def _loss_of(
        self, network: nn.Module, piece: int, changed: Augmented, shares: Tensor, epoch: int
    ) -> tuple[Tensor, Tensor]:
        """Return a piece's share of the batch's loss, and of it and its terms without gradients, (4,)."""
        waveform, gt, size, emitted = (values[piece :: self.pieces] for values in changed[:4])
        empty_room = None if changed.empty_room is None else changed.empty_room[piece :: self.pieces]
        features = self.model.features(waveform)
        if self.config.data.stretch:
            features = stretch(features, size, emitted)
        layout_alone = empty_room is not None and self.loss.weights.base > 0  # moves the base, which then is a layout
        with mixed_precision(self.config.trainer.precision, self.device):
            decomposition = network(features, layout_alone or self.detaches(epoch))
        _, means = self.loss(*decomposition, gt, empty_room=empty_room)
        terms = LossTerms(*(mean * share for mean, share in zip(means, shares[piece], strict=True)))
        total = weighted_sum(self.loss.weights, terms)
        return total, torch.stack([total, *terms]).detach()

    def _augmented(self, batch: EchoBatch, epoch: int, step: int) -> Augmented:
        """Bring a share to the device and change it at random, as the places of its recordings in the batch decide."""
        waveform = batch.waveform.to(self.device, non_blocking=True)
        gt = batch.depth.to(self.device, non_blocking=True)
        empty_room = batch.empty_room if self.config.loss.layout == "empty_room" else None
        if empty_room is not None:
            empty_room = empty_room.to(self.device, non_blocking=True)
        places = range(self.processes.rank, len(waveform) * self.processes.world, self.processes.world)
        chances = [generator(self.config.trainer.seed, epoch, step, place) for place in places]
        return augment(waveform, gt, self.config.audio, self.config.data, chances, empty_room)

    def _shares(self, gt: Tensor) -> Tensor:
        """Return the weight of each piece's mean in that of the batch, for each of the three terms, (pieces, 3).

        It is the piece's share of the measured pixels; in a mean over images, of the images that have some.
        """
        if self.pieces == 1:
            return gt.new_ones(1, len(LossTerms._fields))
        pixels = (gt > 0).sum(dim=(1, 2, 3))  # (B,)
        measured = LossTerms(pixels > 0 if self.config.loss.recon == "rmse" else pixels, pixels, pixels)
        counts = torch.stack(
            [torch.stack([of[piece :: self.pieces].sum() for of in measured]) for piece in range(self.pieces)]
        )
        counts = self.processes.mean(counts.float())
        shares: Tensor = counts / counts.sum(dim=0).clamp(min=1e-6)
        return shares

    def _gradients_stay_here(self, part: int) -> AbstractContextManager[Any]:
        """Average gradients over the processes in the last part alone, when all of them have been added up."""
        if self.processes.world == 1 or part == self.parts - 1:
            return nullcontext()
        within: AbstractContextManager[Any] = self.network.no_sync()  # type: ignore[operator]
        return within

    def _change_weights(self, fault: Tensor) -> None:
        """Let the optimiser take its step unless there was a fault."""
        self.optimizer.found_inf = fault.float()  # type: ignore[attr-defined]  # a fused optimiser then does nothing
        # On MPS it took all steps until June 2026 (PyTorch's pull request 186360): the CPU waits there to know.
        if self.device.type != "mps" or not fault:
            self.optimizer.step()


def make_step(
    model: DepthNet,
    optimizer: torch.optim.Optimizer,
    config: Config,
    steps: int,
    least: int,
    processes: Processes = ALONE,
) -> TrainingStep:
    """Make the update that the settings describe, with its loss and the mean of the weights; see `TrainingStep`."""
    keep_freed_memory(next(model.parameters()).device)
    # With several processes, a mean is over the pixels of all: their gradients are averaged as if each had as many.
    loss = (
        make_loss(config.loss, processes.mean) if model.has_residual else PlainLoss(config.loss.recon, processes.mean)
    )
    span = config.trainer.average * steps
    average = WeightAverage(model, span) if span else None  # a copy of the plain network, before it is prepared
    if config.trainer.recompute:
        checkpoint_activations(model)
    lanes = _make_lanes(model, config.trainer, least, processes)
    network = _prepared(model, config.trainer.compile, processes)
    return TrainingStep(model, network, loss, optimizer, average, config, steps, least, processes, lanes)


def _make_lanes(model: DepthNet, settings: TrainerConfig, least: int, processes: Processes) -> Lanes | None:
    """Return as many lanes as there are threads and enough recordings for; None where one has all of them."""
    several = next(model.parameters()).device.type == "cpu" and processes.world == 1
    if not several or settings.compile or settings.recompute:
        return None
    threads = torch.get_num_threads()
    count = min(threads, least // settings.accumulate // SMALLEST)
    return Lanes(model, count, threads) if count > 1 else None


def _prepared(model: DepthNet, compiled: bool, processes: Processes) -> nn.Module:
    """Let several processes average a network's gradients, and compile it."""
    network: nn.Module = model
    if processes.world > 1:
        device = next(model.parameters()).device
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of the keyword's next name, which older versions lack
            network = DistributedDataParallel(
                model, device_ids=[device] if device.type == "cuda" else None, broadcast_buffers=False
            )
    if not compiled:
        return network
    leave_uncompiled(network)
    return cast(nn.Module, torch.compile(network))
