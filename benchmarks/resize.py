"""Show what resizing a depth map does to the metrics: one map, one prediction, four ways of making it smaller.

Real depth maps have holes, stored as 0. A resize that averages them in makes pixels of a few centimetres out of the
borders of the holes: they count as measured, and an error in metres over a depth in centimetres is what abs_rel is made
of. The prediction is one depth everywhere, the median of what was measured, so that no network takes part in it.

    python benchmarks/resize.py                # the committed result, results/resize.json, in seconds
    python benchmarks/resize.py --depth MAP.npy --out out.json   # of another map, in millimetres
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from reporting import HERE, RESULTS, parser, positive, run_script, write

from base_residual.data.depth_maps import read_depth, resize_depth
from base_residual.metrics import depth_metrics, valid_pixels

SAMPLE = HERE.parents[1] / "shared/batvision_v2_sample/BatvisionV2/Sample_Location/depth/depth_47.npy"
MAX_DEPTH = 30.0  # metres
FAR_ENOUGH = 0.5  # metres: what the second protocol of the literature counts

Depth = NDArray[np.float32]


def interpolated(mode: str, antialias: bool = False) -> Callable[[Depth, int], Depth]:
    """PyTorch's resize, to which a hole is a depth of 0 m like any other."""

    def resize(depth: Depth, size: int) -> Depth:
        (smaller,) = F.interpolate(torch.from_numpy(depth)[None, None], (size, size), mode=mode, antialias=antialias)
        return smaller[0].numpy()

    return resize


# `mask-aware` is this package's area mean; `antialiased` is what torchvision's Resize does to tensors today.
WAYS: dict[str, Callable[[Depth, int], Depth]] = {
    "mask-aware": resize_depth,
    "nearest": interpolated("nearest"),
    "bilinear": interpolated("bilinear"),
    "antialiased": interpolated("bilinear", antialias=True),
}


def measure(depth: Depth, size: int) -> dict[str, Any]:
    """Return the metrics of a constant prediction against a map that was made smaller in each way.

    Args:
        depth: (H, W) in metres, 0 where nothing was measured.
        size: side of the smaller map, in pixels.
    """
    constant = float(np.median(depth[depth > 0]))
    ways = {}
    for name, resize in WAYS.items():
        gt = torch.from_numpy(resize(depth, size))[None, None]  # (1, 1, S, S)
        pred = torch.full_like(gt, constant)
        found = {key: float(value) for key, value in depth_metrics(pred, gt, MAX_DEPTH).items()}
        far = {key: float(value) for key, value in depth_metrics(pred, gt, MAX_DEPTH, FAR_ENOUGH).items()}
        counted = gt[valid_pixels(gt)]
        ways[name] = {
            "counted": counted.numel() / gt.numel(),
            "nearest_m": float(counted.min()),
            "below_10_cm": float((counted < 0.1).float().mean()),
            "metrics": found,
            f"metrics_from_{FAR_ENOUGH}_m": far,
        }
    return {
        "map": {"shape": list(depth.shape), "holes": float((depth == 0).mean()), "median_m": constant},
        "size": size,
        "ways": ways,
    }


def main() -> None:
    offered = parser(__doc__)
    offered.add_argument("--depth", type=Path, default=SAMPLE, help="depth map, in millimetres (the real recording's)")
    offered.add_argument("--size", type=positive, default=256, help="side of the smaller map, in pixels (256)")
    offered.add_argument(
        "--out", type=Path, default=RESULTS / "resize.json", help="JSON to write (results/resize.json)"
    )
    options = offered.parse_args()
    found = measure(read_depth(options.depth, MAX_DEPTH), options.size)
    for name, way in found["ways"].items():
        print(f"{name}: abs_rel {way['metrics']['abs_rel']:.3f}")
    write(options.out, found)


if __name__ == "__main__":
    run_script(main)
