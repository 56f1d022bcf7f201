"""The decomposition: final = base + residual, with bounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from base_residual.acoustics.recordings import as_float32
from base_residual.camera import BAND, DepthCamera, Scan
from base_residual.data.sample import abbreviate_names
from base_residual.errors import ConfigError, PredictionError, ShapeError
from base_residual.plots.display import show
from base_residual.plots.figures import Map, as_png, decomposition_figure, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = 6  # predictions in one picture; a batch has many


class DepthDecomposition(NamedTuple):
    """A predicted depth map and its two parts, each (B, 1, S, S) in metres; a notebook draws them."""

    base: Tensor
    residual: Tensor
    final: Tensor

    def require_finite(self, names: Sequence[str] = ()) -> Self:
        """Return the predictions themselves, after every one of them is found to be finite; waits for the device.

        Args:
            names: what they are for; default: their numbers, if there are several.

        Raises:
            PredictionError: one is not; it is named.
        """
        raise_unless_finite(self.finite().tolist(), names)
        return self

    def finite(self) -> Tensor:
        """Return whether each prediction is finite, (B,), on its device."""
        return torch.stack([*map(finite_maps, self)]).all(dim=0)

    def show(self, gt: Tensor | NDArray[np.floating[Any]] | None = None) -> None:
        """Draw base, residual and final at once: in a notebook beneath the cell, else in the system's picture viewer.

        Args:
            gt: the ground truth, (S, S) for one prediction or (B, 1, S, S), in metres, 0 where nothing was measured.

        Raises:
            ShapeError: the ground truth has another shape.
            RunError: there is nothing to show it in.
        """
        show(self._figure(gt))

    def _repr_png_(self) -> bytes:
        """Return what a notebook shows where a cell ends with a prediction."""
        return as_png(self._figure())

    def _figure(self, gt: Tensor | NDArray[np.floating[Any]] | None = None) -> Figure:
        """Draw the first few predictions, beside the ground truth where it is given."""
        count, size = self.final.shape[0], self.final.shape[-1]
        truth: list[Map] | None = None
        if gt is not None:
            given = as_float32(gt).detach().cpu().numpy()
            if given.size != count * size * size or given.shape[-2:] != (size, size):
                raise ShapeError(f"The ground truth has shape {given.shape}; expected is {(count, 1, size, size)}.")
            truth = list(given.reshape(count, size, size)[:ROWS])
        names = [""] if count == 1 else [f"{number} of {count}" for number in range(1, min(count, ROWS) + 1)]
        return decomposition_figure(panels((part[:ROWS] for part in self), truth, names, self._known_remainder()))

    def _known_remainder(self) -> Tensor | None:
        """Return the remainder, (B, 1, S, S) in metres, if there is one."""
        return None


def finite_maps(maps: Tensor) -> Tensor:
    """Return whether each of some maps (B, 1, S, S) is finite, (B,)."""
    return maps.flatten(1).isfinite().all(dim=1)


class Prediction(DepthDecomposition):
    """A decomposition that a network predicts from recordings, with the camera that it sees by.

    Attributes:
        camera: None where the field of view is not known.
        half_width: the remainder; None where the network is not calibrated.
        level: share of the pixels that is promised to lie within final +- remainder.
    """

    camera: DepthCamera | None = None
    half_width: Tensor | None = None
    level: float = 0.0

    @property
    def remainder(self) -> Tensor:
        """Return how far off each pixel may be, (B, 1, S, S) in metres: `level` of them lie within final +- remainder.

        Raises:
            ConfigError: the network is not calibrated.
        """
        if self.half_width is None:
            raise ConfigError(
                "This network has no remainder, which says how far off it may be. Calibrate it on recordings that it "
                "was not trained on: brdepth calibrate CHECKPOINT --dataset ... --data-root ROOT."
            )
        return self.half_width

    def finite(self) -> Tensor:
        """Return whether each prediction and its remainder are finite, (B,), on its device."""
        found = super().finite()
        return found if self.half_width is None else found & finite_maps(self.half_width)

    def _known_remainder(self) -> Tensor | None:
        return self.half_width

    def points(self) -> Tensor:
        """Return where each pixel lies, (S, S, 3) in metres for one echo, (B, S, S, 3) for several.

        The axes are those of REP 103, from the camera: x forward, y left, z up.

        Raises:
            ConfigError: the field of view is not known.
        """
        points = require_camera(self.camera).points(self.final[:, 0])
        return points[0] if len(points) == 1 else points

    def scan(self, band: tuple[float, float] = BAND) -> Scan:
        """Return a planar scan of one echo: the nearest obstacle in each direction.

        Args:
            band: metres below and above the camera between which an obstacle counts.

        Raises:
            ShapeError: there are several echoes.
            ConfigError: the field of view is not known.
        """
        if len(self.final) != 1:
            raise ShapeError(f"There are {len(self.final)} echoes; a scan is made of one.")
        return require_camera(self.camera).scan(self.final[0, 0], band)


def require_camera(camera: DepthCamera | None) -> DepthCamera:
    """Return a camera; raise a ConfigError if there is none."""
    if camera is None:
        raise ConfigError(
            "The field of view of this network's depth maps is not known. Train it with data.field_of_view, such as "
            "--set 'data.field_of_view=[86,57]' for a camera of 86 degrees across and 57 upward."
        )
    return camera


def raise_unless_finite(finite: Sequence[bool], names: Sequence[str] = ()) -> None:
    """Raise a PredictionError that names the predictions that are not finite, by their names or numbers from 1."""
    broken = [row for row, fine in enumerate(finite) if not fine]
    if broken:
        numbers = [f"echo {row + 1} of {len(finite)}" if len(finite) > 1 else "the echo" for row in broken]
        raise PredictionError(abbreviate_names([names[row] for row in broken] if names else numbers), broken)


def compose(
    base_raw: Tensor, residual_raw: Tensor, max_depth: float, bound: float = 0.2, detach_base: bool = False
) -> DepthDecomposition:
    """Give two raw maps their bounds and add them.

    Args:
        base_raw: the base decoder's map (B, 1, S, S), unbounded.
        residual_raw: the residual decoder's map (B, 1, S, S), unbounded.
        max_depth: in metres.
        bound: largest residual, as a share of max_depth.
        detach_base: keep gradients of the sum from reaching the base (the curriculum after its warm-up).

    Returns:
        base in [0, max_depth], residual in +-bound * max_depth, final in [0, max_depth].
    """
    base = base_share(base_raw) * max_depth
    residual = torch.tanh(residual_raw.float()) * (bound * max_depth)
    final = ((base.detach() if detach_base else base) + residual).clamp(0, max_depth)
    return DepthDecomposition(base, residual, final)


def base_share(base_raw: Tensor) -> Tensor:
    """Return the base as a share of max_depth, from 0 to 1, in full precision."""
    return torch.sigmoid(base_raw.float())


def raw_of(share: float) -> float:
    """Return the raw value that becomes a base of `share` times max_depth."""
    share = min(max(share, 1e-3), 1 - 1e-3)
    return math.log(share / (1 - share))
