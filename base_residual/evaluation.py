"""Evaluating a model over a dataset: metrics, decomposition figures, what a blind guess scores, and the criteria."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from base_residual.data.sample import EchoDataset, enumerated, read_batches, reader
from base_residual.errors import ConfigError, DataError
from base_residual.files import Number
from base_residual.memory import keep_freed_memory
from base_residual.metrics import MIN_PREDICTION, DecompositionFigures, DepthMetrics, valid_pixels
from base_residual.model import DepthNet, evaluating
from base_residual.processes import ALONE, Processes

LOWPASS_SHARE = (
    1 / 16
)  # of the side: the scale that tells layout from detail in every report, whatever a run's loss used
SMOOTH_BASE = 0.25  # of the detail's energy in the ground truth
IDLE_GAIN = 0.005  # a residual that improves rmse by less does next to nothing
CONVERGED_EPOCHS, CONVERGED_WITHIN = 20, 0.02
JUDGED = ("base_smoothness", "base_positive", "residual_abs_mean", "residual_gain", "residual_detail_corr")
TRIED_AT_ONCE = 2**22  # depths times maps, in the search for the best constant
AHEAD = 0.05  # share by which rmse must lie below the plain network's


@dataclass(frozen=True)
class Protocol:
    """How the figures were taken; figures of different protocols do not compare.

    Attributes:
        max_depth: predictions are clipped to it, in metres.
        min_depth: only pixels at least this far count, in metres; 0 counts every measured one.
        output_size: side of the compared maps, in pixels.
        clip_min: predictions are clipped to it from below, in metres.
        resize: how stored maps were brought to that size.
        mean: over what the mean is taken.
    """

    max_depth: float
    min_depth: float
    output_size: int
    clip_min: float = MIN_PREDICTION
    resize: str = "area mean of measured pixels"
    mean: str = "per image, then over images"

    def sentence(self) -> str:
        """The protocol in one line."""
        least = f"gt >= {self.min_depth:g} m" if self.min_depth else "gt > 0"
        return (
            f"{self.output_size} x {self.output_size} pixels ({self.resize}), {least}, predictions clipped to "
            f"[{self.clip_min:g}, {self.max_depth:g}] m, {self.mean}"
        )


@dataclass(frozen=True)
class Evaluation:
    """Figures of one model on one dataset.

    Attributes:
        metrics: depth metrics by name, and how many images they are the mean of.
        decomposition: figures of base and residual by name; empty for a plain network.
        protocol: how they were taken.
    """

    metrics: dict[str, Number]
    decomposition: dict[str, Number]
    protocol: Protocol

    def as_dict(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return asdict(self)

    def _repr_html_(self) -> str:
        """What a notebook shows where a cell ends with an evaluation."""
        from base_residual.notebook import evaluation_html

        return evaluation_html(self)


class Criterion(NamedTuple):
    """One success criterion: its figure in words, and whether it is met; None where this run alone cannot tell."""

    name: str
    met: bool | None
    figure: str

    @property
    def verdict(self) -> str:
        """The answer in a word."""
        return {True: "yes", False: "NO", None: "open"}[self.met]


@torch.inference_mode()
def evaluate(
    model: DepthNet,
    dataset: EchoDataset,
    *,
    batch_size: int = 32,
    min_depth: float = 0.0,
    num_workers: int = 0,
    detach_base: bool = False,
    processes: Processes = ALONE,
) -> Evaluation:
    """Score a model on every sample of a dataset, in evaluation mode and full precision.

    Args:
        model: a network with a front end, on any device.
        dataset: samples of the network's own shapes.
        batch_size: samples at a time; the figures do not depend on it.
        min_depth: only pixels at least this far count, in metres.
        num_workers: processes that read.
        detach_base: compose as after the warm-up of the curriculum; the values are the same.
        processes: those that evaluate together, each its share of the samples; all call this and get the same figures.

    Returns:
        The figures and the protocol that they were taken by.

    Raises:
        ConfigError: `min_depth` is negative or no number.
        DataError: the dataset is empty, not one of its images has a valid pixel, or a prediction is not finite.
    """
    if not 0 <= min_depth < math.inf:
        raise ConfigError(f"The smallest depth that counts is {min_depth} m; expected is a number of at least 0.")
    if not len(dataset):
        raise DataError("There are no recordings to evaluate.")
    device = next(model.parameters()).device
    keep_freed_memory(device)
    metrics = DepthMetrics(model.max_depth, min_depth)
    figures = DecompositionFigures(max(1, round(LOWPASS_SHARE * model.output_size)), model.max_depth, min_depth)
    share = range(processes.rank, len(dataset), processes.world)
    batches = reader(dataset, num_workers, batch_size=batch_size, sampler=share)
    finite: list[Tensor] = []  # of each batch, whether its images' predictions are
    names: list[str] = []
    with evaluating(model):
        for batch in read_batches(batches):
            parts = model.listen(batch.waveform.to(device), detach_base)
            gt = batch.depth.to(device)
            finite.append(parts.final.sum(dim=(1, 2, 3)).isfinite())
            names += batch.ids
            metrics.update(parts.final, gt)
            if model.splits:
                figures.update(*parts, gt)
    fine = torch.cat(finite).tolist() if finite else []
    broken = [name for name, is_finite in zip(names, fine, strict=True) if not is_finite]
    if broken:
        raise DataError(f"The prediction for {enumerated(broken)} is not finite: the echo holds NaN or infinity.")
    for shared in (metrics, figures) if model.splits else (metrics,):
        shared.share(processes)
    found = metrics.compute()
    if not found["images"]:
        raise DataError("Not one image has a measured pixel: nothing to evaluate against.")
    return Evaluation(
        found, figures.compute() if model.splits else {}, Protocol(model.max_depth, min_depth, model.output_size)
    )


@dataclass(frozen=True)
class BlindGuess:
    """The best predictions that hear nothing, from the training set.

    Attributes:
        mean_map: (1, S, S), each pixel's mean depth over the maps in which it was measured, in metres.
        constant: the one depth with the lowest mean rmse, in metres.
    """

    mean_map: Tensor
    constant: float

    @classmethod
    def from_dataset(cls, dataset: EchoDataset) -> BlindGuess:
        """Learn both from the depth maps of a dataset.

        Raises:
            DataError: the dataset is empty or holds no measured pixel.
        """
        total, count, moments = torch.zeros(1), torch.zeros(1), []
        for index in range(len(dataset)):
            depth = dataset[index].depth[None]  # (1, S, S)
            valid = valid_pixels(depth)
            total, count = total + depth * valid, count + valid
            if valid.any():
                measured = depth[valid]
                moments.append((measured.mean(), measured.var(correction=0)))
        if not moments:
            raise DataError("Not one depth map has a measured pixel: there is nothing to learn from.")
        mean, variance = (torch.stack(values) for values in zip(*moments, strict=True))
        # An image's rmse against a constant c is sqrt((c - mean)^2 + variance): try every centimetre.
        tried = torch.arange(0.01, float(mean.max()) + 0.01, 0.01)
        some = tried.split(max(1, TRIED_AT_ONCE // len(mean)))
        rmse = torch.cat([((depths[:, None] - mean) ** 2 + variance).sqrt().mean(dim=1) for depths in some])
        # A pixel that was never measured takes the mean of all.
        everywhere = total.sum() / count.sum()
        return cls(torch.where(count > 0, total / count.clamp(min=1), everywhere), float(tried[rmse.argmin()]))

    def rmse_on(self, dataset: EchoDataset, max_depth: float, min_depth: float = 0.0) -> dict[str, float]:
        """Mean rmse of both guesses on another dataset, in metres: `mean_map` and `constant`."""
        guesses = {"mean_map": self.mean_map[None], "constant": torch.full_like(self.mean_map[None], self.constant)}
        scores = {name: DepthMetrics(max_depth, min_depth) for name in guesses}
        for index in range(len(dataset)):
            gt = dataset[index].depth[None, None]
            for name, guess in guesses.items():
                scores[name].update(guess, gt)
        return {name: score.compute()["rmse"] for name, score in scores.items()}


def why_undecided(model: str) -> str:
    """Why a run of that model does not say by itself how far it is ahead of the U-Net."""
    return "it is the baseline" if model == "unet" else "needs a run with --model unet, and compare"


def success_criteria(
    evaluation: Evaluation,
    val_rmse: Sequence[float] = (),
    baseline_rmse: float | None = None,
    baseline_name: str = "U-Net baseline",
    undecided: str = why_undecided("base_residual"),
) -> list[Criterion]:
    """The five criteria of a run, each with its figure.

    Args:
        evaluation: of the run's model.
        val_rmse: validation rmse of each epoch, in metres.
        baseline_rmse: rmse of a plain network on the same data with the same budget, in metres, if it is known.
        baseline_name: what that network is called.
        undecided: why its rmse is not known.

    Returns:
        The criteria; those that this run alone cannot decide have no verdict.
    """
    figures, rmse = evaluation.decomposition, evaluation.metrics["rmse"]
    criteria = []
    if figures:
        smooth, lowest, size, gain, corr = (figures[name] for name in JUDGED)
        idle = " - the residual is idle: final and base are alike" if abs(gain) < IDLE_GAIN else ""
        harm = " - the residual makes the base worse" if gain <= -IDLE_GAIN else ""
        criteria += [
            Criterion(
                "base is smooth and positive",
                lowest >= 0 and smooth < SMOOTH_BASE,
                f"{smooth:.3f} of the detail's energy (limit {SMOOTH_BASE}), smallest {lowest:.3f} m",
            ),
            Criterion(
                "residual is small and useful",
                size < 1.0 and gain >= IDLE_GAIN,
                f"mean |residual| {size:.4f} m (limit 1), gain {gain:+.2%} (at least {IDLE_GAIN:.1%}){idle}{harm}",
            ),
        ]
    lead = f"rmse 5 % below the {baseline_name}"
    if baseline_rmse is None:
        criteria.append(Criterion(lead, None, f"rmse {rmse:.3f} m; {undecided}"))
    else:
        ahead = 1 - rmse / baseline_rmse
        figure = f"{ahead:+.2%} ({rmse:.3f} against {baseline_rmse:.3f} m)"
        criteria.append(Criterion(lead, ahead >= AHEAD, figure))
    if len(val_rmse) > CONVERGED_EPOCHS:
        early, best = min(val_rmse[:CONVERGED_EPOCHS]), min(val_rmse)
        figure = f"best of the first {CONVERGED_EPOCHS} epochs {early:.3f} m, of all {len(val_rmse)} {best:.3f} m"
        criteria.append(Criterion("converged within 20 epochs", early <= best * (1 + CONVERGED_WITHIN), figure))
    else:
        figure = f"epochs known: {len(val_rmse)}; it takes more than {CONVERGED_EPOCHS} to tell"
        criteria.append(Criterion("converged within 20 epochs", None, figure))
    if figures:
        criteria.append(Criterion("residual follows the detail", corr > 0, f"correlation {corr:+.3f}"))
    return criteria
