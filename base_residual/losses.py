"""The loss that tells base and residual apart, its low-pass, and the schedule of its weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import NamedTuple, get_args

import torch
from torch import Tensor, nn

from base_residual.config.schema import LossConfig, ReconKind
from base_residual.errors import ConfigError, ShapeError

Count = Callable[[Tensor], Tensor]
"""Turns the count of valid pixels here into the number that a mean divides by: with several processes, their mean."""


class LossWeights(NamedTuple):
    """Weights of the three terms."""

    recon: float
    base: float
    sparse: float


class LossTerms(NamedTuple):
    """The three terms of the loss before weighting, in metres, each a scalar tensor."""

    recon: Tensor
    base: Tensor
    sparse: Tensor


LOSS_NAMES = ("total", *LossTerms._fields)
"""Names of the loss and of its terms in records, figures and tables."""

# The first design's weights, fixed and adaptive.
FIXED_WEIGHTS = LossWeights(recon=1.0, base=0.8, sparse=0.2)
WARMUP_WEIGHTS = LossWeights(recon=0.5, base=1.5, sparse=0.3)
LATER_WEIGHTS = LossWeights(recon=1.0, base=0.5, sparse=0.3)


def low_pass(depth: Tensor, kernel: int, valid_mask: Tensor | None = None) -> Tensor:
    """Return the box mean over the valid pixels around each pixel.

    Invalid pixels are left out of the mean instead of entering it as zeros, and so is all beyond the border. An even
    kernel is centred by giving half the weight to the first and the last of kernel + 1 pixels. Where a window holds no
    valid pixel, the result is 0.

    Args:
        depth: (B, 1, H, W) in metres.
        kernel: side of the box, in pixels; 1 changes nothing.
        valid_mask: bool (B, 1, H, W); default: all valid.

    Returns:
        (B, 1, H, W) in metres.

    Raises:
        ConfigError: the kernel is no whole number of at least 1.
    """
    _require_whole("The low-pass kernel", kernel, 1)
    known, weight = depth, torch.ones_like(depth)
    if valid_mask is not None:
        known, weight = torch.where(valid_mask, depth, 0), valid_mask.to(depth.dtype)
    rows, columns = (_box(side, kernel, depth) for side in depth.shape[-2:])
    with torch.autocast(depth.device.type, enabled=False):  # half precision would shift far walls by decimetres
        total = rows @ known @ columns
        return total / (rows @ weight @ columns).clamp(min=1e-6)


def _require_whole(what: str, number: int, least: int) -> None:
    """Raise a ConfigError unless a number is a whole one of at least `least`."""
    if not isinstance(number, Integral) or number < least:
        raise ConfigError(f"{what} is {number}; expected is a whole number of at least {least}.")


def _require_weights(weights: LossWeights) -> None:
    """Raise a ConfigError unless all weights are finite and at least 0."""
    for name, weight in weights._asdict().items():
        if not 0 <= weight < math.inf:
            raise ConfigError(
                f"The weight of the term '{name}' is {weight}; expected is a finite number of at least 0."
            )


def _require_kind(kind: str) -> None:
    """Raise a ConfigError unless there is a reconstruction of that name."""
    if kind not in get_args(ReconKind):
        raise ConfigError(f"Unknown reconstruction '{kind}'. Known are {', '.join(get_args(ReconKind))}.")


def _box(side: int, kernel: int, like: Tensor) -> Tensor:
    """Return the symmetric (side, side) band matrix that sums over a centred box."""
    pixels = torch.arange(side, device=like.device)
    distance = (pixels[:, None] - pixels).abs()
    # For an odd kernel the outermost pixel lies at (kernel - 1) / 2, fully in; for an even one at kernel / 2, half in.
    return ((kernel + 1) / 2 - distance).clamp(0, 1).to(like.dtype)


def own_count(count: Tensor) -> Tensor:
    """Return the count itself: the mean is over the pixels of this process."""
    return count


def masked_mean(values: Tensor, mask: Tensor, count: Count = own_count) -> Tensor:
    """Return the mean of `values` over the pixels in the bool `mask` of the same shape; 0 where there are none."""
    return torch.where(mask, values, 0).sum() / count(mask.sum().float()).clamp(min=1e-6)


def reconstruction(
    final: Tensor, gt: Tensor, valid: Tensor, kind: ReconKind = "l1", count: Count = own_count
) -> Tensor:
    """Return the distance of a prediction from the ground truth over valid pixels, in metres.

    Args:
        final: the prediction (B, 1, H, W) in metres.
        gt: the ground truth (B, 1, H, W) in metres.
        valid: bool (B, 1, H, W).
        kind: `l1` for mean |final - gt|; `rmse` for each image's root mean square, then the mean over images, which is
            what evaluation measures and what a few pixels far off move most.
        count: what the mean divides by.

    Raises:
        ConfigError: there is no such kind.
    """
    _require_kind(kind)
    if kind == "l1":
        return masked_mean((final - gt).abs(), valid, count)
    squares = torch.where(valid, final - gt, 0).square().sum(dim=(1, 2, 3))
    pixels = valid.sum(dim=(1, 2, 3))
    # The root has no slope at 0: a millimetre under it keeps gradients finite.
    return masked_mean((squares / pixels.clamp(min=1) + 1e-6).sqrt(), pixels > 0, count)


def decomposition_terms(
    base: Tensor,
    residual: Tensor,
    final: Tensor,
    gt: Tensor,
    kernel: int,
    valid_mask: Tensor | None = None,
    recon: ReconKind = "l1",
    count: Count = own_count,
    empty_room: Tensor | None = None,
) -> LossTerms:
    """Return the three terms over valid pixels: the reconstruction, mean |base - layout| and mean |residual|.

    The layout is the empty room where it is known, and a low-pass of the ground truth elsewhere.

    Args:
        base: (B, 1, H, W) in metres.
        residual: (B, 1, H, W) in metres.
        final: their sum (B, 1, H, W) in metres.
        gt: the ground truth (B, 1, H, W) in metres.
        kernel: side of the low-pass box, in pixels.
        valid_mask: bool (B, 1, H, W); default: gt > 0.
        recon: kind of the reconstruction term; see `reconstruction`.
        count: what the means divide by.
        empty_room: the depth without furniture (B, 1, H, W) in metres, 0 where it is not known; default: nowhere.

    Raises:
        ShapeError: the shapes differ, or the mask is not bool.
        ConfigError: there is no such kind of reconstruction.
    """
    given = {"base": base, "residual": residual, "final": final, "empty_room": empty_room}
    for name, tensor in given.items():
        if tensor is not None and (tensor.shape != gt.shape or gt.ndim != 4):
            raise ShapeError(
                f"{name} has shape {tuple(tensor.shape)} and gt {tuple(gt.shape)}; expected are equal (B, 1, H, W)."
            )
    valid = gt > 0 if valid_mask is None else valid_mask
    if valid.shape != gt.shape or valid.dtype != torch.bool:
        raise ShapeError(
            f"valid_mask has shape {tuple(valid.shape)} and type {valid.dtype}; expected is bool {tuple(gt.shape)}."
        )
    layout = low_pass(gt, kernel, valid)
    if empty_room is not None:
        layout = torch.where(empty_room > 0, empty_room, layout)
    return LossTerms(
        recon=reconstruction(final, gt, valid, recon, count),
        base=masked_mean((base - layout).abs(), valid, count),
        sparse=masked_mean(residual.abs(), valid, count),
    )


def weighted_sum(weights: LossWeights, terms: LossTerms) -> Tensor:
    """Return the loss, a scalar: the sum of its three terms, each times its weight."""
    return weights.recon * terms.recon + weights.base * terms.base + weights.sparse * terms.sparse


def laplace(error: Tensor, scale: Tensor, valid: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of absolute errors under Laplace distributions, up to a constant.

    It is least where each scale is the mean absolute error that belongs to it (Kendall and Gal, NIPS 2017, with a
    Laplace distribution in the place of a normal one).

    Args:
        error: at least 0, any shape, in metres.
        scale: above 0, the same shape, in metres.
        valid: bool, the same shape; only these count.
    """
    return masked_mean(error / scale + scale.log(), valid)


class BaseResidualLoss(nn.Module):
    """Weighted sum of a reconstruction, a base and a sparsity term.

    The default weights are the first design's, under which the residual can stay idle; a run's settings have 1.0, 0.2
    and 0.02.

    Args:
        lambda_recon: weight of the reconstruction, mean |final - gt|.
        lambda_base: weight of mean |base - layout|; see `decomposition_terms`.
        lambda_sparse: weight of mean |residual|.
        lowpass_kernel: side of the low-pass box, in pixels; 16 is 6.25 % of a 256-pixel side.
        recon: `rmse` for another reconstruction term; see `reconstruction`.
        count: what the means divide by; see `Count`.

    Raises:
        ConfigError: a weight, the kernel or the kind of the reconstruction is none.
    """

    def __init__(
        self,
        lambda_recon: float = FIXED_WEIGHTS.recon,
        lambda_base: float = FIXED_WEIGHTS.base,
        lambda_sparse: float = FIXED_WEIGHTS.sparse,
        lowpass_kernel: int = 16,
        recon: ReconKind = "l1",
        count: Count = own_count,
    ) -> None:
        super().__init__()
        self.count = count
        self.lambdas = LossWeights(lambda_recon, lambda_base, lambda_sparse)
        _require_weights(self.lambdas)
        _require_whole("The low-pass kernel", lowpass_kernel, 1)
        _require_kind(recon)
        self.lowpass_kernel, self.recon = lowpass_kernel, recon

    @property
    def weights(self) -> LossWeights:
        """Return the weights of the current epoch."""
        return self.lambdas

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: fixed weights are the same in every epoch (from 1)."""

    def forward(
        self,
        base: Tensor,
        residual: Tensor,
        final: Tensor,
        gt: Tensor,
        valid_mask: Tensor | None = None,
        empty_room: Tensor | None = None,
    ) -> tuple[Tensor, LossTerms]:
        """Return the loss and its terms.

        Args:
            base: (B, 1, H, W) in metres.
            residual: (B, 1, H, W) in metres.
            final: their sum (B, 1, H, W) in metres.
            gt: the ground truth (B, 1, H, W) in metres.
            valid_mask: bool (B, 1, H, W); default: gt > 0.
            empty_room: the depth without furniture (B, 1, H, W) in metres, 0 where it is not known.

        Returns:
            The weighted sum, a scalar, and the unweighted terms.

        Raises:
            ShapeError: the shapes differ.
        """
        terms = decomposition_terms(
            base, residual, final, gt, self.lowpass_kernel, valid_mask, self.recon, self.count, empty_room
        )
        return weighted_sum(self.weights, terms), terms


class AdaptiveBaseResidualLoss(BaseResidualLoss):
    """The same loss with weights that first shape the base and then the sum.

    The default weights are the first design's, under which the residual can stay idle; `brdepth train --adaptive` takes
    them in proportion to a run's lambdas.

    Args:
        warmup_epochs: epochs (from 1) with the weights `warmup`.
        warmup: weights at the start.
        later: weights after the warm-up.
        lowpass_kernel: side of the low-pass box, in pixels.
        recon: kind of the reconstruction term.
        count: what the means divide by; see `Count`.

    Raises:
        ConfigError: as `BaseResidualLoss`, or the warm-up has no number of epochs.
    """

    def __init__(
        self,
        warmup_epochs: int = 20,
        warmup: LossWeights = WARMUP_WEIGHTS,
        later: LossWeights = LATER_WEIGHTS,
        lowpass_kernel: int = 16,
        recon: ReconKind = "l1",
        count: Count = own_count,
    ) -> None:
        super().__init__(*warmup, lowpass_kernel=lowpass_kernel, recon=recon, count=count)
        _require_weights(later)
        _require_whole("The warm-up's number of epochs", warmup_epochs, 0)
        self.warmup_epochs, self.warmup, self.later = warmup_epochs, warmup, later
        self.set_epoch(1)

    def set_epoch(self, epoch: int) -> None:
        """Set the weights for an epoch, counted from 1."""
        self.lambdas = self.warmup if epoch <= self.warmup_epochs else self.later


def in_proportion(weights: LossWeights, lambdas: LossWeights) -> LossWeights:
    """Return weights in proportion to other lambdas as the design's adaptive weights are to its fixed ones."""
    return LossWeights(*(w * (own / fixed) for w, own, fixed in zip(weights, lambdas, FIXED_WEIGHTS, strict=True)))


def make_loss(config: LossConfig, count: Count = own_count) -> BaseResidualLoss:
    """Make the loss that a configuration asks for; `count` is what its means divide by.

    Adaptive weights are the first design's in proportion to the lambdas. With its lambdas they are its own; with the
    package's the base term weighs a quarter of that and the sparsity a tenth, and the residual stays in use.
    """
    lambdas = LossWeights(config.lambda_recon, config.lambda_base, config.lambda_sparse)
    if config.adaptive:
        return AdaptiveBaseResidualLoss(
            config.warmup_epochs,
            warmup=in_proportion(WARMUP_WEIGHTS, lambdas),
            later=in_proportion(LATER_WEIGHTS, lambdas),
            lowpass_kernel=config.lowpass_kernel,
            recon=config.recon,
            count=count,
        )
    return BaseResidualLoss(*lambdas, config.lowpass_kernel, config.recon, count)


class PlainLoss(nn.Module):
    """The reconstruction over valid pixels alone, with the interface of `BaseResidualLoss`.

    Args:
        recon: its kind; see `losses.reconstruction`.
        count: what the mean divides by; see `losses.Count`.
    """

    weights = LossWeights(recon=1.0, base=0.0, sparse=0.0)

    def __init__(self, recon: ReconKind = "l1", count: Count = own_count) -> None:
        super().__init__()
        self.recon, self.count = recon, count

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the loss is the same in every epoch."""

    def forward(
        self,
        base: Tensor,
        residual: Tensor,
        final: Tensor,
        gt: Tensor,
        valid_mask: Tensor | None = None,
        empty_room: Tensor | None = None,
    ) -> tuple[Tensor, LossTerms]:
        """Return the loss and its terms; only the reconstruction is not 0."""
        valid = gt > 0 if valid_mask is None else valid_mask
        recon = reconstruction(final, gt, valid, self.recon, self.count)
        return recon, LossTerms(recon, torch.zeros_like(recon), torch.zeros_like(recon))
