"""Score a model on a dataset, and judge the figures by the success criteria."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from base_residual.data.loading import read_batches, reader, readers_in_words
from base_residual.data.sample import EchoBatch, EchoDataset, check_dataset
from base_residual.data.splits import is_silent
from base_residual.errors import ConfigError, DataError
from base_residual.evaluation.intervals import IntervalFigures
from base_residual.machine import side_by_side, standard_torch, threads_beside
from base_residual.metrics import DecompositionFigures, DepthMetrics, Evaluation, Gather, Protocol
from base_residual.models.decomposition import DepthDecomposition, finite_maps, raise_unless_finite
from base_residual.models.network import DepthNet
from base_residual.models.twins import evaluating
from base_residual.plots.tables import Table

LOWPASS_SHARE = 1 / 16  # of the side: the scale that tells layout from detail in every report, whatever the loss used
SMOOTH_BASE = 0.25  # of the detail's energy in the ground truth
IDLE_GAIN = 0.005  # a residual that improves rmse by less does next to nothing
CONVERGED_EPOCHS, CONVERGED_WITHIN = 20, 0.02
JUDGED = ("base_smoothness", "base_positive", "residual_abs_mean", "residual_gain", "residual_detail_corr")
AHEAD = 0.05  # share by which rmse must lie below the plain network's
DEAF = "what hears nothing"
BLIND_NAMES = {"mean_map": "mean depth map", "constant": "best constant"}  # of the training set
NO_BASELINE = "needs a run with --model unet, and compare"


class Criterion(NamedTuple):
    """One success criterion: its figure in words, and whether it is met; None where this run alone cannot tell."""

    name: str
    met: bool | None
    figure: str

    @property
    def verdict(self) -> str:
        """Return the verdict in a word."""
        return {True: "yes", False: "NO", None: "open"}[self.met]


def criteria_table(criteria: Iterable[Criterion], title: str = "Success criteria") -> Table:
    """Return the criteria with their verdicts as a table."""
    rows = [(criterion.verdict, criterion.name, criterion.figure) for criterion in criteria]
    return Table(title, ("", "criterion", "figure"), rows, colours={"yes": "green", "NO": "red", "open": "yellow"})


@standard_torch()
@torch.inference_mode()
def evaluate(
    model: DepthNet,
    dataset: EchoDataset,
    *,
    batch_size: int = 32,
    min_depth: float = 0.0,
    num_workers: int = 0,
    detach_base: bool = False,
    indices: Sequence[int] | None = None,
    gathered: Gather | None = None,
) -> Evaluation:
    """Score a model on every sample of a dataset, in evaluation mode and full precision.

    Args:
        model: a network with a front end, on any device.
        dataset: samples of the network's own shapes.
        batch_size: samples at a time; the figures do not depend on it.
        min_depth: only pixels at least this far count, in metres.
        num_workers: processes that read.
        detach_base: compose as after the warm-up of the curriculum; the values are the same.
        indices: the samples that this process scores; default: all of them.
        gathered: makes one tensor of what several processes have scored; all call this and get the same figures.

    Returns:
        The figures and the protocol that they were taken by.

    Raises:
        ConfigError: `min_depth` is negative or no number.
        DataError: the dataset is empty, is silent, has not one valid pixel or depth in another unit.
        PredictionError: a prediction is not finite.
    """
    if not 0 <= min_depth < math.inf:
        raise ConfigError(f"The smallest depth that counts is {min_depth} m; expected is a number of at least 0.")
    check_dataset(dataset)
    if not len(dataset):
        raise DataError("There are no recordings to evaluate.")
    metrics = DepthMetrics(model.max_depth, min_depth)
    figures = DecompositionFigures(max(1, round(LOWPASS_SHARE * model.output_size)), model.max_depth, min_depth)
    indices = range(len(dataset)) if indices is None else indices
    level = model.calibration.level if model.calibration else 0.0
    intervals = IntervalFigures(level, model.max_depth, min_depth)
    batches = reader(dataset, num_workers, model.max_depth, batch_size=batch_size, sampler=indices)
    with readers_in_words():
        sound = _score(evaluating(model), read_batches(batches), detach_base, metrics, figures, intervals)
    heard = torch.tensor([int(sound)])
    if gathered:
        heard = gathered(heard)
        for shared in (metrics, *[figures] * model.has_residual, *[intervals] * bool(model.calibration)):
            shared.share(gathered)
    found = metrics.compute()
    if not found["images"]:
        raise DataError("Not one image has a measured pixel: nothing to evaluate against.")
    if not heard.any():
        raise DataError("Every recording is silent: there is nothing to hear, and nothing to score.")
    return Evaluation(
        found,
        figures.compute() if model.has_residual else {},
        Protocol(model.max_depth, min_depth, model.output_size),
        intervals.compute() if model.calibration else {},
    )


def _score(
    model: DepthNet,
    batches: Iterable[EchoBatch],
    detach_base: bool,
    metrics: DepthMetrics,
    figures: DecompositionFigures,
    intervals: IntervalFigures,
) -> bool:
    """Add the predictions for some batches to the metrics and figures; return whether one of the echoes has sound.

    Raises:
        PredictionError: a prediction is not finite; the recordings are named.
    """
    device = next(model.parameters()).device
    finite: list[Tensor] = []  # (B,) of each batch; read at the end, since reading waits for the device
    names: list[str] = []
    heard = False

    @torch.inference_mode()
    def predicted(batch: EchoBatch) -> tuple[EchoBatch, DepthDecomposition, Tensor | None]:
        return batch, *model.bound(model.features(batch.waveform.to(device)), detach_base)

    for batch, parts, remainder in side_by_side(predicted, batches, threads_beside(device)):
        heard = heard or not is_silent(batch.waveform)
        gt = batch.depth.to(device)
        finite.append(parts.finite() if remainder is None else parts.finite() & finite_maps(remainder))
        names += batch.ids
        metrics.update(parts.final, gt)
        if model.has_residual:
            figures.update(*parts, gt, None if batch.empty_room is None else batch.empty_room.to(device))
        if remainder is not None:
            intervals.update(parts.final, remainder, gt)
    raise_unless_finite(torch.cat(finite).tolist() if finite else [], names)
    return heard


def why_undecided(model: str) -> str:
    """Return the reason why a run of that model alone does not say how far it is ahead of the U-Net."""
    return "it is the baseline" if model == "unet" else NO_BASELINE


def success_criteria(
    evaluation: Evaluation,
    val_rmse: Sequence[float] = (),
    baseline_rmse: float | None = None,
    baseline_name: str = "U-Net baseline",
    undecided: str = NO_BASELINE,
    blind: Mapping[str, float] | None = None,
) -> list[Criterion]:
    """Judge a run by the six criteria, each with its figure.

    The first one is to be ahead of predictions that hear nothing. A model that is not has learned nothing from the
    echoes, and none of the others is met.

    Args:
        evaluation: of the run's model.
        val_rmse: validation rmse of each epoch, in metres.
        baseline_rmse: rmse of a plain network on the same data with the same budget, in metres, if it is known.
        baseline_name: what that network is called.
        undecided: why its rmse is not known.
        blind: rmse of the predictions that hear nothing on the same data, in metres by name, if it is known.

    Returns:
        The criteria; those that this run alone cannot decide have no verdict.
    """
    figures, rmse = evaluation.decomposition, evaluation.metrics["rmse"]
    hears = _hears(rmse, blind or {})
    others = [
        *(_parts_are_sound(figures) if figures else ()),
        _leads(rmse, baseline_rmse, baseline_name, undecided),
        _converges(val_rmse),
    ]
    if figures:
        corr = figures["residual_detail_corr"]
        others.append(Criterion("residual follows the detail", corr > 0, f"correlation {corr:+.3f}"))
    if hears.met is False:
        others = [
            other._replace(met=None, figure=f"{other.figure}; does not count, the model is not ahead of {DEAF}")
            if other.met
            else other
            for other in others
        ]
    return [hears, *others]


def _hears(rmse: float, blind: Mapping[str, float]) -> Criterion:
    """Judge whether a model is ahead of every prediction that hears nothing."""
    name = f"ahead of {DEAF}"
    if not blind:
        return Criterion(name, None, f"rmse {rmse:.3f} m; the training set that it is learned from is not there")
    against = ", ".join(f"{BLIND_NAMES.get(guess, guess)} {score:.3f} m" for guess, score in blind.items())
    return Criterion(name, all(rmse < score for score in blind.values()), f"rmse {rmse:.3f} m against {against}")


def _parts_are_sound(figures: Mapping[str, float]) -> list[Criterion]:
    """Judge base and residual by themselves."""
    smooth, lowest, size, gain = (figures[name] for name in JUDGED[:4])
    idle = " - the residual is idle: final and base are alike" if abs(gain) < IDLE_GAIN else ""
    harm = " - the residual makes the base worse" if gain <= -IDLE_GAIN else ""
    return [
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


def _leads(rmse: float, baseline_rmse: float | None, baseline_name: str, undecided: str) -> Criterion:
    """Judge the lead over a plain network."""
    name = f"rmse 5 % below the {baseline_name}"
    if baseline_rmse is None:
        return Criterion(name, None, f"rmse {rmse:.3f} m; {undecided}")
    ahead = 1 - rmse / baseline_rmse
    return Criterion(name, ahead >= AHEAD, f"{ahead:+.2%} ({rmse:.3f} against {baseline_rmse:.3f} m)")


def _converges(val_rmse: Sequence[float]) -> Criterion:
    """Judge how soon a training was done."""
    name = "converged within 20 epochs"
    if len(val_rmse) <= CONVERGED_EPOCHS:
        figure = f"epochs known: {len(val_rmse)}; it takes more than {CONVERGED_EPOCHS} to tell"
        return Criterion(name, None, figure)
    early, best = min(val_rmse[:CONVERGED_EPOCHS]), min(val_rmse)
    figure = f"best of the first {CONVERGED_EPOCHS} epochs {early:.3f} m, of all {len(val_rmse)} {best:.3f} m"
    return Criterion(name, early <= best * (1 + CONVERGED_WITHIN), figure)
