"""What resizing a depth map does to the metrics: the same map, the same prediction, four ways of making it smaller.

Real depth maps have holes, stored as 0. A resize that averages them in makes pixels of a few centimetres out of the
borders of the holes: they count as measured, and an error in metres over a depth in centimetres is what abs_rel is made
of. The prediction is one depth everywhere, the median of what was measured, so that no network takes part in it.

    python benchmarks/resize.py                # the committed result, results/resize.json and .md, in seconds
    python benchmarks/resize.py --depth MAP.npy --out out.json   # of another map, in millimetres
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from base_residual.data.depth_maps import read_depth, resize_depth
from base_residual.errors import BaseResidualError
from base_residual.files.atomic import replacing
from base_residual.metrics import depth_metrics, valid_pixels

HERE = Path(__file__).parent
SAMPLE = HERE.parents[1] / "shared/batvision_v2_sample/BatvisionV2/Sample_Location/depth/depth_47.npy"
MAX_DEPTH = 30.0  # metres
FAR_ENOUGH = 0.5  # metres: what the second protocol of the literature counts
SHOWN = ("rmse", "abs_rel", "delta1")

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
    """The metrics of a constant prediction against a map that was made smaller in each way.

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


def markdown(found: Mapping[str, Any]) -> str:
    """The result as a table for the documentation; its last column is abs_rel over the pixels from 0.5 m on."""
    far = f"metrics_from_{FAR_ENOUGH}_m"
    head = ["resize", "counted", "nearest (m)", "< 10 cm", "rmse (m)", "abs_rel", "delta1", "from 0.5 m"]
    rows = [head, ["---"] * len(head)]
    for name, way in found["ways"].items():
        pixels = [f"{way['counted']:.1%}", f"{way['nearest_m']:.4f}", f"{way['below_10_cm']:.1%}"]
        figures = [f"{way['metrics'][key]:.3f}" for key in SHOWN]
        rows.append([name, *pixels, *figures, f"{way[far]['abs_rel']:.3f}"])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=Path, default=SAMPLE, help="depth map, in millimetres (the real recording's)")
    parser.add_argument("--size", type=int, default=256, help="side of the smaller map, in pixels (256)")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "resize.json", help="JSON to write")
    options = parser.parse_args()
    found = measure(read_depth(options.depth, MAX_DEPTH), options.size)
    with replacing(options.out) as aside:
        aside.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    with replacing(options.out.with_suffix(".md")) as aside:
        aside.write_text(markdown(found), encoding="utf-8")
    print(markdown(found), end="")


if __name__ == "__main__":
    try:
        main()
    except BaseResidualError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
