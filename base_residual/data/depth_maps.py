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

TOO_NEAR = 0.1  # metres; a dataset whose largest depth is below it was stored in metres and read as millimetres
MAX_SIDE = 4096  # pixels of a stored depth map


def read_depth(path: Path, max_depth: float) -> NDArray[np.float32]:
    """Read a depth map: an `.npy` file of two dimensions, in millimetres.

    Args:
        path: file to read.
        max_depth: larger depths are clipped to it, in metres.

    Returns:
        float32 (H, W) in metres, 0 where nothing was measured (0, negative, NaN or infinite in the file).

    Raises:
        DataError: the file is missing, is no `.npy`, has another rank or type, or a side beyond `MAX_SIDE`.
    """
    stored = read_array(path, "depth map")
    if stored.ndim != 2 or not all(0 < side <= MAX_SIDE for side in stored.shape) or stored.dtype.kind not in "uif":
        raise DataError(
            f"The depth map {path} has shape {stored.shape} and type {stored.dtype}; "
            f"expected are two dimensions of numbers, in millimetres, at most {MAX_SIDE} x {MAX_SIDE} of them."
        )
    with np.errstate(over="ignore"):  # float64 values beyond float32 become infinite
        depth = np.multiply(stored, np.float32(0.001), dtype=np.float32, casting="same_kind")
    return clean_depth(depth, max_depth, unsigned=stored.dtype.kind == "u")


def clean_depth(depth: NDArray[np.float32], max_depth: float, unsigned: bool = False) -> NDArray[np.float32]:
    """Set negative, NaN and infinite depth to 0 and clip the rest to `max_depth`, in place.

    Args:
        depth: (H, W) in metres.
        max_depth: in metres.
        unsigned: whether it was stored as unsigned integers, which are never negative, NaN or infinite.

    Returns:
        The same array.
    """
    if not (unsigned or (depth.min() >= 0 and depth.max() < np.inf)):  # NaN fails, too; most maps need no mask
        depth[~np.isfinite(depth) | (depth < 0)] = 0
    torch.from_numpy(depth).clamp_(max=max_depth)  # several times as fast as numpy's
    return depth


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
