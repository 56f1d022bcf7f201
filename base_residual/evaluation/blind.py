"""The best predictions without an echo, from the training set's depth maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from base_residual.config.run_layout import EVALUATION
from base_residual.data.sample import EchoDataset
from base_residual.errors import DataError
from base_residual.evaluation import BLIND_NAMES
from base_residual.files.atomic import read_at_most
from base_residual.files.json import Number, from_json
from base_residual.metrics import DepthMetrics, Evaluation, valid_pixels

MAX_FILE = 2**26  # bytes of what a run has noted
ALIKE, SAME = ("images", "rmse"), 1e-3  # figures of one network on the same samples, and their largest difference
TRIED_AT_ONCE = 2**22  # depths times maps, in the search for the best constant


@dataclass(frozen=True)
class BlindGuess:
    """The two best predictions without an echo, from the training set.

    Attributes:
        mean_map: (1, S, S), the mean depth of each pixel over the maps in which it was measured, in metres.
        constant: the single depth with the lowest mean rmse, in metres.
    """

    mean_map: Tensor
    constant: float

    @classmethod
    def from_dataset(cls, dataset: EchoDataset, max_depth: float = math.inf) -> BlindGuess:
        """Learn both from the depth maps of a dataset, in which depths beyond `max_depth` metres are cut to it.

        Raises:
            DataError: the dataset is empty or holds no measured pixel.
        """
        total, count, moments = torch.zeros(1), torch.zeros(1), []
        for index in range(len(dataset)):
            depth = dataset[index].depth[None].clamp(max=max_depth)  # (1, S, S)
            valid = valid_pixels(depth)
            total, count = total + depth * valid, count + valid
            if valid.any():
                measured = depth[valid]
                moments.append((measured.mean(), measured.var(correction=0)))
        if not moments:
            raise DataError("Not one depth map has a measured pixel: there is nothing to learn from.")
        mean, variance = (torch.stack(values) for values in zip(*moments, strict=True))
        # An image's rmse against a constant c is sqrt((c - mean)^2 + variance): try every centimetre.
        candidates = torch.arange(0.01, float(mean.max()) + 0.01, 0.01)
        blocks = candidates.split(max(1, TRIED_AT_ONCE // len(mean)))
        rmse = torch.cat([((depths[:, None] - mean) ** 2 + variance).sqrt().mean(dim=1) for depths in blocks])
        # A pixel that was never measured takes the mean of all.
        mean_depth = total.sum() / count.sum()
        return cls(torch.where(count > 0, total / count.clamp(min=1), mean_depth), float(candidates[rmse.argmin()]))

    def rmse_on(self, dataset: EchoDataset, max_depth: float, min_depth: float = 0.0) -> dict[str, float]:
        """Return the mean rmse of both guesses on another dataset, in metres: `mean_map` and `constant`."""
        guesses = {"mean_map": self.mean_map[None], "constant": torch.full_like(self.mean_map[None], self.constant)}
        scores = {name: DepthMetrics(max_depth, min_depth) for name in guesses}
        for index in range(len(dataset)):
            gt = dataset[index].depth[None, None].clamp(max=max_depth)
            for name, guess in guesses.items():
                scores[name].update(guess, gt)
        return {name: score.compute()["rmse"] for name, score in scores.items()}


def blind_lines(rmse: float, blind: dict[str, float]) -> list[str]:
    """Compare a model's rmse in metres with that of both guesses; return a sentence for each."""
    lines = []
    for name, score in blind.items():
        ahead = 1 - rmse / score if score > 0 else float("-inf")
        verdict = f"{ahead:.1%} lower" if ahead > 0 else f"NOT lower, {rmse:.3f} m"
        lines.append(f"Against the {BLIND_NAMES.get(name, name)} of the training set (rmse {score:.3f} m): {verdict}.")
    return lines


@dataclass(frozen=True)
class Blind:
    """The rmse in metres of predictions that hear nothing, by name: a part of evaluation.json."""

    blind_rmse: dict[str, Number]


def known_rmse(
    run_dir: Path | None, train: Callable[[], EchoDataset], samples: EchoDataset, found: Evaluation
) -> dict[str, float]:
    """Return the rmse in metres of both guesses on the samples that a model was scored on.

    They are those that the run has noted, if its own test was by the same protocol and came to the same rmse: then it
    was on the same samples. Else they are learned from the training split.

    Args:
        run_dir: folder of the run, if it was tested on these samples.
        train: opens the training split.
        samples: what the model was scored on.
        found: its figures.

    Returns:
        `mean_map` and `constant`.

    Raises:
        BaseResidualError: the guesses are not noted, and the training split cannot be opened.
    """
    with suppress(OSError, ValueError):
        noted = read_at_most(run_dir / EVALUATION, MAX_FILE) if run_dir else b""
        tested: Evaluation = from_json(Evaluation, noted)
        before, now = (torch.tensor([each.metrics.get(name, math.nan) for name in ALIKE]) for each in (tested, found))
        if tested.protocol == found.protocol and bool(((before - now).abs() <= SAME).all()):
            blind: Blind = from_json(Blind, noted)
            return blind.blind_rmse
    return BlindGuess.from_dataset(train()).rmse_on(samples, found.protocol.max_depth, found.protocol.min_depth)
