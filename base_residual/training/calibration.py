"""Calibration: a remainder is fitted to recordings, and its promise is set by others."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from base_residual.data.loading import read_batches, reader, readers_in_words
from base_residual.data.sample import EchoBatch, EchoDataset, spread_indices
from base_residual.errors import ConfigError, DataError
from base_residual.files.cache import Progress
from base_residual.losses import laplace
from base_residual.machine import side_by_side, standard_torch, threads_beside
from base_residual.models.decomposition import DepthDecomposition, raise_unless_finite
from base_residual.models.network import DepthNet
from base_residual.models.remainder import FACTORS, Calibration, Remainder
from base_residual.models.twins import evaluating
from base_residual.training.optimisation import generator

LEVEL = 0.9  # share of the pixels that an interval holds
MOST = 1000  # recordings that a remainder is fitted to
MEMORY = 2**29  # bytes of features that are kept meanwhile
STEPS, PASSES, BATCH, RATE = 150, 5, 32, 0.005  # of the fit: steps at least, passes over the recordings at least
POSE = re.compile(r"(.*/(?:train|val|test)_\d{6})_\d+")  # name of a recording in a simulated room


class Seen(NamedTuple):
    """What a network makes of some recordings: its parts, what the last was drawn from, and the ground truth."""

    parts: DepthDecomposition
    features: Tensor
    gt: Tensor
    ids: list[str]


@standard_torch()
def calibrate(
    model: DepthNet,
    train: EchoDataset,
    held_out: EchoDataset,
    data: str,
    level: float = LEVEL,
    batch_size: int = BATCH,
    progress: Progress | None = None,
) -> Calibration:
    """Give a network a remainder, or a new one: how far off each pixel may be.

    A scale is fitted to some recordings: what a Laplace distribution of the errors makes most likely. On others, it is
    multiplied by the smallest factor of which the promise holds: in a place that is like them, as drawn from the same
    ones, a share `level` of the measured pixels is expected within final +- remainder (conformal risk control:
    Angelopoulos et al., "Conformal risk control", ICLR 2024, theorem 1, with the share of pixels outside as the risk).
    Pixels of a place depend on each other, so the place is the unit: a room of simulated ones, else a location if there
    are enough of them, else a recording.

    Args:
        model: a trained network; base, residual and final stay as they are.
        train: recordings to fit the scale to; the network may have been trained on them.
        held_out: recordings that it has not been trained on.
        data: whose they are, in words.
        level: the share.
        batch_size: recordings that go through the network together.
        progress: told how many recordings are seen.

    Returns:
        The calibration, which is the model's now.

    Raises:
        ConfigError: the level is no share between 0 and 1.
        DataError: there are too few places for that level, nothing was measured, or no remainder holds it.
        PredictionError: a prediction is not finite.
    """
    require_places(len(held_out), "recordings", level)  # before anything is fitted
    remainder = fitted(model, train, batch_size, progress)
    names, shares = list[str](), list[Tensor]()
    for seen in _seen(model, held_out, range(len(held_out)), batch_size):
        names += seen.ids
        shares += _shares_outside(remainder, seen)
        if progress:
            progress("Calibrating", len(names), len(held_out))
    measured = [row for row, share in enumerate(shares) if not share.isnan().any()]
    kind, places = places_of([names[row] for row in measured], level)
    by_place: dict[str, list[Tensor]] = {}
    for row, place in zip(measured, places, strict=True):
        by_place.setdefault(place, []).append(shares[row])
    risks = torch.stack([torch.stack(own).mean(dim=0) for own in by_place.values()])  # (places, factors)
    worst = (risks.sum(dim=0) + 1) / (len(risks) + 1)  # with one place more, of which nothing is held
    held = (worst <= 1 - level + 1e-9).nonzero()
    if not len(held):
        raise DataError(f"No remainder holds {100 * level:.4g}% of the pixels of these recordings.")
    found = Calibration(level, FACTORS[int(held[0, 0])], len(risks), kind, data)
    model.remainder, model.calibration = remainder.to(next(model.parameters()).dtype), found
    return found


def _shares_outside(remainder: Remainder, seen: Seen) -> list[Tensor]:
    """Return for each recording the share of its pixels that lie outside, by factor; NaN where nothing is measured."""
    scale = remainder(seen.features, seen.parts)
    errors = (seen.parts.final - seen.gt).abs() / scale
    ratios = [error[gt > 0].sort().values.cpu() for error, gt in zip(errors, seen.gt, strict=True)]
    factors = torch.tensor(FACTORS)
    return [1 - torch.searchsorted(ratio, factors, right=True).double() / len(ratio) for ratio in ratios]


def least_places(level: float) -> int:
    """Return how many places it takes to promise a level: with fewer, one place more could break it by itself.

    Raises:
        ConfigError: the level is no share between 0 and 1.
    """
    if not 0 < level < 1:
        raise ConfigError(f"The level is {level:g}; expected is a share of the pixels between 0 and 1, such as 0.9.")
    return math.ceil(round(level / (1 - level), 6))


def require_places(count: int, what: str, level: float) -> None:
    """Raise a DataError if there are too few places for a level."""
    if count < least_places(level):
        raise DataError(
            f"There are {count} {what} to calibrate by, and a level of {level:g} needs {least_places(level)}. Hold out "
            "more of them, or give a lower level."
        )


def places_of(ids: Sequence[str], level: float) -> tuple[str, list[str]]:
    """Return what a place is, and that of each recording: a room, a location if there are enough, or a recording.

    Raises:
        DataError: there are too few places for that level.
    """
    least = least_places(level)
    rooms = [found[1] for name in ids if (found := POSE.fullmatch(name))]
    locations = [name.rpartition("/")[0] for name in ids]
    kind, places = "recording", list(ids)
    if ids and len(rooms) == len(ids):
        kind, places = "room", rooms
    elif len(set(locations)) >= least:
        kind, places = "location", locations
    require_places(len(set(places)), f"{kind}s with a measured pixel", level)
    return kind, places


def fitted(model: DepthNet, train: EchoDataset, batch_size: int = BATCH, progress: Progress | None = None) -> Remainder:
    """Return a remainder of a network that is fitted to some recordings; the network is not changed.

    Raises:
        DataError: nothing was measured in them.
        PredictionError: a prediction is not finite.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # the CPU's alone, where the weights are drawn
        remainder = model.make_remainder().float().train()
    first = next(_seen(model, train, [0], batch_size))
    most = min(MOST, max(BATCH, MEMORY // (first.features.numel() * first.features.element_size())))
    chosen, known = spread_indices(len(train), most), list[Seen]()
    for done, seen in enumerate(_seen(model, train, chosen, batch_size), start=1):
        known.append(seen)
        if progress:
            progress("Fitting the remainder", min(done * batch_size, len(chosen)), len(chosen))
    parts = DepthDecomposition(*(torch.cat(each) for each in zip(*(seen.parts for seen in known), strict=True)))
    gt, halves = torch.cat([seen.gt for seen in known]), first.features.shape[0] // len(first.ids)
    features = torch.cat([seen.features.unflatten(0, (halves, -1)) for seen in known], dim=1)  # (1 or 2, N, C, H, W)
    if not bool((gt > 0).any()):
        raise DataError("Nothing was measured in the recordings that the remainder is fitted to.")
    passes = max(PASSES, math.ceil(STEPS * BATCH / len(gt)))
    steps = passes * math.ceil(len(gt) / BATCH)
    optimizer = torch.optim.Adam(remainder.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for number in range(passes):
        for some in torch.randperm(len(gt), generator=generator(number)).to(gt.device).split(BATCH):
            own = DepthDecomposition(*(part[some] for part in parts))
            scale = remainder(features[:, some].flatten(0, 1), own)
            optimizer.zero_grad()
            laplace((own.final - gt[some]).abs(), scale, gt[some] > 0).backward()
            optimizer.step()
            schedule.step()
    if not all(bool(weights.isfinite().all()) for weights in remainder.parameters()):
        raise DataError("The remainder cannot be fitted to these recordings: its weights are not finite any more.")
    return remainder.eval().requires_grad_(False)


def _seen(model: DepthNet, dataset: EchoDataset, indices: Sequence[int], batch_size: int) -> Iterator[Seen]:
    """Yield what a network makes of some recordings of a dataset, in full precision, batch by batch.

    Raises:
        PredictionError: a prediction is not finite.
    """
    model, device = evaluating(model), next(model.parameters()).device

    @torch.no_grad()
    def see(batch: EchoBatch) -> Seen:
        parts, features = model.draw_from(model.features(batch.waveform.to(device)))
        full = DepthDecomposition(*(part.float() for part in parts))
        return Seen(full, features.float(), batch.depth.to(device), batch.ids)

    batches = reader(dataset, 0, model.max_depth, batch_size=batch_size, sampler=indices)
    with readers_in_words():
        for seen in side_by_side(see, read_batches(batches), threads_beside(device)):
            raise_unless_finite(seen.parts.finite().tolist(), seen.ids)
            yield seen
