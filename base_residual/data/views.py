"""Depth maps of one camera as another one sees them, so that a network is judged in the directions that it predicts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from base_residual.camera import DepthCamera
from base_residual.config.schema import DataConfig
from base_residual.data.sample import EchoDataset, EchoSample


def camera_of(data: DataConfig) -> DepthCamera | None:
    """Return the camera of a dataset's depth maps; None if its view is not known."""
    return None if data.field_of_view is None else DepthCamera(data.field_of_view, data.depth_along)


def seen_from(dataset: EchoDataset, own: DepthCamera | None, other: DepthCamera | None) -> EchoDataset:
    """Return a dataset as another camera sees it; the dataset itself if both are alike or one is not known."""
    return dataset if own == other or own is None or other is None else SeenFrom(dataset, own, other)


class SeenFrom:
    """A dataset whose depth maps are those of another camera at the same place.

    What its own camera has not seen is a hole. Each pixel takes the depth of the nearest direction that was measured.

    Args:
        dataset: whose maps are brought to the other view.
        own: its camera.
        other: the camera to see by.
    """

    def __init__(self, dataset: EchoDataset, own: DepthCamera, other: DepthCamera) -> None:
        self.dataset, self.own, self.other = dataset, own, other

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> EchoSample:
        sample = self.dataset[index]
        empty_room = None if sample.empty_room is None else reframe(sample.empty_room, self.own, self.other)
        return sample._replace(depth=reframe(sample.depth, self.own, self.other), empty_room=empty_room)


def reframe(depth: Tensor, own: DepthCamera, other: DepthCamera) -> Tensor:
    """Return a depth map (S, S) in metres of one camera as another one at its place sees it, 0 where it saw nothing."""
    size = len(depth)
    centres = (torch.arange(size) + 0.5) / size * 2 - 1
    across, down = (
        centres * math.tan(math.radians(wanted) / 2) / math.tan(math.radians(had) / 2)
        for wanted, had in zip(other.field_of_view, own.field_of_view, strict=True)
    )  # (S,) from -1 to 1 within the view of the own camera
    columns, rows = (((place + 1) / 2 * size).long().clamp(0, size - 1) for place in (across, down))
    inside = (down.abs() <= 1)[:, None] & (across.abs() <= 1)
    ahead = (depth * own.rays(size)[..., 0])[rows[:, None], columns]  # along the axis
    return torch.where(inside, ahead / other.rays(size)[..., 0], 0)
