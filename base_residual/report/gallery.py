"""Rooms of the test split, from the best predicted to the worst: their maps, small enough to travel inside a page."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from base_residual.camera import DepthCamera
from base_residual.config.run_layout import BEST
from base_residual.data import open_again
from base_residual.data.depth_maps import resize_depth
from base_residual.data.sample import EchoDataset, collate, spread_indices
from base_residual.deploy.predict import picture_samples
from base_residual.errors import BaseResidualError, DataError
from base_residual.evaluation.comparison import Comparison, FinishedRun
from base_residual.files.cache import Progress
from base_residual.metrics import DEPTH_METRICS, DepthMetrics
from base_residual.models.factory import load_checkpoint
from base_residual.models.network import DepthNet
from base_residual.plots.figures import Map, Panel, Scale, beyond, colour_scale

BATCH = 32
LARGEST = 3_000_000  # bytes of the page that the maps may take; larger ones are shown with fewer pixels
LEAST_STEP = 0.001  # metres between two stored depths
SAME_SCORE = 0.01  # share by which the rmse of today may differ from that of the finished run


@dataclass(frozen=True)
class Gallery:
    """The rooms that a page shows.

    Attributes:
        missing: why a run is not in it, by its name.
        rooms: ready for JSON; empty where no run could be shown.
        chosen_by: name of the run whose errors chose the rooms.
        split: number of recordings that the ranks count.
        side: of the shown maps, in pixels.
        step: of the stored depths, in metres.
        camera: that the maps are seen by; None where its view is not known, and points cannot be shown.
    """

    missing: dict[str, str]
    rooms: list[dict[str, Any]] = field(default_factory=list)
    chosen_by: str = ""
    split: int = 0
    side: int = 0
    step: float = LEAST_STEP
    camera: DepthCamera | None = None


class Judged(NamedTuple):
    """A run's best weights and its test split.

    Attributes:
        model: with the best weights.
        samples: the test split.
        rmse: (N,) of each recording, in metres.
        ranking: indices of the recordings with a measured pixel, the best predicted first.
    """

    model: DepthNet
    samples: EchoDataset
    rmse: list[float]
    ranking: list[int]

    def rows(self, indices: Sequence[int]) -> list[Panel]:
        """Return the maps of some recordings."""
        return picture_samples(self.model, [self.samples[index] for index in indices])

    def drawn(self, index: int, row: Panel, side: int, step: float) -> dict[str, Any]:
        """Return the figures and maps of a recording, for the page."""
        return {
            "rmse": self.rmse[index],
            "rank": 1 + self.ranking.index(index),
            "final": _packed(row.final, side, step),
            "base": _packed(row.base, side, step) if self.model.has_residual else None,
            "remainder": None if row.remainder is None else _packed(row.remainder, side, step),
        }


def make_gallery(
    comparison: Comparison, count: int, device: torch.device, root: Path | None, progress: Progress
) -> Gallery:
    """Predict rooms spread evenly over a run's ranking, the best and the worst among them, with every run.

    The first run that splits its prediction chooses the rooms, or else the first one, so that all runs show the same.

    Args:
        comparison: the runs.
        count: rooms to show, at least 1.
        device: where to predict.
        root: folder of the dataset; default: that of each run.
        progress: told how many recordings are judged.

    Returns:
        The gallery; a run without its weights or its data is named in `missing`.
    """
    judged: dict[str, Judged] = {}
    missing = {}
    for name, run in zip(comparison.names, comparison.runs, strict=True):
        try:
            judged[name] = judge(run, device, root, progress)
        except BaseResidualError as error:
            missing[name] = str(error)
    if not judged:
        return Gallery(missing)
    chosen_by = next((name for name, one in judged.items() if one.model.has_residual), next(iter(judged)))
    model, _, _, ranking = judged[chosen_by]
    chosen = [ranking[place] for place in spread_indices(len(ranking), count)]
    shown = {name: one.rows(chosen) for name, one in judged.items()}
    titles = [row.title for row in shown[chosen_by]]
    for name in [name for name, rows in shown.items() if [row.title for row in rows] != titles]:
        missing[name] = f"Its test split holds other recordings than that of {chosen_by}."
        del shown[name]

    side, maps = model.output_size, len(chosen) * (1 + 3 * len(shown))
    while maps * side**2 * 2 * 4 / 3 > LARGEST:  # 2 bytes a pixel, and 4 characters for 3 bytes
        side //= 2
    step = max(LEAST_STEP, model.max_depth / (2**16 - 1))
    rooms = []
    for index, truth, *rows in zip(chosen, shown[chosen_by], *shown.values(), strict=True):
        assert truth.gt is not None
        scales = [colour_scale(row) for row in rows]
        rooms.append(
            {
                "title": truth.title,
                **_ends(truth, rows, scales),
                "truth": _packed(truth.gt, side, step),
                "runs": {
                    name: {**judged[name].drawn(index, row, side, step), "reach": scale.reach}
                    for name, row, scale in zip(shown, rows, scales, strict=True)
                },
            }
        )
    return Gallery(missing, rooms, chosen_by, len(ranking), side, step, model.camera)


def _ends(truth: Panel, rows: Sequence[Panel], scales: Sequence[Scale]) -> dict[str, Any]:
    """Return the ends of a room's colours, the same for all runs, and beyond which of them there is depth."""
    assert truth.gt is not None
    low, high = min(scale.low for scale in scales), max(scale.high for scale in scales)
    drawn = [truth.gt[truth.gt > 0], *(part for row in rows for part in (row.base, row.final))]
    past = {beyond(depth, low, high) for depth in drawn}
    sides = [place for place, name in enumerate(("min", "max")) if past & {name, "both"}]
    return {"low": low, "high": high, "beyond": sides}


@torch.inference_mode()
def judge(run: FinishedRun, device: torch.device, root: Path | None, progress: Progress) -> Judged:
    """Score a run's best weights on each recording of its test split.

    Raises:
        CheckpointError: the weights are not there.
        DataError: the data is not there, or not what the run was tested on.
        PredictionError: a prediction is not finite.
    """
    loaded = load_checkpoint(run.folder / BEST, device)
    samples = open_again(loaded.config, root, "test", progress)
    metrics = DepthMetrics(loaded.model.max_depth, run.test.protocol.min_depth)
    for start in range(0, len(samples), BATCH):
        batch = collate(
            [samples[index] for index in range(start, min(start + BATCH, len(samples)))], loaded.model.max_depth
        )
        parts = loaded.model.decompose(batch.waveform.to(device)).require_finite(batch.ids)
        metrics.update(parts.final, batch.depth.to(device))
        progress("Judging recordings", start + len(batch.ids), len(samples))
    score = metrics.compute()["rmse"]
    if not abs(score - run.rmse) <= SAME_SCORE * run.rmse:
        raise DataError(
            f"The weights score {score:.3f} m on the test split and scored {run.rmse:.3f} m when the run finished: "
            "the data or the package has changed since."
        )
    rmse = metrics.per_image()[:, DEPTH_METRICS.index("rmse")]
    ranking = [index for index in rmse.argsort().tolist() if not rmse[index].isnan()]
    return Judged(loaded.model, samples, rmse.tolist(), ranking)


def _packed(depth: Map, side: int, step: float) -> str:
    """Return a map (S, S) in metres, shrunk, as base64 of little-endian 16-bit steps, 0 where nothing was measured."""
    steps = np.rint(resize_depth(depth.astype(np.float32), side) / step)
    return base64.b64encode(steps.clip(0, 2**16 - 1).astype("<u2").tobytes()).decode("ascii")
