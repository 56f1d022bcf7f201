"""Depth maps in metres: read, cleaned, and resized so that holes do not spread."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from base_residual.errors import DataError
from base_residual.files.npy import read_array

MAX_SIDE = 4096  # pixels of a stored depth map
TOO_NEAR, TOO_FAR = 0.05, 100.0  # metres; a map whose median lies outside is in another unit than it was read as
UNITS = {"millimetres": ("metres", "micrometres"), "metres": ("kilometres", "millimetres")}
"""The units that a map is likely to be in whose depth is too near, or too far, for the unit that was expected."""

NOWHERE = 1000.0  # metres; no depth camera measures that far, and data.max_depth goes no farther
FULL_SCALE = (32.767, 65.535)  # metres; the largest numbers of 16 bits, in millimetres
ISOLATED = 4  # times that a background lies beyond all that was measured
BACKGROUND_SHARE, BACKGROUND_PIXELS = 0.01, 10  # of a map, which a background fills at least
LEAST_SHARE = 0.01  # of a map that must be measured before its median says something
GRID = 64  # rows and columns that a median is taken from


def read_depth(path: Path, max_depth: float) -> NDArray[np.float32]:
    """Read a depth map: an `.npy` file of two dimensions, in millimetres.

    Args:
        path: file to read.
        max_depth: larger depths are clipped to it, in metres.

    Returns:
        float32 (H, W) in metres, 0 where nothing was measured: see `clean_depth`.

    Raises:
        DataError: the file is missing, is no `.npy`, has another rank or type, a side beyond `MAX_SIDE`, or depth in
            another unit.
    """
    depth, unsigned = read_stored(path)
    check_unit(depth, max_depth, f"The depth map {path}", "millimetres")
    return clean_depth(depth, max_depth, unsigned)


def read_stored(path: Path) -> tuple[NDArray[np.float32], bool]:
    """Read a depth map (H, W) in metres with all that it holds, and whether it was stored as unsigned integers.

    Raises:
        DataError: as `read_depth`, but for the unit.
    """
    stored = read_array(path, "depth map")
    if stored.ndim != 2 or not all(0 < side <= MAX_SIDE for side in stored.shape) or stored.dtype.kind not in "uif":
        raise DataError(
            f"The depth map {path} has shape {stored.shape} and type {stored.dtype}; "
            f"expected are two dimensions of numbers, in millimetres, at most {MAX_SIDE} x {MAX_SIDE} of them."
        )
    with np.errstate(over="ignore"):  # float64 values beyond float32 become infinite
        depth = np.multiply(stored, np.float32(0.001), dtype=np.float32, casting="same_kind")
    return depth, stored.dtype.kind == "u"


def clean_depth(depth: NDArray[np.float32], max_depth: float, unsigned: bool = False) -> NDArray[np.float32]:
    """Set what is no measurement to 0 and clip the rest to `max_depth`, in place.

    No measurement are negative, NaN and infinite depth, and the large numbers that stand for a background; see
    `find_background`.

    Args:
        depth: (H, W) in metres.
        max_depth: in metres.
        unsigned: whether it was stored as unsigned integers, which are never negative, NaN or infinite.

    Returns:
        The same array.
    """
    if not (unsigned or (depth.min() >= 0 and depth.max() < np.inf)):  # NaN fails, too; most maps need no mask
        depth[~np.isfinite(depth) | (depth < 0)] = 0
    if depth.max() > min(max_depth, FULL_SCALE[0] - 0.001):  # most maps hold nothing that far away
        depth[find_background(depth, max_depth)] = 0
    torch.from_numpy(depth).clamp_(max=max_depth)  # several times as fast as numpy's
    return depth


def find_background(depth: NDArray[np.float32], max_depth: float) -> NDArray[np.bool_]:
    """Return the mask of the pixels whose number stands for "no measurement".

    These are 1000 m and more, the largest numbers of 16 bits, and one number beyond `max_depth` that fills at least 1 %
    of the map and is at least 4 times as large as everything else in it.

    Args:
        depth: (H, W) in metres, finite.
        max_depth: in metres.
    """
    found = depth >= NOWHERE
    for number in FULL_SCALE:
        found |= np.abs(depth - np.float32(number)) < 1e-4
    left = np.where(found, 0, depth)
    if left.max() > max_depth:
        found |= left == _isolated(left)
    return found


def _isolated(depth: NDArray[np.float32]) -> float:
    """Return the largest number of an array if it fills a part of it, far beyond all others; else NaN."""
    largest = depth.max()
    at = depth == largest
    others = depth[~at].max(initial=0)
    fills = at.sum() >= max(BACKGROUND_PIXELS, BACKGROUND_SHARE * depth.size)
    return float(largest) if fills and 0 < ISOLATED * others <= largest else float("nan")


def typical_depth(depth: NDArray[np.float32]) -> float:
    """Return the median of the measured pixels of a map (H, W) but for a background; NaN if hardly any was measured.

    A background is a number that fills a part of the map, far beyond all others. Of a large map only some rows and
    columns are looked at.
    """
    few = depth[:: max(1, depth.shape[0] // GRID), :: max(1, depth.shape[1] // GRID)]
    measured = few[(few > 0) & (few < np.inf)]
    if measured.size <= LEAST_SHARE * few.size:
        return float("nan")
    return float(np.median(measured[measured != _isolated(measured)]))


def find_unit_fault(depth: NDArray[np.float32], max_depth: float, unit: str) -> str:
    """Return what is wrong with the unit of a map, as the end of a sentence; empty if nothing is.

    The median is judged, because the largest depth can be a background, and the smallest one noise.

    Args:
        depth: (H, W) in metres, as they come of reading the map as `unit`.
        max_depth: in metres.
        unit: that is expected, a key of `UNITS`.
    """
    typical = typical_depth(depth)
    if TOO_NEAR <= typical <= max(TOO_FAR, max_depth) or np.isnan(typical):
        return ""
    return f"as if in {UNITS[unit][typical > TOO_FAR]}, where {unit} are expected"


def check_unit(depth: NDArray[np.float32], max_depth: float, what: str, unit: str) -> None:
    """Raise a DataError that begins with `what` if a map seems to be in another unit; see `find_unit_fault`."""
    fault = find_unit_fault(depth, max_depth, unit)
    if fault:
        raise DataError(f"{what} has a median of {typical_depth(depth):,.4g} m: {fault}.")


def resize_depth(depth: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Shrink or enlarge a depth map so that its holes do not spread into their neighbours.

    Each new pixel is the area-weighted mean of the measured pixels that it covers. It is a hole if less than half
    of its area was measured.

    Args:
        depth: (H, W) in metres, 0 where nothing was measured.
        size: new side S, in pixels.

    Returns:
        float32 (S, S) in metres, 0 where nothing was measured.
    """
    if depth.shape == (size, size):
        return depth
    rows, columns = _area_weights(depth.shape[0], size), _area_weights(depth.shape[1], size)

    def mean(values: NDArray[np.float32]) -> NDArray[np.float32]:
        by_column = torch.from_numpy(rows @ values).T.contiguous()  # PyTorch transposes faster than numpy
        averaged: NDArray[np.float32] = (columns @ by_column.numpy()).T
        return averaged

    measured = depth > 0
    if measured.all():
        return mean(depth)
    share = mean(measured.astype(np.float32))
    return np.where(share >= 0.5, mean(depth) / np.maximum(share, 1e-6), 0).astype(np.float32)


@lru_cache(maxsize=64)
def _area_weights(old: int, new: int) -> Any:
    """Return a sparse matrix (new, old) whose rows average the old pixels that each new one covers, along one side."""
    edges = np.arange(new + 1) * old / new
    pixels = np.arange(old)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    overlap = np.clip(overlap, 0, None)
    from scipy.sparse import csr_array  # slow to import

    return csr_array((overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32))
