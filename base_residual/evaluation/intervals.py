"""Figures of the remainder: how often it holds, how wide it is, and how well it ranks the errors."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from base_residual.metrics import MIN_PREDICTION, Gather, valid_pixels

RANKED = 1024  # pixels of an image, at most, by which the ranking is judged
SHORT = 0.1  # share of the pixels by which an image may fall short of the level and still count as held


class Ranking(NamedTuple):
    """The area between a sparsification curve and the oracle's, for one order of the pixels, as a share of the mae."""

    remainder: float
    depth: float
    random: float


class IntervalFigures:
    """Figures of final +- remainder over the valid pixels of many batches.

    Args:
        level: share of the pixels that is promised to lie within.
        max_depth: in metres.
        min_depth: as in `metrics.depth_metrics`.
    """

    def __init__(self, level: float, max_depth: float, min_depth: float = 0.0) -> None:
        self.level, self.max_depth, self.min_depth = level, max_depth, min_depth
        self.metres = math.ceil(max_depth)
        # (B, 3 + 4 * metres): within, remainder, error; by metre of true and of predicted depth: within, all
        self._rows: list[Tensor] = []
        self._ranked: list[Tensor] = []  # (B, RANKED or fewer, 3): remainder, error, final; NaN where not valid

    def update(self, final: Tensor, remainder: Tensor, gt: Tensor) -> None:
        """Add a batch, (B, 1, H, W) each, in metres."""
        final, gt, remainder = (part.flatten(1) for part in (final.clamp(MIN_PREDICTION), gt, remainder))
        valid = valid_pixels(gt, self.min_depth)
        count, error = valid.sum(dim=1).float(), (final - gt).abs()
        within = (error <= remainder) & valid
        means = [torch.where(valid, part, 0).sum(dim=1) / count for part in (within, remainder, error)]
        empty = gt.new_zeros(len(gt), self.metres)
        by_metre = [
            empty.scatter_add(1, depth.nan_to_num(0).clamp(0, self.metres - 1).long(), counted.float())
            for depth in (gt, final)
            for counted in (within, valid)
        ]
        self._rows.append(torch.cat([torch.stack(means, dim=1), *by_metre], dim=1))
        ranked = torch.where(valid[..., None], torch.stack([remainder, error, final], dim=-1), math.nan)
        self._ranked.append(ranked[:, self._chosen(gt.shape[1])])

    def _chosen(self, pixels: int) -> Tensor:
        """Return the pixels of an image that are ranked, RANKED at most: the same ones of every image, at random."""
        return torch.randperm(pixels, generator=torch.Generator().manual_seed(0))[:RANKED]

    def share(self, gathered: Gather) -> None:
        """Take in what the other processes have added."""
        rows = torch.cat(self._rows) if self._rows else torch.empty(0, 3 + 4 * self.metres)
        own = torch.cat(self._ranked) if self._ranked else torch.empty(0, 0, 3)
        ranked = torch.nn.functional.pad(own, (0, 0, 0, RANKED - own.shape[1]), value=math.nan)
        self._rows, self._ranked = [gathered(rows)], [gathered(ranked)]

    def compute(self) -> dict[str, float]:
        """Return the figures by name; see `metrics.INTERVAL`."""
        rows = torch.cat(self._rows).double().cpu()
        rows = rows[~rows[:, 0].isnan()]
        within, remainder, error = rows[:, :3].unbind(dim=1)
        true, predicted = rows[:, 3:].sum(dim=0).unflatten(0, (2, 2, -1))  # (2, metres) each: within, all
        tenth = within.sort().values[: max(1, len(within) // 10)]
        ranking = rank(torch.cat(self._ranked).flatten(0, 1).cpu())
        return {
            "level": self.level,
            "coverage": float(within.mean()),
            "coverage_worst_tenth": float(tenth.mean()),
            "held_images": float((within >= self.level - SHORT).double().mean()),
            "remainder_mean": float(remainder.mean()),
            "remainder_over_mae": float(remainder.mean() / error.mean()),
            "ause": ranking.remainder,
            "ause_by_depth": ranking.depth,
            "ause_at_random": ranking.random,
            **_by_metre("coverage", *true),
            **_by_metre("coverage_predicted", *predicted),
        }


def _by_metre(name: str, within: Tensor, count: Tensor) -> dict[str, float]:
    """Return the share of the pixels within the remainder for each metre of depth that there is."""
    return {f"{name}_{metre}_m": float(within[metre] / count[metre]) for metre in range(len(count)) if count[metre]}


def rank(pixels: Tensor) -> Ranking:
    """Return how well the remainder ranks errors, beside what depth itself and chance would do.

    The pixels that are thought to be least certain are left out one after the other. The mean error of those that are
    left is drawn over their share; the area between that curve and the one by the errors themselves is the AUSE (Ilg et
    al., ECCV 2018), here in shares of the mean error. 0 is perfect. Farther pixels as the less certain ones are what a
    remainder has to be ahead of.

    Args:
        pixels: (N, 3) remainder, error and final in metres; those with NaN do not count.
    """
    remainder, error, final = pixels[~pixels[:, 0].isnan()].double().unbind(dim=1)
    count = torch.arange(1, len(error) + 1)
    scale = error.mean().clamp(min=1e-9)

    def curve(order: Tensor) -> Tensor:
        return error[order].cumsum(dim=0) / count / scale  # of the most certain ones

    best = curve(error.argsort())
    ours, by_depth = (float((curve(order) - best).mean()) for order in (remainder.argsort(), final.argsort()))
    return Ranking(ours, by_depth, float((1 - best).mean()))
