"""A model of simulated rooms, tried on rooms and recordings that its simulator did not make."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import NamedTuple

import torch

from base_residual.camera import DepthCamera
from base_residual.config.presets import VIEWS
from base_residual.config.resolve import make_config
from base_residual.config.schema import Config
from base_residual.data import open_dataset
from base_residual.data.loading import read_batches, reader
from base_residual.data.sample import spread_indices
from base_residual.data.views import camera_of, seen_from
from base_residual.errors import BaseResidualError
from base_residual.evaluation.blind import BlindGuess
from base_residual.files.paths import expand_home
from base_residual.machine import standard_torch
from base_residual.metrics import DepthMetrics
from base_residual.models.decomposition import raise_unless_finite
from base_residual.models.network import DepthNet
from base_residual.models.twins import evaluating

log = logging.getLogger("base_residual")

OTHER_ROOMS = Path(__file__).parent / "other_rooms"  # `benchmarks/carry_over.py --bundle` writes it
BATVISION_VIEW = VIEWS["batvisionv2"]
SQUARE_VIEW = VIEWS["varied"]  # of the rooms of another program
MOST = 200  # recordings of a dataset that are tried
BATCH = 32


class Tried(NamedTuple):
    """How a model did on some recordings.

    Attributes:
        place: what they are, in words.
        recordings: their number.
        rmse: of the model, in metres.
        constant: rmse of the single depth that fits these recordings best, in metres.
    """

    place: str
    recordings: int
    rmse: float
    constant: float

    def __str__(self) -> str:
        ahead = 1 - self.rmse / self.constant
        verdict = f"{ahead:.1%} lower" if ahead > 0 else "NOT lower"
        against = f"the best constant for {self.recordings} of them (rmse {self.constant:.3f} m)"
        return f"{self.place}: rmse {self.rmse:.3f} m. Against {against}: {verdict}."


def try_elsewhere(model: DepthNet) -> list[Tried]:
    """Try a model of simulated rooms on what is at hand and was not made by its simulator.

    Rooms of another program, heard by a measured head, come with the package. Where the environment's BRDEPTH_DATA
    names recordings of BatVision V2, some of their test split are tried, too.

    What cannot be tried is told in a warning.

    Returns:
        What came of it; nothing for a model that was trained on something else, or for a camera with another view.
    """
    config = model.config
    if config is None or config.data.name != "simulated" or config.data.field_of_view != SQUARE_VIEW:
        return []
    places: list[tuple[str | Path, str, tuple[float, float] | None]] = [(OTHER_ROOMS, "Rooms of another program", None)]
    if given := os.environ.get("BRDEPTH_DATA"):
        places.append((given, "Recordings of BatVision V2", BATVISION_VIEW))
    tried = []
    for root, place, view in places:
        try:
            tried.append(try_on(model, config, expand_home(root), place, view))
        except BaseResidualError as error:
            log.warning("The model was not tried on %s: %s", root, error)
    return tried


@standard_torch()
@torch.inference_mode()
def try_on(model: DepthNet, config: Config, root: Path, place: str, view: tuple[float, float] | None = None) -> Tried:
    """Score a model on the test split of recordings in BatVision V2's layout, at most `MOST` of them.

    Args:
        model: predicts maps of some camera.
        config: its settings.
        root: folder of the recordings.
        place: what they are, in words.
        view: of their camera, across and upward in degrees, which is brought to the model's; default: the same.

    Raises:
        DataError: the recordings are not there, or not laid out as expected.
        PredictionError: a prediction is not finite.
    """
    here = {"data": {"name": "batvisionv2", "root": root, "prepare": False}}
    recordings = open_dataset("batvisionv2", root, "test", make_config(config.model_dump(mode="json"), here))
    chosen = [recordings[index] for index in spread_indices(len(recordings), MOST)]
    samples = seen_from(chosen, DepthCamera(view) if view else None, camera_of(config.data))
    scores, device = DepthMetrics(model.max_depth), next(model.parameters()).device
    model = evaluating(model)
    for batch in read_batches(reader(samples, 0, model.max_depth, batch_size=BATCH)):
        parts = model.decompose(batch.waveform.to(device))
        raise_unless_finite(parts.finite().tolist(), batch.ids)
        scores.update(parts.final, batch.depth.to(device))
    blind = BlindGuess.from_dataset(samples, model.max_depth).rmse_on(samples, model.max_depth)
    return Tried(place, len(samples), scores.compute()["rmse"], blind["constant"])
