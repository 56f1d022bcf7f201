"""The best predictions without an echo, from the training set's depth maps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from base_residual.data.sample import EchoDataset
from base_residual.errors import DataError
from base_residual.metrics import DepthMetrics, valid_pixels

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
    names = {"mean_map": "the mean depth map of the training set", "constant": "the best constant of the training set"}
    lines = []
    for name, score in blind.items():
        ahead = 1 - rmse / score if score > 0 else float("-inf")
        verdict = f"{ahead:.1%} lower" if ahead > 0 else f"NOT lower, {rmse:.3f} m"
        lines.append(f"Against {names[name]} (rmse {score:.3f} m): {verdict}.")
    return lines
