"""Depth metrics and figures of the decomposition: per image on the device, then the mean over images."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

import torch
from torch import Tensor

from base_residual.errors import ShapeError
from base_residual.files.json import Number
from base_residual.losses import low_pass
from base_residual.plots.tables import Table

MIN_PREDICTION = 0.001  # metres; predictions are clipped to it and to max_depth first
CACHED_PIXELS = 2**18  # that a CPU works on at a time: more leave its cache, with fewer it waits for PyTorch to start
SUMS = 10  # over pixels, which the figures of the decomposition are made of
Gather = Callable[[Tensor], Tensor]
"""Make one tensor of the rows (N, ...) that each of several processes has, in order of their ranks."""

IN_METRES = (
    *("rmse", "mae", "base_positive", "base_rmse", "residual_abs_mean", "remainder_mean"),
    *("base_layout_rmse", "final_layout_rmse"),
)
HEALTHY = {
    "base_positive": ">= 0",
    "base_smoothness": "below 0.25",
    "base_rmse": "above rmse",
    "residual_abs_mean": "< 1 m, not 0",
    "residual_gain": "> 0",
    "residual_detail_corr": "> 0",
    "clamped_share": "small",
}
INTERVAL = {
    "level": "as promised",
    "coverage": "the level",
    "coverage_worst_tenth": "higher",
    "held_images": "0.9 or more",
    "remainder_mean": "lower",
    "remainder_over_mae": "lower",
    "ause": "lower",
    "ause_by_depth": "above ause",
    "ause_at_random": "above ause",
}
"""Figures of final +- remainder: the share of the pixels that is promised to lie within it, and the one that does; the
latter in the worst tenth of the images; the share of the images in which at most 0.1 less do; the mean remainder, and
the same over the mae; the area between its sparsification curve and the oracle's, that of depth, and that of chance."""
LAYOUT = {"base_layout_rmse": "lower", "final_layout_rmse": "lower"}
"""How far base and final are from the depth of the empty room, in metres, where the dataset knows it."""
BY_METRE = re.compile(r"coverage_(predicted_)?(\d+)_m")
"""The same share of the pixels whose true, or whose predicted, depth lies between that and a metre more."""
COUNTED = ("images", "images_without_depth")
AT_MOST_1 = (
    *("delta1", "delta2", "delta3", "residual_gain", "residual_detail_corr", "clamped_share"),
    *("level", "coverage", "coverage_worst_tenth", "held_images"),
)
SIGNED = ("base_positive", "residual_gain", "residual_detail_corr")
DEPTH_METRICS = ("rmse", "mae", "abs_rel", "log10", "delta1", "delta2", "delta3")


@torch.no_grad()
def depth_metrics(pred: Tensor, gt: Tensor, max_depth: float, min_depth: float = 0.0) -> dict[str, Tensor]:
    """Return the field's metrics of each image, over its valid pixels (Eigen et al., NIPS 2014, section 4).

    Args:
        pred: (B, 1, H, W) in metres; clipped to [0.001, max_depth].
        gt: (B, 1, H, W) in metres, 0 where nothing was measured.
        max_depth: in metres.
        min_depth: only pixels with gt > 0 and gt >= min_depth count, in metres.

    Returns:
        rmse and mae in metres, abs_rel, log10, delta1, delta2 and delta3, each (B,). For an image without a valid
        pixel all are NaN; for one with NaN in the prediction the errors are infinite.

    Raises:
        ShapeError: the shapes differ.
    """
    if pred.shape != gt.shape or gt.ndim != 4:
        raise ShapeError(
            f"The prediction has shape {tuple(pred.shape)} and gt {tuple(gt.shape)}; expected are equal (B, 1, H, W)."
        )
    block = len(gt) if gt.is_cuda else max(1, CACHED_PIXELS // max(1, math.prod(gt.shape[1:])))
    blocks = zip(pred.float().flatten(1).split(block), gt.float().flatten(1).split(block), strict=True)
    sums = torch.cat([_sums(*pair, max_depth, min_depth) for pair in blocks], dim=1)
    sums = torch.where(sums.isnan(), math.inf, sums)  # as bad as can be, and not taken for an image without depth
    count, square, absolute, relative, log_ratio, *within = sums
    count = torch.where(count > 0, count, math.nan)
    return {
        "rmse": (square / count).sqrt(),
        "mae": absolute / count,
        "abs_rel": relative / count,
        "log10": log_ratio / count / math.log(10),
        **{f"delta{power}": found.clamp(min=0) / count for power, found in enumerate(within, 1)},
    }


def _sums(pred: Tensor, gt: Tensor, max_depth: float, min_depth: float) -> Tensor:
    """Return the number of valid pixels of maps (B, P) and seven sums over them, (8, B).

    The passes over the pixels are few and run through vectors: no masks, results in place, and one logarithm for the
    product of four ratios. The product fits into float32 while no depth is 10^9 times another.
    """
    pred = pred.clamp(MIN_PREDICTION, max_depth)
    hole = torch.empty_like(gt)
    torch.lt(gt, min_depth, out=hole) if min_depth > 0 else torch.le(gt, 0, out=hole)
    gt = torch.lerp(gt, pred, hole)  # a prediction is perfect where nothing was measured
    holes = hole.sum(dim=1)
    far = torch.maximum(pred, gt)
    near = torch.minimum(pred, gt, out=pred)
    error = torch.sub(far, near, out=hole)
    square, absolute = torch.linalg.vector_norm(error, dim=1).square(), error.sum(dim=1)
    relative = error.div_(gt).sum(dim=1)
    ratio = far.div_(near)
    within = [torch.lt(ratio, 1.25**power, out=error).sum(dim=1) - holes for power in (1, 2, 3)]
    log_ratio = _product(_product(ratio)).log_().sum(dim=1)
    return torch.stack([gt.shape[1] - holes, square, absolute, relative, log_ratio, *within])


def _product(values: Tensor) -> Tensor:
    """Return half as many numbers (B, P / 2) with the same product; the last one stays alone where P is odd."""
    half = values.shape[1] // 2
    product = values[:, :half] * values[:, half : 2 * half]
    return product if values.shape[1] == 2 * half else torch.cat([product, values[:, -1:]], dim=1)


def valid_pixels(gt: Tensor, min_depth: float = 0.0) -> Tensor:
    """Return the bool mask of the pixels that count: measured, and at least `min_depth` metres away."""
    return (gt > 0) & (gt >= min_depth)


class DepthMetrics:
    """Mean of `depth_metrics` over the images of many batches; images without a valid pixel are counted, not scored."""

    def __init__(self, max_depth: float, min_depth: float = 0.0) -> None:
        self.max_depth, self.min_depth = max_depth, min_depth
        self._values: list[Tensor] = []

    def update(self, pred: Tensor, gt: Tensor) -> None:
        """Add a batch, (B, 1, H, W) each, in metres."""
        values = depth_metrics(pred, gt, self.max_depth, self.min_depth)
        self._values.append(torch.stack([values[name] for name in DEPTH_METRICS], dim=1))  # (B, metrics)

    def per_image(self) -> Tensor:
        """Return the metrics of every image so far, (N, 7) in the order of `DEPTH_METRICS`."""
        return torch.cat(self._values).cpu() if self._values else torch.empty(0, len(DEPTH_METRICS))

    def share(self, gathered: Gather) -> None:
        """Take in what the other processes have added."""
        self._values = [gathered(self.per_image())]

    def compute(self) -> dict[str, float]:
        """Return the metrics by name, the number of `images` scored and of `images_without_depth` left out."""
        values = self.per_image().double()
        scored = values[~values[:, 0].isnan()]
        means = scored.mean(dim=0).tolist()
        return dict(zip(DEPTH_METRICS, means, strict=True)) | {
            "images": len(scored),
            "images_without_depth": len(values) - len(scored),
        }


class DecompositionFigures:
    """Figures of base and residual over the valid pixels of many batches.

    Args:
        kernel: side of the low-pass box that tells layout from detail, in pixels.
        max_depth: in metres.
        min_depth: as in `depth_metrics`.
    """

    def __init__(self, kernel: int, max_depth: float, min_depth: float = 0.0) -> None:
        self.kernel, self.max_depth, self.min_depth = kernel, max_depth, min_depth
        self._base = DepthMetrics(max_depth, min_depth)
        self._final = DepthMetrics(max_depth, min_depth)
        self._layout = {name: DepthMetrics(max_depth, min_depth) for name in LAYOUT}
        self._smallest: list[Tensor] = []
        self._sums: list[Tensor] = []

    def update(
        self, base: Tensor, residual: Tensor, final: Tensor, gt: Tensor, empty_room: Tensor | None = None
    ) -> None:
        """Add a batch, (B, 1, H, W) each, in metres; the empty room is 0 where it is not known."""
        if empty_room is not None:
            for metrics, part in zip(self._layout.values(), (base, final), strict=True):
                metrics.update(part, empty_room)
        valid = valid_pixels(gt, self.min_depth)
        self._base.update(base, gt)
        self._final.update(final, gt)
        self._smallest.append(base.min())
        measured = torch.where(valid, gt, 0)
        base_detail = base - low_pass(base, self.kernel, valid)
        gt_detail = measured - low_pass(measured, self.kernel, valid)
        missing = measured - base
        clamped = (base + residual < 0) | (base + residual > self.max_depth)
        per_pixel = (
            torch.ones_like(gt),
            residual.abs(),
            clamped,
            base_detail.square(),
            gt_detail.square(),
            residual,
            missing,
            residual.square(),
            missing.square(),
            residual * missing,
        )
        self._sums.append(torch.stack([torch.where(valid, value, 0).sum() for value in per_pixel]))

    def share(self, gathered: Gather) -> None:
        """Take in what the other processes have added."""
        for metrics in (self._base, self._final, *self._layout.values()):
            metrics.share(gathered)
        own = torch.stack(self._sums) if self._sums else torch.empty(0, SUMS)
        smallest = torch.stack(self._smallest) if self._smallest else torch.empty(0)
        self._sums, self._smallest = [*gathered(own)], [*gathered(smallest)]

    def compute(self) -> dict[str, float]:
        """Return the figures by name: those of `HEALTHY`, and where the empty room is known, of `LAYOUT`."""
        count, absolute, clamped, base_detail, gt_detail, r, m, rr, mm, rm = (
            torch.stack(self._sums).cpu().double().sum(dim=0).tolist()
        )
        layout = {name: metrics.compute() for name, metrics in self._layout.items()}
        base_rmse, rmse = self._base.compute()["rmse"], self._final.compute()["rmse"]
        # Rounding may leave a variance of 0 a little below 0.
        spread = (max(0.0, rr - r * r / count) * max(0.0, mm - m * m / count)) ** 0.5
        return {
            "base_positive": float(torch.stack(self._smallest).min()),
            "base_smoothness": base_detail / gt_detail if gt_detail > 0 else float("nan"),
            "base_rmse": base_rmse,
            "residual_abs_mean": absolute / count,
            "residual_gain": 1 - rmse / base_rmse if base_rmse > 0 else 0.0,
            # A residual that never changes says nothing about the detail.
            "residual_detail_corr": min(1.0, max(-1.0, (rm - r * m / count) / spread)) if spread > 0 else 0.0,
            "clamped_share": clamped / count,
            **{name: own["rmse"] for name, own in layout.items() if own["images"]},
        }


@dataclass(frozen=True)
class Protocol:
    """The way in which figures were taken; figures of different protocols do not compare.

    Attributes:
        max_depth: predictions are clipped to it, in metres.
        min_depth: only pixels at least this far count, in metres; 0 counts every measured one.
        output_size: side of the compared maps, in pixels.
        clip_min: predictions are clipped to it from below, in metres.
        resize: how stored maps were brought to that size.
        mean: over what the mean is taken.
    """

    max_depth: float
    min_depth: float
    output_size: int
    clip_min: float = MIN_PREDICTION
    resize: str = "area mean of measured pixels"
    mean: str = "per image, then over images"

    def sentence(self) -> str:
        """Return the protocol in one line."""
        least = f"gt >= {self.min_depth:g} m" if self.min_depth else "gt > 0"
        return (
            f"{self.output_size} x {self.output_size} pixels ({self.resize}), {least}, predictions clipped to "
            f"[{self.clip_min:g}, {self.max_depth:g}] m, {self.mean}"
        )


@dataclass(frozen=True)
class Evaluation:
    """Figures of one model on one dataset.

    Attributes:
        metrics: depth metrics by name, and how many images they are the mean of.
        decomposition: figures of base and residual by name; empty for a plain network.
        protocol: how they were taken.
        interval: figures of final +- remainder by name; empty for a network that is not calibrated.
    """

    metrics: dict[str, Number]
    decomposition: dict[str, Number]
    protocol: Protocol
    interval: dict[str, Number] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        return asdict(self)

    def check(self) -> None:
        """Raise a ValueError that names a figure which is missing, unknown, or such as no evaluation gives."""
        figures = self.metrics | self.decomposition | self.interval
        expected = {*DEPTH_METRICS, *COUNTED, *(HEALTHY if self.decomposition else ())}
        expected |= {name for name in LAYOUT if name in self.decomposition}
        expected |= {*(INTERVAL if self.interval else ()), *filter(BY_METRE.fullmatch, self.interval)}
        differing = sorted(expected ^ figures.keys())
        if differing:
            raise ValueError(f"there is {'no' if differing[0] in expected else 'a'} {differing[0]} in it")
        for name, value in figures.items():
            least = -1.0 if name == "residual_detail_corr" else -math.inf if name in SIGNED else 0.0
            most = 1.0 if name in AT_MOST_1 or BY_METRE.fullmatch(name) else math.inf
            unknown = math.isnan(value) and name in (*DEPTH_METRICS, *COUNTED)
            if unknown or math.isinf(value) or value < least or value > most:
                raise ValueError(f"a figure that cannot be, {name}={value:g}")
        if self.metrics["images"] < 1 or self.metrics["rmse"] > self.protocol.max_depth:
            raise ValueError("figures that cannot be: no images, or errors beyond the largest depth")

    def rows(self) -> list[tuple[str, str, str]]:
        """Return each figure as text: its name, its value with the unit, and which values are the better ones."""
        better = {name: "higher" if name.startswith("delta") else "lower" for name in DEPTH_METRICS}
        better |= HEALTHY | LAYOUT | INTERVAL
        figures = {name: self.metrics[name] for name in DEPTH_METRICS} | self.decomposition
        figures |= {name: value for name, value in self.interval.items() if name in INTERVAL}
        return [(name, with_unit(name, value), better[name]) for name, value in figures.items()]

    def table(self, title: str = "") -> Table:
        """Return the figures as a table."""
        return Table(title, ("figure", "value", "better"), self.rows(), right=(1,))

    def by_metre(self) -> str:
        """Return in one line how often final +- remainder holds at which predicted depth; empty without a remainder."""
        names = ((BY_METRE.fullmatch(key), share) for key, share in self.interval.items())
        found = [f"{name[2]} m {share:.0%}" for name, share in names if name and name[1]]
        return f"Within the remainder, by metre of predicted depth: {', '.join(found)}." if found else ""

    def protocol_line(self) -> str:
        """Return in one line how the figures were taken, and over how many images."""
        images, without = self.metrics["images"], self.metrics["images_without_depth"]
        left_out = f", {without:.0f} without a measured pixel left out" if without else ""
        return f"{images:.0f} images{left_out}: {self.protocol.sentence()}."

    def _repr_html_(self) -> str:
        """Return what a notebook shows where a cell ends with an evaluation."""
        lines = "<br>".join(escape(line) for line in (self.by_metre(), self.protocol_line()) if line)
        return f"{self.table().to_html()}<p>{lines}</p>"


def with_unit(name: str, value: float) -> str:
    """Return a figure's value as text, with its unit."""
    return f"{value:.4f}{' m' if name in IN_METRES else ''}"
